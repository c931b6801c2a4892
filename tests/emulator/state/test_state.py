from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api.jobs import JobSpec, TaskRole
from airflow_bitahub.api.platform import JobStatus, ServingStatus
from airflow_bitahub.api.servings import ServingModel, ServingProtocol, ServingResource, ServingSpec
from airflow_bitahub.api.wire import Accelerator
from airflow_bitahub.emulator.state.errors import Conflict, InvalidRequest, NotFound
from airflow_bitahub.emulator.state.records import IllegalTransitionError, JobKey, ServingKey
from airflow_bitahub.emulator.state.serving_records import StoredServing
from airflow_bitahub.emulator.state.state import State
from airflow_bitahub.emulator.state.store import Store
from airflow_bitahub.exceptions import ConfigurationError

KEY = JobKey("bita-user", "j")
SERVING = ServingKey("inference", "s", "v1")


class Clock:
    seconds = 1000.25

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> State:
    state = State(clock)
    state.create_job("bita-user", job_spec())
    state.create_serving("inference", serving_spec())
    return state


def job_spec(name: str = "j", tasks: int = 1) -> JobSpec:
    return JobSpec(job_name=name, task_roles=[TaskRole(image="i", command="c", task_number=tasks)])


def serving_spec(**fields: Any) -> ServingSpec:
    model = ServingModel(path="/models/u/m", mount_path="/model")
    least = {"name": "s", "model": model, "image": "i", "protocols": [ServingProtocol()], "commands": ["c"]}
    return ServingSpec(**{**least, **fields})


def test_job_that_succeeds(state: State, clock: Clock) -> None:
    clock.seconds += 10
    state.launch_job(KEY)
    clock.seconds += 20
    state.finish_task(KEY, "task1", 0, 0)
    record = state.finish_job(KEY, 0, "")
    assert record.status is JobStatus.SUCCEEDED
    assert (record.created, record.launched, record.finished) == (1_000_250, 1_010_250, 1_030_250)
    assert record.exit_code == 0
    assert record.tasks[0].status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(("exit_code", "status"), [(0, JobStatus.SUCCEEDED), (3, JobStatus.FAILED)])
def test_exit_code_decides(state: State, exit_code: int, status: JobStatus) -> None:
    state.launch_job(KEY)
    assert state.finish_job(KEY, exit_code, "").status is status


def test_waiting_job_can_fail_without_exit_code(state: State) -> None:
    record = state.finish_job(KEY, None, "no environment")
    assert (record.status, record.exit_code, record.message) == (JobStatus.FAILED, None, "no environment")


@pytest.mark.parametrize("launched", [True, False])
def test_stopped_job_is_stopped_however_it_ended(state: State, launched: bool) -> None:
    if launched:
        state.launch_job(KEY)
    assert state.stop_job(KEY)
    assert state.job(KEY).status is JobStatus.STOPPING
    assert not state.stop_job(KEY)
    record = state.finish_job(KEY, 0, "")
    assert (record.status, record.exit_code) == (JobStatus.STOPPED, 214)
    assert not state.stop_job(KEY)


def test_moves_not_in_the_table_are_defects(state: State) -> None:
    state.launch_job(KEY)
    with pytest.raises(IllegalTransitionError, match="cannot go from"):
        state.launch_job(KEY)
    state.finish_job(KEY, 0, "")
    with pytest.raises(IllegalTransitionError):
        state.finish_job(KEY, 1, "")


def test_tasks_that_still_ran_are_stopped(state: State) -> None:
    key = state.create_job("bita-user", job_spec("two", tasks=2)).key
    state.launch_job(key)
    state.finish_task(key, "task1", 1, 7)
    record = state.finish_job(key, 7, "")
    assert [task.status for task in record.tasks] == [JobStatus.STOPPED, JobStatus.FAILED]
    assert record.tasks[1].exit_code == 7


def test_name_is_taken_until_the_record_is_removed(state: State) -> None:
    with pytest.raises(Conflict, match="'j'"):
        state.create_job("bita-user", job_spec())
    state.create_job("another", job_spec())
    state.remove_job(KEY)
    with pytest.raises(NotFound):
        state.job(KEY)
    state.create_job("bita-user", job_spec())


def test_newest_first(state: State) -> None:
    state.create_job("bita-user", job_spec("k"))
    state.create_job("another", job_spec("l"))
    assert [record.key.name for record in state.jobs("bita-user")] == ["k", "j"]
    assert len(state.jobs()) == 3


def test_ledger_remembers_the_removed(state: State) -> None:
    state.log_request(KEY, "POST", "/j", 200, reached=True)
    state.log_request(JobKey("bita-user", "never"), "GET", "/never", 404, reached=True)
    state.finish_job(KEY, None, "")
    state.remove_job(KEY)
    state.log_request(KEY, "GET", "/j", 404, reached=True)
    state.create_job("bita-user", job_spec())
    state.log_request(KEY, "POST", "/j", 200, reached=True)
    first, second = state.ledger()
    assert [asked.status for asked in first.requests] == [200, 404]
    assert first.removed
    assert first.record.status is JobStatus.FAILED
    assert [asked.method for asked in second.requests] == ["POST"]


def test_serving_lives_and_stops(state: State, clock: Clock) -> None:
    clock.seconds += 1.5
    state.launch_replica(SERVING, 0, 1)
    record = state.serving(SERVING)
    assert record.status is ServingStatus.RUNNING
    assert record.launched == 1_001_000  # floored to the second
    assert state.stop_serving(SERVING)
    assert not state.stop_serving(SERVING)
    record = state.finish_serving(SERVING, "ended")
    assert (record.status, record.finished) == (ServingStatus.STOPPED, 1_001_750)
    assert [(one.status, one.message) for one in record.replicas] == [(ServingStatus.STOPPED, "")]


def test_serving_that_ends_by_itself_failed(state: State) -> None:
    state.launch_replica(SERVING, 0, 1)
    state.fail_replica(SERVING, 0, 3, "exit code 3")
    assert state.serving(SERVING).status is ServingStatus.RUNNING, "until all of it is over"
    record = state.finish_serving(SERVING, "")
    assert record.status is ServingStatus.FAILED
    assert [(one.status, one.message) for one in record.replicas] == [(ServingStatus.FAILED, "exit code 3")]


def test_serving_that_cannot_run_failed_with_all_its_replicas(state: State) -> None:
    record = state.finish_serving(SERVING, "no environment")
    assert [(one.status, one.message) for one in record.replicas] == [(ServingStatus.FAILED, "no environment")]


def test_serving_runs_while_one_of_its_replicas_does(state: State) -> None:
    update(state, replicas=2)
    seen = []
    changes: list[Callable[[], None]] = [
        lambda: state.launch_replica(SERVING, 0, 1),
        lambda: state.launch_replica(SERVING, 1, 2),
        lambda: state.restart_replica(SERVING, 0, 1, 1, "again"),
        lambda: state.restart_replica(SERVING, 1, 1, 1, "again"),
        lambda: state.fail_replica(SERVING, 0, 1, "never again"),
        lambda: state.launch_replica(SERVING, 1, 2),
    ]
    for change in changes:
        change()
        seen.append(state.serving(SERVING).status.value)
    assert seen == ["RUNNING", "RUNNING", "RUNNING", "WAITING", "WAITING", "RUNNING"]


def shown(record: StoredServing) -> list[str]:
    """Return each replica as its number, its image and its status, which ends with a ``!`` once it listens."""
    return [f"{one.number}{one.spec.image} {one.status.value}{'!' * one.is_ready}" for one in record.replicas]


def settle(state: State, record: StoredServing) -> StoredServing:
    """Let the programs of all ending replicas end."""
    for replica in record.ending:
        state.remove_replica(SERVING, replica.number)
    return state.serving(SERVING)


def listen(state: State, number: int) -> None:
    state.launch_replica(SERVING, number, 1)
    state.set_replica_ready(SERVING, number)


def update(state: State, *, rolling: bool = True, **fields: Any) -> StoredServing:
    return state.update_serving(SERVING, serving_spec(**fields), rolling=rolling)


def test_scaling_keeps_the_replicas_that_run(state: State) -> None:
    update(state, replicas=3)
    state.fail_replica(SERVING, 0, 3, "exit code 3")
    state.launch_replica(SERVING, 2, 1)
    assert shown(update(state, replicas=1)) == ["1i STOPPING", "2i RUNNING"]
    assert shown(settle(state, update(state, replicas=2))) == ["2i RUNNING", "3i WAITING"]


def test_recreating_ends_all_old_replicas_and_late_news_of_them_are_ignored(state: State) -> None:
    listen(state, 0)
    record = update(state, rolling=False, image="new")
    assert (record.status, shown(record)) == (ServingStatus.WAITING, ["0i STOPPING!", "1new WAITING"])
    listen(state, 0)
    state.fail_replica(SERVING, 0, 143, "ended")
    assert state.serving(SERVING) == record
    assert shown(settle(state, record)) == ["1new WAITING"]


def test_rolling_ends_an_old_replica_whenever_a_new_one_listens(state: State) -> None:
    update(state, replicas=2)
    listen(state, 0)
    listen(state, 1)
    assert state.serving(SERVING).unsettled == []
    assert shown(update(state, replicas=2, image="new")) == ["0i RUNNING!", "1i RUNNING!", "2new WAITING"]
    state.launch_replica(SERVING, 2, 1)
    assert state.advance_serving(SERVING, rolling=True) is state.serving(SERVING), "it does not listen yet"
    listen(state, 2)
    step = ["0i RUNNING!", "1i STOPPING!", "2new RUNNING!", "3new WAITING"]
    assert shown(state.advance_serving(SERVING, rolling=True)) == step
    listen(state, 3)
    record = state.advance_serving(SERVING, rolling=True)
    assert [one.number for one in record.unsettled] == [0, 1]
    record = settle(state, record)
    assert (shown(record), record.unsettled) == (["2new RUNNING!", "3new RUNNING!"], [])


def test_old_replicas_go_on_if_new_ones_fail_and_stay_if_they_are_asked_for_again(state: State) -> None:
    listen(state, 0)
    launched = state.serving(SERVING).launched
    update(state, image="broken")
    state.fail_replica(SERVING, 1, 1, "broken")
    record = state.advance_serving(SERVING, rolling=True)
    assert (record.status, shown(record)) == (ServingStatus.RUNNING, ["0i RUNNING!", "1broken FAILED"])
    assert shown(update(state, image="broken")) == ["0i RUNNING!", "2broken WAITING"], "it is tried again"
    assert shown(update(state, image="good")) == ["0i RUNNING!", "2broken STOPPING", "3good WAITING"]
    record = update(state)
    assert shown(record) == ["0i RUNNING!", "2broken STOPPING", "3good STOPPING"]
    assert shown(settle(state, record)) == ["0i RUNNING!"]
    assert state.serving(SERVING).launched == launched
    update(state, image="broken")
    state.fail_replica(SERVING, 4, 1, "broken")
    state.fail_replica(SERVING, 0, 1, "dead")
    record = state.advance_serving(SERVING, rolling=True)
    assert (shown(record), record.has_failed) == (["4broken FAILED"], True)


def test_updating_what_is_over_does_not_start_it(state: State) -> None:
    state.finish_serving(SERVING, "")
    assert update(state, image="another").status is ServingStatus.FAILED
    assert state.start_serving(SERVING)
    assert not state.start_serving(SERVING)
    record = state.serving(SERVING)
    assert (record.status, record.finished, record.spec.image) == (ServingStatus.WAITING, 0, "another")


def test_usage_is_that_of_the_replicas_that_run(state: State, clock: Clock) -> None:
    def minutes(number: float) -> None:
        clock.seconds += number * 60

    def used() -> tuple[float, ...]:
        usage = state.serving(SERVING).usage_at(state.now())
        every = (usage.running, usage.cores, usage.memory_mb, *usage.accelerators.values())
        return tuple(one / 60_000 for one in every)

    minutes(10)
    assert used() == (0, 0, 0)
    state.launch_replica(SERVING, 0, 1)
    minutes(1)
    assert used() == (1, 2, 4096)
    update(state, replicas=2)
    minutes(1)
    assert used() == (2, 4, 8192), "the second does not run yet"
    state.launch_replica(SERVING, 1, 2)
    minutes(1)
    assert used() == (3, 8, 16384)
    gpu = ServingResource(cpu=1, memory_mb=1, acc_device=Accelerator(device_type="rtx-3090", requests=3))
    update(state, rolling=False, resource=gpu)
    state.launch_replica(SERVING, 2, 1)
    minutes(1)
    assert used() == (4, 9, 16385, 3)
    state.stop_serving(SERVING)
    state.finish_serving(SERVING, "")
    minutes(10)
    state.start_serving(SERVING)
    minutes(10)
    assert used() == (4, 9, 16385, 3)


def test_serving_token_is_not_in_its_repr(state: State) -> None:
    record = state.serving(SERVING)
    assert len(record.token) == 32
    assert record.token.isalnum()
    assert record.token not in repr(record)


def test_only_one_thread_gets_a_name() -> None:
    state, won = State(), []

    def create() -> None:
        with suppress(Conflict):
            won.append(state.create_job("n", job_spec()))

    threads = [threading.Thread(target=create) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_time_never_goes_back(state: State, clock: Clock) -> None:
    before = state.now()
    clock.seconds -= 3600
    assert state.now() == before
    clock.seconds += 5
    assert state.now() == before + 5000


def test_of_what_merely_looked_only_the_latest_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("airflow_bitahub.emulator.state.state._MAX_LOOKS", 3)
    store = Store(tmp_path / "records")
    kept = State()
    kept.restore(store)
    kept.create_job("bita-user", job_spec())
    for method in ("POST", "GET", "OPTIONS", "HEAD", "DELETE", "PUT", "GET"):
        kept.log_request(KEY, method, "/", 200, reached=True)
    later = State()
    later.restore(store)
    for each in (kept, later):
        [entry] = each.ledger()
        assert [request.method for request in entry.requests] == ["POST", "HEAD", "DELETE", "PUT", "GET"]
        assert entry.forgotten == 2


def test_a_record_that_cannot_be_read_is_skipped_reported_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "records")
    state = State()
    state.restore(store)
    state.create_job("bita-user", job_spec())
    store.add_job("{")
    store.put_serving("an odd serving", '{"token": "s3cret"}')
    later = State()
    later.restore(store)
    assert [job.key for job in later.jobs()] == [KEY]
    assert "job number 2" in caplog.text
    assert "an odd serving" in caplog.text
    assert "s3cret" not in caplog.text
    assert (len(store.jobs()), len(store.servings())) == (2, 1)


def test_a_record_that_could_not_be_read_again_is_refused(state: State) -> None:
    deep: list[Any] = []
    for _ in range(240):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="cannot record"):
        state.create_job("bita-user", job_spec("deep").model_copy(update={"capabilities": deep}))
    assert [job.key for job in state.jobs()] == [KEY]


@pytest.mark.parametrize("damage", ["garbage", "truncated", "folder", "foreign", "locked"])
def test_records_that_cannot_be_used_are_one_sentence(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_bitahub.emulator.state.store._OPENING_SECONDS", 0)
    file = tmp_path / "records"
    with closing(Store(file)) as store:
        for _ in range(100):
            store.add_job("x" * 1000)
    if damage == "garbage":
        file.write_bytes(b"garbage" * 1000)
    elif damage == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "foreign":
        file.unlink()
        with closing(sqlite3.connect(file)) as foreign:
            foreign.execute("CREATE TABLE jobs (title)")
    other = sqlite3.connect(file if damage == "locked" else ":memory:", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with closing(other), pytest.raises(ConfigurationError, match=r"cannot be used: .*another home.*move") as raised:
        Store(file)
    assert "\n" not in str(raised.value)
