"""One job per task instance, whatever happens to the task."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import XCom
from airflow.sdk import RetryAction
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_bitahub.api.jobs import JobSpec, TaskRole, get_job, stop_job, submit_job
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Faults, Match, Records
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.records import StoredJob
from airflow_bitahub.exceptions import (
    JobEvictedError,
    JobFailedError,
    JobQueueTimeoutError,
    JobTimeoutError,
    StateUnknownError,
    TransportError,
)
from airflow_bitahub.identity import marker_in
from airflow_bitahub.links import BitaHubJobLink
from airflow_bitahub.operators.failures import EVICTION_DELAY
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.records import read_submissions
from airflow_bitahub.triggers.job import BitaHubJobTrigger
from tests.conftest import (
    IMAGE,
    TASK_URL,
    Asked,
    Gateway,
    StateStore,
    Submitted,
    TaskRun,
    WorkerDied,
    events_of,
    restored,
    until,
)

pytestmark = pytest.mark.usefixtures("connection")

LASTING = "until [ -e /output/go ]; do sleep 0.05; done"  # until the test lets it go
_numbers = count(1)
OUTPUTS = FOLDERS.outputs("demo")


def job(**arguments: Any) -> BitaHubJobOperator:
    """A job as a fresh worker has it: each leg of a task instance gets an operator of its own."""
    defaults = {"task_id": "task", "project": "demo", "command": "true", "poll_interval": 0.02, "retries": 2}
    return BitaHubJobOperator(**{**defaults, "defer_after": 0, **arguments})


def let_go(platform: Emulator, record: StoredJob) -> None:
    (platform.storage / output_of(record).lstrip("/") / "go").touch()


def output_of(record: StoredJob) -> str:
    assert record.spec.output is not None
    return record.spec.output.mount_source.path


def die_after_submission(operator: BitaHubJobOperator, run: TaskRun) -> None:
    """Run the first leg of a task whose worker is killed as soon as the job is submitted."""
    context = run.context()

    def die(key: str, value: Any) -> None:
        raise WorkerDied(key, value)

    context["ti"].xcom_push = die
    with pytest.raises(WorkerDied):
        operator.execute(context)


def defer(operator: BitaHubJobOperator, run: TaskRun) -> BitaHubJobTrigger:
    """Run the first leg of a deferrable task and give the trigger it leaves behind."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(run.context())
    assert deferred.value.method_name == "execute_complete"
    trigger = deferred.value.trigger
    assert isinstance(trigger, BitaHubJobTrigger)
    if trigger.deadline is None:
        assert deferred.value.timeout is None
    else:
        assert deferred.value.timeout is not None, "the scheduler's, for the case that there is no triggerer"
        assert deferred.value.timeout.total_seconds() > trigger.deadline - time.time() + 60
    return trigger


class DyingStore(StateStore):
    """A task state store whose worker is killed at the n-th record it writes: before that is kept, or just after."""

    def __init__(self, kept: StateStore, dies_at: int, *, keeps_it: bool) -> None:
        super().__init__()
        self._kept, self._left, self._keeps_it = kept, dies_at, keeps_it

    def get(self, key: str, default: Any = None) -> Any:
        return self._kept.get(key, default)

    def set(self, key: str, value: Any, *, retention: Any) -> None:
        self._left -= 1
        if self._left > 0 or self._keeps_it:
            self._kept.set(key, value, retention=retention)
        if self._left == 0:
            raise WorkerDied(key)


def foreign_job(client: BitaHubClient, name: str) -> None:
    """Submit a lasting job as somebody else does."""
    client.send(submit_job(JobSpec(job_name=name, task_roles=[TaskRole(image=IMAGE, command="sleep 60")])))


# The result ----------------------------------------------------------------------------------------------------


def test_result_has_the_documented_entries(task_run: TaskRun, submitted: Submitted) -> None:
    result = job(command="echo hello > /output/hello").execute(task_run.context())
    assert result is not None
    assert list(result) == ["job_name", "status", "output_path", "queue_seconds", "run_seconds", "exit_code"]
    assert re.fullmatch(r"demo-20260101-[a-z2-7]{12}-1", result["job_name"])
    assert result["output_path"] == f"{OUTPUTS}/{result['job_name'].removeprefix('demo-')}"
    assert (result["status"], result["exit_code"]) == ("SUCCEEDED", 0)
    assert isinstance(result["queue_seconds"], float)
    assert isinstance(result["run_seconds"], float)
    assert json.loads(json.dumps(result)) == result
    assert submitted.only.key.name == result["job_name"]


def test_every_entry_of_the_result_is_pushed_under_its_own_name_unless_told_otherwise() -> None:
    assert job().multiple_outputs is True
    assert job(multiple_outputs=False).multiple_outputs is False


def test_job_writes_into_the_folder_the_result_names(task_run: TaskRun, platform: Emulator) -> None:
    result = job(command="echo hello > /output/hello").execute(task_run.context())
    assert result is not None
    assert (platform.storage / result["output_path"].lstrip("/") / "hello").read_text() == "hello\n"


def test_job_names_have_this_airflows_marker(submitted: Submitted, variables: dict[str, str]) -> None:
    for _ in range(2):
        job().execute(TaskRun().context())
    [marker] = {marker_in(stored.key.name) for stored in submitted()}
    assert variables == {f"bitahub_marker.{marker}": marker}


def test_run_without_a_logical_date_is_named_after_its_run_date(submitted: Submitted) -> None:
    job().execute(TaskRun(logical_date=None).context())
    assert submitted.only.key.name.startswith("demo-20260102-")


def test_link_to_the_job_is_pushed_before_it_is_waited_for(
    task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    context = task_run.context()

    def push(key: str, value: Any) -> None:
        task_run.xcoms[key] = (value, submitted.only.status.is_terminal)
        let_go(platform, submitted.only)

    context["ti"].xcom_push = push
    job(command=LASTING).execute(context)
    address, was_over = task_run.xcoms["bitahub_job_url"]
    assert address.startswith(platform.url)
    assert address.endswith(f"/console/jobs/bita-user/{submitted.only.key.name}")
    assert not was_over


def test_link_is_what_the_task_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, str] = {}

    def get_value(*, key: str, ti_key: object) -> str | None:
        assert ti_key == "the task instance's key"
        return pushed.get(key)

    monkeypatch.setattr(XCom, "get_value", get_value)
    key: Any = "the task instance's key"
    assert BitaHubJobLink().get_link(job(), ti_key=key) == ""
    pushed["bitahub_job_url"] = "https://platform/job"
    assert BitaHubJobLink().get_link(job(), ti_key=key) == "https://platform/job"
    assert job().operator_extra_links == (BitaHubJobLink(),)


# The submission ------------------------------------------------------------------------------------------------


def test_user_id_and_user_name_are_filled_in_everywhere(
    task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    for folder in ("/projects/{user_id}/other/code", "/models/{user_id}/dense/v1"):
        (platform.storage / FOLDERS.fill(folder).lstrip("/")).mkdir(parents=True, exist_ok=True)
    job(
        command="echo {user_id} {user_name} ${HOME} {project}",
        code_path="/projects/{user_id}/other/code",
        datasets=["MNIST", {"path": "/datasets/{user_id}/MNIST", "mount_path": "/data/{user_name}/again"}],
        models=["/models/{user_id}/dense/v1"],
    ).execute(task_run.context())
    spec = submitted.only.spec
    assert spec.task_roles[0].command == f"echo {FOLDERS.user_id} {FOLDERS.user_name} ${{HOME}} {{project}}"
    assert {mount.mount_source.mount_path: mount.mount_source.path for mount in spec.mounts} == {
        "/code": f"/projects/{FOLDERS.user_id}/other/code",
        "/output": output_of(submitted.only),
        f"/data/{FOLDERS.user_name}/MNIST": f"/datasets/{FOLDERS.user_id}/MNIST",
        f"/data/{FOLDERS.user_name}/again": f"/datasets/{FOLDERS.user_id}/MNIST",
        f"/model/{FOLDERS.user_name}/dense": f"/models/{FOLDERS.user_id}/dense/v1",
    }


def test_code_comes_from_the_projects_folder_or_not_at_all(submitted: Submitted) -> None:
    job().execute(TaskRun().context())
    job(code_path=None).execute(TaskRun().context())
    with_code, without = submitted()
    assert with_code.spec.code is not None
    assert with_code.spec.code.mount_source.path == FOLDERS.code("demo")
    assert without.spec.code is None


def test_numbers_may_come_as_the_text_a_template_makes_of_them(task_run: TaskRun, submitted: Submitted) -> None:
    job(cpu="3", memory_mb="2048", accelerator="gtx-1080-ti", accelerator_count="2").execute(task_run.context())
    [role] = submitted.only.spec.task_roles
    assert (role.cpu, role.memory_mb, role.shm_mb) == (3, 2048, 1024)
    assert role.acc_device is not None
    assert (role.acc_device.device_type, role.acc_device.requests) == ("gtx-1080-ti", 2)


def test_job_may_have_several_roles_that_differ_only_where_they_say_so(task_run: TaskRun, submitted: Submitted) -> None:
    job(
        command="echo $PAI_CURRENT_TASK_ROLE_NAME $PAI_TASK_INDEX >> /output/roles",
        cpu=3,
        task_roles=[{"task_role_name": "chief"}, {"task_role_name": "worker", "task_number": 2, "cpu": 1}],
    ).execute(task_run.context())
    chief, worker = submitted.only.spec.task_roles
    assert (chief.task_number, chief.cpu, worker.task_number, worker.cpu) == (1, 3, 2, 1)
    assert chief.command == worker.command
    assert sorted((task.role, task.index) for task in submitted.only.tasks) == [
        ("chief", 0),
        ("worker", 0),
        ("worker", 1),
    ]


def test_extra_body_is_sent_as_it_is(task_run: TaskRun, submitted: Submitted) -> None:
    job(extra_body={"kind": "something-new"}, platform_queue="night").execute(task_run.context())
    assert (submitted.only.spec.kind, submitted.only.spec.queue) == ("something-new", "night")


def test_submission_the_platform_refuses_fails_at_once_and_leaves_nothing_to_adopt(
    task_run: TaskRun, submitted: Submitted
) -> None:
    with pytest.raises(AirflowFailException, match="nonsense"):
        job(extra_body={"nonsense": 1}).execute(task_run.context())
    assert submitted() == []
    task_run.clear()
    result = job().execute(task_run.context())
    assert result is not None
    assert submitted.only.key.name == result["job_name"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"cpu": "many"}, "cpu must be a whole number"),
        ({"project": None}, "project is None"),
        ({"poll_interval": "soon"}, "poll_interval must be a timedelta or a number of seconds, not 'soon'"),
        ({"memory_mb": 1024, "shm_mb": 2048}, "shm_mb 2048 is more than memory_mb 1024"),
        ({"datasets": ["MNIST", "MNIST"]}, "two folders are mounted at /data/PengchengYang/MNIST"),
        ({"task_roles": [{"task_role_name": "a"}, {"task_role_name": "a"}]}, "two task roles have the same name"),
        ({"datasets": ["never-uploaded"], "preflight": False}, "dataset .*never-uploaded' does not exist"),
    ],
)
def test_wrong_argument_fails_at_once_and_submits_nothing(
    arguments: dict[str, Any], says: str, task_run: TaskRun, submitted: Submitted
) -> None:
    operator = job()
    for name, value in arguments.items():  # as templates may render them
        setattr(operator, name, value)
    with pytest.raises(AirflowFailException, match=says):
        operator.execute(task_run.context())
    assert submitted() == []


def test_missing_image_fails_at_once_and_submits_nothing(
    task_run: TaskRun, submitted: Submitted, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del connection["extra"]["default_image"]
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    with pytest.raises(AirflowFailException, match="Give an image, or set default_image"):
        job().execute(task_run.context())
    assert submitted() == []
    assert job(image=IMAGE).execute(task_run.context())


# Retries -------------------------------------------------------------------------------------------------------


def test_retry_adopts_the_running_job(task_run: TaskRun, submitted: Submitted, platform: Emulator) -> None:
    die_after_submission(job(command=LASTING), task_run)
    let_go(platform, submitted.only)
    task_run.retry()
    result = job(command=LASTING).execute(task_run.context())
    assert result is not None
    assert result["job_name"] == submitted.only.key.name
    assert submitted.requests("POST") == [submitted.only.key.name]
    assert submitted.only.task_url == TASK_URL
    assert "bitahub_job_url" in task_run.xcoms, "a new try starts without XComs, so the link is pushed again"


def test_retry_adopts_the_job_that_succeeded_meanwhile(task_run: TaskRun, submitted: Submitted) -> None:
    die_after_submission(job(), task_run)
    submitted.wait(submitted.only.key.name, "SUCCEEDED")
    task_run.retry()
    result = job().execute(task_run.context())
    assert result is not None
    assert result["job_name"] == submitted.only.key.name
    assert submitted.requests("POST") == [submitted.only.key.name]


@pytest.mark.usefixtures("shown_at_once")
@pytest.mark.parametrize(
    ("dies_at", "keeps_it", "were_there"),
    [
        pytest.param(1, False, 0, id="before the name is written down"),
        pytest.param(2, True, 0, id="between the record and the submission"),
        pytest.param(3, False, 1, id="between the submission and its confirmation"),
        pytest.param(3, True, 1, id="after the confirmation"),
    ],
)
def test_worker_killed_at_any_instant_leaves_one_job(
    dies_at: int, keeps_it: bool, were_there: int, task_run: TaskRun, submitted: Submitted
) -> None:
    context = task_run.context()
    context["task_state_store"] = DyingStore(task_run.store, dies_at, keeps_it=keeps_it)
    with pytest.raises(WorkerDied):
        job().execute(context)
    assert len(submitted()) == were_there
    task_run.retry()
    result = job().execute(task_run.context())
    assert result is not None
    assert result["job_name"] == submitted.only.key.name
    assert result["job_name"].endswith("-1")


def test_what_was_submitted_is_kept_for_people_without_its_secrets(task_run: TaskRun, submitted: Submitted) -> None:
    arguments = {
        "command": f"exit 3 # {'long ' * 2000}",
        "extra_body": {"capabilities": [{"api_token": "abc", "team": "vision"}]},
    }
    for _ in range(2):
        with pytest.raises(JobFailedError):
            job(**arguments).execute(task_run.context())
        task_run.retry()
    first, second = read_submissions(task_run.store["bitahub_submissions"])
    assert [first.job_name, second.job_name] == [each.key.name for each in submitted()]
    assert (first.attempt, second.attempt, second.try_number) == (1, 2, 2)
    assert first.body is None
    assert second.body is not None
    assert second.body["capabilities"] == [{"api_token": "***", "team": "vision"}]
    assert "characters left out" in second.body["taskRoles"][0]["command"]
    assert JobSpec.model_validate(second.body).job_name == second.job_name


def test_failed_job_is_told_with_its_exit_code_and_its_last_words(task_run: TaskRun, submitted: Submitted) -> None:
    with pytest.raises(JobFailedError, match=r"FAILED, exit code 3.*\. Its last line: the last word$") as failed:
        job(command="echo the first; echo the last word; exit 3").execute(task_run.context())
    assert failed.value.job_name == submitted.only.key.name


def test_retry_of_a_failed_job_is_a_new_attempt_with_an_output_folder_of_its_own(
    task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    with pytest.raises(JobFailedError):
        job(command="echo first > /output/try; exit 3").execute(task_run.context())
    task_run.retry()
    result = job(command="echo second > /output/try").execute(task_run.context())
    assert result is not None
    first, second = submitted()
    assert first.key.name.removesuffix("-1") == second.key.name.removesuffix("-2")
    assert result["job_name"] == second.key.name
    assert result["output_path"] == output_of(second)
    words = [(platform.storage / output_of(record).lstrip("/") / "try").read_text() for record in (first, second)]
    assert words == ["first\n", "second\n"]


def test_job_that_somebody_stopped_is_not_submitted_again(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient
) -> None:
    die_after_submission(job(command="sleep 60"), task_run)
    name = submitted.only.key.name
    client.send(stop_job(name))
    submitted.wait(name, "STOPPED")
    task_run.retry()
    with pytest.raises(AirflowFailException, match=f"{name}.* stopped by someone else.* resubmit_stopped"):
        job().execute(task_run.context())
    assert submitted.requests("POST") == [name]


def test_job_that_somebody_stops_while_it_is_waited_for_fails_the_task_at_once(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient
) -> None:
    context = task_run.context()
    context["ti"].xcom_push = lambda key, **_: (
        client.send(stop_job(submitted.only.key.name)) if key == "bitahub_job_url" else None
    )
    with pytest.raises(AirflowFailException, match="Someone stopped it on the platform"):
        job(command="sleep 60").execute(context)


def test_job_that_somebody_stopped_is_submitted_again_where_that_is_wished_for(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient
) -> None:
    context = task_run.context()
    context["ti"].xcom_push = lambda key, **_: (
        client.send(stop_job(submitted.only.key.name)) if key == "bitahub_job_url" else None
    )
    with pytest.raises(JobFailedError, match="STOPPED"):
        job(command="sleep 60", resubmit_stopped=True).execute(context)
    task_run.retry()
    assert job(resubmit_stopped=True).execute(task_run.context())
    assert [record.key.name[-2:] for record in submitted()] == ["-1", "-2"]


@pytest.mark.usefixtures("shown_at_once")
def test_job_whose_record_the_platform_removed_is_lost_and_not_submitted_again(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient
) -> None:
    die_after_submission(job(), task_run)
    name = submitted.only.key.name
    submitted.wait(name)
    client.send(stop_job(name))
    task_run.retry()
    with pytest.raises(AirflowFailException, match=f"had job '{name}' and no longer has it.* Clear the task"):
        job().execute(task_run.context())
    assert submitted.requests("POST") == [name]


# Clearing, mapping, several runs -------------------------------------------------------------------------------


def test_clearing_stops_the_old_job_and_runs_a_new_one(task_run: TaskRun, submitted: Submitted) -> None:
    die_after_submission(job(command="sleep 60"), task_run)
    old = submitted.only
    task_run.clear()
    result = job().execute(task_run.context())
    assert result is not None
    assert submitted.status(old.key.name).value == "STOPPED"
    _, new = submitted()
    assert result["job_name"] == new.key.name
    assert new.key.name.endswith("-1"), "a new generation begins with its first attempt"
    assert new.key.name != old.key.name
    assert output_of(new) != output_of(old)


def test_clearing_a_task_that_succeeded_runs_it_again(task_run: TaskRun, submitted: Submitted) -> None:
    first = job().execute(task_run.context())
    task_run.clear()
    second = job().execute(task_run.context())
    assert first is not None
    assert second is not None
    assert first["output_path"] != second["output_path"]
    assert len(submitted()) == 2
    assert submitted.requests("DELETE") == [], "stopping a job that is over may erase its record"


def test_clearing_a_neighbour_does_not_start_a_retry_afresh(task_run: TaskRun, submitted: Submitted) -> None:
    die_after_submission(job(), task_run)
    task_run.retry()
    task_run.clear_number += 1
    assert job().execute(task_run.context())
    assert submitted.requests("POST") == [submitted.only.key.name]


def test_mapped_task_instances_have_a_job_each(submitted: Submitted) -> None:
    for index in range(3):
        job().execute(TaskRun(run_id="one run", map_index=index).context())
    assert len({record.key.name for record in submitted()}) == 3
    assert len({output_of(record) for record in submitted()}) == 3


# Names given by the DAG's author -------------------------------------------------------------------------------


@pytest.fixture
def given() -> str:
    """A job name of the test's own."""
    return f"given-{next(_numbers)}"


def test_given_name_and_version_are_used_as_they_are_then_counted_on(
    task_run: TaskRun, submitted: Submitted, given: str
) -> None:
    names = {"job_name": given, "output_version": given}
    with pytest.raises(JobFailedError):
        job(command="exit 1", **names).execute(task_run.context())
    task_run.retry()
    assert job(**names).execute(task_run.context())
    task_run.clear()
    assert job(**names).execute(task_run.context())
    assert [record.key.name for record in submitted()] == [given, f"{given}-2", f"{given}-3"]
    assert [output_of(record) for record in submitted()] == [
        f"{OUTPUTS}/{given}",
        f"{OUTPUTS}/{given}-2",
        f"{OUTPUTS}/{given}-3",
    ]


def test_retry_adopts_a_job_of_a_given_name(task_run: TaskRun, submitted: Submitted, given: str) -> None:
    die_after_submission(job(job_name=given), task_run)
    task_run.retry()
    assert job(job_name=given).execute(task_run.context())
    assert submitted.requests("POST") == [given]


def test_somebody_elses_job_of_the_given_name_is_refused_and_left_alone(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient, given: str
) -> None:
    foreign_job(client, given)
    submitted.wait(given, "RUNNING")
    for attempt in range(2):
        if attempt:
            task_run.clear()
        with pytest.raises(AirflowFailException, match=f"'{given}' exists, and this task did not submit it"):
            job(job_name=given).execute(task_run.context())
    assert submitted.requests("POST") == [given]
    assert submitted.requests("DELETE") == []
    assert submitted.status(given).value == "RUNNING"


def test_given_name_that_somebody_takes_just_before_the_submission_is_refused_and_left_alone(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient, given: str
) -> None:
    class Race(StateStore):
        def set(self, key: str, value: Any, *, retention: Any) -> None:
            if not self:
                foreign_job(client, given)
            super().set(key, value, retention=retention)

    task_run.store = Race()
    with pytest.raises(AirflowFailException, match="this task did not submit it"):
        job(job_name=given).execute(task_run.context())
    assert submitted.requests("DELETE") == []
    assert not submitted.only.status.is_terminal
    task_run.clear()
    with pytest.raises(AirflowFailException, match="this task did not submit it"):
        job(job_name=given).execute(task_run.context())
    assert submitted.requests("DELETE") == []


# Waiting in the triggerer --------------------------------------------------------------------------------------


def test_deferred_task_leaves_a_trigger_that_holds_no_secret_and_survives_storage(
    task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    trigger = defer(job(command=LASTING, deferrable=True, cancel_on_kill=False), task_run)
    _, arguments = trigger.serialize()
    assert arguments["job_name"] == submitted.only.key.name
    assert arguments["cancel_on_kill"] is False
    assert restored(trigger).serialize() == trigger.serialize()
    assert platform.token not in json.dumps([arguments, task_run.store, task_run.xcoms])


def test_deferred_task_gives_the_same_result(task_run: TaskRun, submitted: Submitted, platform: Emulator) -> None:
    trigger = defer(job(command=LASTING, deferrable=True), task_run)
    let_go(platform, submitted.only)
    [event] = events_of(trigger)
    result: Any = job(deferrable=True).execute_complete(task_run.context(), json.loads(json.dumps(event)))
    assert list(result) == ["job_name", "status", "output_path", "queue_seconds", "run_seconds", "exit_code"]
    assert (result["job_name"], result["output_path"]) == (submitted.only.key.name, output_of(submitted.only))


@pytest.mark.parametrize(("waited", "is_late"), [(30, False), (120, True)])
def test_task_that_no_triggerer_watched_for_long_says_so(
    waited: float,
    is_late: bool,
    task_run: TaskRun,
    submitted: Submitted,
    platform: Emulator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trigger = defer(job(command=LASTING, deferrable=True), task_run)
    trigger.earliest_report = time.time() - waited
    let_go(platform, submitted.only)
    [event] = events_of(restored(trigger))
    job(deferrable=True).execute_complete(task_run.context(), event)
    log = capsys.readouterr().out
    assert ("A triggerer began to watch this task only" in log) is is_late
    assert ("[triggerer] capacity" in log) is is_late


def test_adopted_job_that_is_over_is_not_deferred_for(task_run: TaskRun, submitted: Submitted) -> None:
    die_after_submission(job(), task_run)
    submitted.wait(submitted.only.key.name)
    task_run.retry()
    assert job(deferrable=True).execute(task_run.context())


@pytest.mark.parametrize(("command", "error"), [("sleep 0.3", None), ("sleep 0.3; exit 3", JobFailedError)])
def test_short_job_is_waited_for_on_the_worker(command: str, error: type[Exception] | None, task_run: TaskRun) -> None:
    operator = job(command=command, deferrable=True, defer_after=timedelta(hours=1), poll_interval=10)
    with pytest.raises(error) if error else nullcontext():
        assert operator.execute(task_run.context())


@pytest.mark.usefixtures("busy")
def test_job_that_waits_for_its_turn_is_left_to_the_triggerer(task_run: TaskRun) -> None:
    limit = {"execution_timeout": timedelta(hours=1), "queue_timeout": timedelta(hours=2)}
    trigger = defer(job(command="sleep 60", deferrable=True, defer_after=3600, **limit), task_run)
    assert trigger.deadline is not None
    assert trigger.queue_deadline == pytest.approx(trigger.deadline + 3600)


def test_job_that_takes_longer_is_left_to_the_triggerer(task_run: TaskRun, platform: Emulator) -> None:
    operator = job(command=LASTING, deferrable=True, defer_after=0.5)
    trigger = defer(operator, task_run)
    let_go(platform, platform.state.ledger()[-1].record)
    [event] = events_of(trigger)
    result: Any = job().execute_complete(task_run.context(), event)
    assert result["status"] == "SUCCEEDED"


def test_deferred_job_that_failed_is_told_with_its_last_words_and_retried_as_a_new_attempt(
    task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    trigger = defer(job(command=f"{LASTING}; echo the last word; exit 3", deferrable=True), task_run)
    let_go(platform, submitted.only)
    [event] = events_of(trigger)
    with pytest.raises(JobFailedError, match=r"(?s)exit code 3.*the last word"):
        job(deferrable=True).execute_complete(task_run.context(), event)
    task_run.retry()
    assert job().execute(task_run.context())
    assert [record.key.name[-2:] for record in submitted()] == ["-1", "-2"]


def test_deferred_job_that_somebody_stopped_fails_at_once(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient
) -> None:
    trigger = defer(job(command="sleep 60", deferrable=True), task_run)
    client.send(stop_job(submitted.only.key.name))
    [event] = events_of(trigger)
    with pytest.raises(AirflowFailException, match="Someone stopped it on the platform"):
        job(deferrable=True).execute_complete(task_run.context(), event)


@pytest.mark.usefixtures("submitted")
def test_deadline_is_the_start_of_the_task_plus_its_execution_timeout(task_run: TaskRun) -> None:
    context = task_run.context()
    started = datetime.fromisoformat("2030-01-01T00:00:00+00:00")
    context["ti"].start_date = started
    limited = job(command="sleep 60", deferrable=True, execution_timeout=timedelta(hours=2))
    with pytest.raises(TaskDeferred) as deferred:
        limited.execute(context)
    trigger: Any = deferred.value.trigger
    assert trigger.deadline == started.timestamp() + 7200
    task_run.retry()
    assert defer(job(command="sleep 60", deferrable=True), task_run).deadline is None


def test_deferred_job_that_outlives_its_deadline_is_stopped_and_a_retry_is_a_new_attempt(
    task_run: TaskRun, submitted: Submitted
) -> None:
    limit = {"execution_timeout": timedelta(seconds=0.1), "deferrable": True}
    [event] = events_of(defer(job(command="sleep 60", **limit), task_run))
    assert event["outcome"] == "timeout"
    told = r"did not finish in time.*is RUNNING.*execution_timeout=0:00:00\.10* from the .* the job was stopped"
    with pytest.raises(JobTimeoutError, match=told) as timeout:
        job(**limit).execute_complete(task_run.context(), event)
    assert timeout.value.job_name == submitted.only.key.name
    assert submitted.only.status.value == "STOPPED"
    assert task_run.store["bitahub_job"]["stopped"] is True
    task_run.retry()
    assert job().execute(task_run.context())
    assert [record.key.name[-2:] for record in submitted()] == ["-1", "-2"]


@pytest.mark.usefixtures("submitted")
def test_deferred_job_that_is_lost_fails_at_once(task_run: TaskRun) -> None:
    defer(job(command="sleep 60", deferrable=True), task_run)
    with pytest.raises(AirflowFailException, match="no longer has it"):
        job().execute_complete(task_run.context(), {"outcome": "lost", "message": "The platform no longer has it."})


def test_trouble_while_waiting_leaves_the_job_to_the_next_try(
    task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    defer(job(command=LASTING, deferrable=True), task_run)
    with pytest.raises(TransportError, match=r"The state of job .* is unknown: no route"):
        job().execute_complete(task_run.context(), {"outcome": "error", "message": "no route"})
    assert not submitted.only.status.is_terminal
    let_go(platform, submitted.only)
    task_run.retry()
    assert job().execute(task_run.context())
    assert submitted.requests("POST") == [submitted.only.key.name]


def resume_by_report(task_run: TaskRun, *, is_final: bool = False) -> None:
    event: Any = {"outcome": "error", "message": "no route", "is_final": is_final}
    job().execute_complete(task_run.context(), event)


def resume_by_failed_trigger(task_run: TaskRun) -> None:
    failure = {"error": TriggerFailureReason.TRIGGER_FAILURE, "traceback": ["no such module"]}
    job().resume_execution(TRIGGER_FAIL_REPR, failure, task_run.context())


@pytest.mark.parametrize(
    "resume", [resume_by_report, partial(resume_by_report, is_final=True), resume_by_failed_trigger]
)
def test_unknown_state_stops_nothing_on_the_last_try_either(
    resume: Callable[[TaskRun], None], task_run: TaskRun, submitted: Submitted
) -> None:
    task_run.retry()
    task_run.retry()
    defer(job(command="sleep 60", deferrable=True), task_run)
    with pytest.raises(StateUnknownError, match=r"was left alone, and may be running\. 'airflow-bitahub jobs list'"):
        resume(task_run)
    assert submitted.only.status.value == "RUNNING"


ODD_ANSWERS = {
    "gateway": [Answer(status=status, body="x") for status in (400, 401, 403, 404, 408, 409, 423, 425, 429, 499)],
    "envelope": [Answer(body={"status": {"code": code, "msg": "odd"}}) for code in (400, 401, 403, 409, 4711)],
    "form": [Answer(body="[" * 5000), Answer(body={"data": {"state": ["RUNNING"]}}), Answer(body="{")],
}


@pytest.mark.parametrize("way", ["worker", "triggerer", "first query of a retry"])
@pytest.mark.parametrize("answers", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_odd_answers_to_queries_of_a_healthy_job_cost_nothing(
    answers: list[Answer], way: str, task_run: TaskRun, submitted: Submitted, platform: Emulator, faults: Faults
) -> None:
    command = f"a job with odd answers, seen by a {way}"  # the script is for it alone
    platform.scripts.add(ScriptedJob(command=command, run_seconds=1.5 if way == "worker" else 0.5))
    skip = 2 if way == "worker" else 0
    odd = [
        Fault(match=Match(method="GET", path="*/jobs/*", skip=skip, times=1), effect=Effect(before=answer))
        for answer in answers
    ]
    if way == "worker":
        for fault in odd:
            faults.add(fault)
        assert job(command=command).execute(task_run.context())
    elif way == "triggerer":
        trigger = defer(job(command=command, deferrable=True), task_run)
        for fault in odd[::2]:  # after each, the watcher pauses for longer
            faults.add(fault)
        [event] = events_of(trigger)
        assert job().execute_complete(task_run.context(), event)
    else:
        die_after_submission(job(command=command), task_run)
        for fault in odd[:2]:
            faults.add(fault)
        task_run.retry()
        assert job(command=command).execute(task_run.context())
    assert [armed.applied for armed in faults] == [1] * len(list(faults))
    assert submitted.only.status.value == "SUCCEEDED"


def test_submission_that_took_effect_is_found_whatever_a_gateway_answered(
    task_run: TaskRun, submitted: Submitted, faults: Faults
) -> None:
    gone = Answer(status=404, body={"status": {"code": 404, "msg": "not yet"}})
    faults.add(Fault(match=Match(method="POST", times=1), effect=Effect(after=Answer(status=408, body="x"))))
    faults.add(Fault(match=Match(method="GET", path="*/jobs/*", times=1), effect=Effect(before=gone)))
    assert job().execute(task_run.context())
    assert submitted.requests("POST") == [submitted.only.key.name]


def test_connection_that_cannot_be_looked_up_stops_nothing(
    task_run: TaskRun, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_after_submission(job(command="sleep 60"), task_run)
    task_run.retry()
    task_run.retry()
    monkeypatch.delenv("AIRFLOW_CONN_BITAHUB_DEFAULT")
    with pytest.raises(StateUnknownError, match=r"'bitahub_default' could not be looked up.*was left alone"):
        job(command="sleep 60").execute(task_run.context())
    assert submitted.only.status.value == "RUNNING"


def test_resuming_without_a_report_or_a_record_says_so(task_run: TaskRun) -> None:
    with pytest.raises(AirflowFailException, match="without its job's record"):
        job().execute_complete(task_run.context(), {"outcome": "lost", "message": ""})
    job().execute(task_run.context())
    with pytest.raises(AirflowFailException, match="trigger's report"):
        job().execute_complete(task_run.context())


# Not waiting, timing out, being killed -------------------------------------------------------------------------


@pytest.mark.parametrize("deferrable", [False, True])
def test_task_that_does_not_wait_succeeds_with_the_submission(
    deferrable: bool, task_run: TaskRun, submitted: Submitted
) -> None:
    result = job(command="sleep 60", wait_for_completion=False, deferrable=deferrable).execute(task_run.context())
    assert result is not None
    assert result["job_name"] == submitted.only.key.name
    assert result["output_path"] == output_of(submitted.only)
    assert result["status"] in ("WAITING", "RUNNING")
    assert result["exit_code"] is None
    assert not submitted.only.status.is_terminal


def test_execution_timeout_stops_the_job_and_a_retry_is_a_new_attempt(
    task_run: TaskRun, submitted: Submitted, time_runs_out: Callable[..., object]
) -> None:
    context = task_run.context()
    context["ti"].xcom_push = time_runs_out  # which is called between submitting and waiting
    told = r"did not finish in time. When last seen, job .* is (WAITING|RUNNING).*execution_timeout=0:00:00.1.*stopped"
    with pytest.raises(JobTimeoutError, match=told):
        job(command="sleep 60", execution_timeout=timedelta(seconds=0.1)).execute(context)
    assert submitted.only.status.value == "STOPPED"
    assert task_run.store["bitahub_job"]["stopped"] is True
    task_run.retry()
    assert job().execute(task_run.context())
    assert [record.key.name[-2:] for record in submitted()] == ["-1", "-2"]


def test_airflows_alarm_does_not_keep_a_job_from_being_stopped(
    task_run: TaskRun, submitted: Submitted, time_runs_out: Callable[..., object], faults: Faults
) -> None:
    limit = {"execution_timeout": timedelta(seconds=0.1), "deferrable": True}
    [event] = events_of(defer(job(command="sleep 60", **limit), task_run))
    # The alarm of the leg that takes up the report goes off while it waits for the platform.
    faults.add(Fault(match=Match(method="GET", times=1), effect=Effect(delay=0.5)))
    time_runs_out()
    with pytest.raises(JobTimeoutError, match="the job was stopped"):
        job(**limit).execute_complete(task_run.context(), event)
    assert submitted.only.status.value == "STOPPED"


@pytest.fixture
def faults(platform: Emulator) -> Faults:
    return platform.faults


@pytest.fixture
def busy(faults: Faults) -> None:
    """Has the platform say that all jobs still wait for their turn."""
    patch: dict[str, Any] = {
        "state": "WAITING",
        "launchedTime": 0,
        "jobStatus": {"state": "WAITING", "appLaunchedTime": 0},
    }
    effect = Effect(records=Records(where={"state": "RUNNING"}, patch=patch))
    faults.add(Fault(match=Match(method="GET"), effect=effect))


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("queue_timeout", [timedelta(seconds=0.2), 0.2], ids=["timedelta", "seconds"])
@pytest.mark.parametrize("deferrable", [False, True])
def test_job_that_waits_too_long_for_its_turn_is_stopped(
    deferrable: bool, queue_timeout: timedelta | float, task_run: TaskRun, submitted: Submitted
) -> None:
    limits: dict[str, Any] = {"queue_timeout": queue_timeout, "execution_timeout": timedelta(hours=1)}
    operator = job(command="sleep 60", deferrable=deferrable, **limits)
    told = r"did not start in time. When last seen, .* is WAITING.* The limit is queue_timeout=0:00:00.2"
    if deferrable:
        [event] = events_of(defer(operator, task_run))
        assert event["outcome"] == "queue_timeout"
        with pytest.raises(JobQueueTimeoutError, match=told):
            job(**limits).execute_complete(task_run.context(), event)
    else:
        with pytest.raises(JobQueueTimeoutError, match=told):
            operator.execute(task_run.context())
    assert submitted.only.status.value == "STOPPED"
    task_run.retry()
    assert job().execute(task_run.context())
    assert [record.key.name[-2:] for record in submitted()] == ["-1", "-2"]


@pytest.mark.parametrize("deferrable", [False, True])
def test_job_that_has_begun_is_not_held_to_the_queues_limit(
    deferrable: bool, task_run: TaskRun, submitted: Submitted
) -> None:
    operator = job(command="sleep 0.5", deferrable=deferrable, queue_timeout=timedelta(seconds=0.2))
    if deferrable:
        [event] = events_of(defer(operator, task_run))
        result: Any = job().execute_complete(task_run.context(), event)
    else:
        result = operator.execute(task_run.context())
    assert result["job_name"] == submitted.only.key.name


QUEUE_TIMEOUT: Any = {"outcome": "queue_timeout", "message": "It did not start in time."}  # the trigger's report


def test_job_that_has_begun_since_its_triggers_last_query_is_waited_for(
    task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    # The platform's list of jobs, from which the trigger has its knowledge, may be late.
    limit = {"queue_timeout": timedelta(seconds=0.2), "deferrable": True}
    defer(job(command=LASTING, **limit), task_run)
    submitted.wait(submitted.only.key.name, "RUNNING")
    with pytest.raises(TaskDeferred) as deferred:
        job(**limit).execute_complete(task_run.context(), QUEUE_TIMEOUT)
    trigger: Any = deferred.value.trigger
    assert trigger.queue_deadline is None, "a late list must not report the same again"
    let_go(platform, submitted.only)
    [event] = events_of(trigger)
    result: Any = job(**limit).execute_complete(task_run.context(), event)
    assert result["status"] == "SUCCEEDED"


@pytest.mark.usefixtures("busy")
def test_job_that_is_neither_queued_nor_begun_at_the_queues_limit_keeps_it(
    task_run: TaskRun, submitted: Submitted, faults: Faults
) -> None:
    limit = {"queue_timeout": timedelta(hours=1), "deferrable": True}
    trigger = defer(job(command="sleep 60", **limit), task_run)
    patch: dict[str, Any] = {
        "state": "HIBERNATING",
        "launchedTime": 0,
        "jobStatus": {"state": "HIBERNATING", "appLaunchedTime": 0},
    }
    faults.clear()
    faults.add(Fault(match=Match(method="GET"), effect=Effect(records=Records(patch=patch))))
    with pytest.raises(TaskDeferred) as deferred:
        job(**limit).execute_complete(task_run.context(), QUEUE_TIMEOUT)
    again: Any = deferred.value.trigger
    assert again.queue_deadline == pytest.approx(trigger.queue_deadline, abs=60)
    assert submitted.requests("DELETE") == []


@pytest.mark.parametrize("command", ["true", "exit 3"])
def test_job_that_has_ended_since_its_triggers_last_query_is_not_late(
    command: str, task_run: TaskRun, submitted: Submitted
) -> None:
    defer(job(command=f"sleep 0.2; {command}", deferrable=True), task_run)
    submitted.wait(submitted.only.key.name)
    with pytest.raises(JobFailedError) if command != "true" else nullcontext():
        assert job().execute_complete(task_run.context(), QUEUE_TIMEOUT)


@pytest.mark.parametrize(
    "effect",
    [Effect(before=Answer(status=403, body="x")), Effect(records=Records(hide_for=1e9))],
    ids=["gateway", "not found"],
)
def test_job_that_one_query_misses_at_the_queues_limit_is_queried_again(
    effect: Effect, task_run: TaskRun, submitted: Submitted, faults: Faults
) -> None:
    defer(job(command=LASTING, deferrable=True), task_run)
    submitted.wait(submitted.only.key.name, "RUNNING")
    faults.add(Fault(match=Match(method="GET", times=1), effect=effect))
    with pytest.raises(TaskDeferred):
        job(deferrable=True).execute_complete(task_run.context(), QUEUE_TIMEOUT)
    assert submitted.requests("DELETE") == []


def test_job_that_cannot_be_queried_at_the_queues_limit_is_left_alone(
    task_run: TaskRun, submitted: Submitted, platform: Emulator, faults: Faults
) -> None:
    defer(job(command=LASTING, deferrable=True), task_run)
    faults.add(Fault(match=Match(method="GET"), effect=Effect(before=Answer(status=403, body="x"))))
    with pytest.raises(StateUnknownError, match=r"did not start in time.*unknown.*The next try queries it again"):
        job(unreachable_timeout=1).execute_complete(task_run.context(), QUEUE_TIMEOUT)
    faults.clear()
    assert submitted.requests("DELETE") == []
    let_go(platform, submitted.only)
    task_run.retry()
    assert job().execute(task_run.context())
    assert submitted.requests("POST") == [submitted.only.key.name]


def test_retry_that_adopts_a_job_that_runs_holds_it_to_no_queues_limit(task_run: TaskRun, submitted: Submitted) -> None:
    die_after_submission(job(command="sleep 60"), task_run)
    submitted.wait(submitted.only.key.name, "RUNNING")
    task_run.retry()
    trigger = defer(job(command="sleep 60", deferrable=True, queue_timeout=3600), task_run)
    assert trigger.queue_deadline is None


def test_platform_that_is_unreachable_for_too_long_fails_the_try_and_leaves_the_job_to_the_next(
    task_run: TaskRun, submitted: Submitted, platform: Emulator, faults: Faults
) -> None:
    context = task_run.context()
    context["ti"].xcom_push = lambda **_: faults.add(Fault(match=Match(), effect=Effect(before=Answer(status=503))))
    with pytest.raises(TransportError, match=r"could not be queried for 0 s .*503"):
        job(command=LASTING, unreachable_timeout=timedelta(0)).execute(context)
    faults.clear()
    assert not submitted.only.status.is_terminal
    let_go(platform, submitted.only)
    task_run.retry()
    assert job().execute(task_run.context())
    assert submitted.requests("POST") == [submitted.only.key.name]


@pytest.mark.parametrize("limit", [timedelta(hours=2), 7200], ids=["timedelta", "seconds"])
def test_trigger_is_told_how_long_the_platform_may_be_unreachable(
    limit: timedelta | float, task_run: TaskRun, submitted: Submitted
) -> None:
    assert (
        defer(job(command="sleep 60", deferrable=True, unreachable_timeout=limit), task_run).unreachable_timeout == 7200
    )
    assert submitted.only.status.value == "RUNNING"


def test_job_that_is_denied_for_a_moment_is_stopped_at_its_time_limit(
    task_run: TaskRun, submitted: Submitted, faults: Faults
) -> None:
    defer(job(command="sleep 60", deferrable=True), task_run)
    # The first is asked whether the job has ended just in time.
    faults.add(Fault(match=Match(method="GET", times=2), effect=Effect(records=Records(hide_for=1e9))))
    with pytest.raises(JobTimeoutError, match="the job was stopped"):
        job().execute_complete(task_run.context(), {"outcome": "timeout", "message": "too late"})
    assert submitted.only.status.value == "STOPPED"


@pytest.mark.usefixtures("shown_at_once")
def test_job_that_is_gone_at_its_time_limit_is_not_said_to_be_stopped(
    task_run: TaskRun, submitted: Submitted, faults: Faults
) -> None:
    defer(job(command="sleep 60", deferrable=True), task_run)
    faults.add(Fault(match=Match(method="GET"), effect=Effect(records=Records(hide_for=1e9))))
    with pytest.raises(JobTimeoutError, match="; the platform no longer has the job"):
        job().execute_complete(task_run.context(), {"outcome": "timeout", "message": "too late"})
    assert submitted.requests("DELETE") == []


def test_job_is_stopped_although_airflow_takes_no_note_of_it(task_run: TaskRun, submitted: Submitted) -> None:
    task_run.retry()
    task_run.retry()
    defer(job(command="sleep 60", deferrable=True), task_run)

    class Deaf(StateStore):
        def set(self, key: str, value: Any, *, retention: Any) -> None:
            raise ConnectionError(key, value, retention)

    task_run.store = Deaf(task_run.store)
    with pytest.raises(JobTimeoutError):
        job().execute_complete(task_run.context(), {"outcome": "timeout", "message": "too late"})
    assert submitted.only.status.value == "STOPPED"


def test_scheduler_that_finds_no_triggerer_stops_the_job_like_any_other_timeout(
    task_run: TaskRun, submitted: Submitted
) -> None:
    limit = {"execution_timeout": timedelta(hours=1), "deferrable": True}
    defer(job(command="sleep 60", **limit), task_run)
    failure = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}
    with pytest.raises(JobTimeoutError, match=r"is a triggerer running.* execution_timeout=1:00:00 .*job was stopped"):
        job(**limit).resume_execution(TRIGGER_FAIL_REPR, failure, task_run.context())
    assert submitted.only.status.value == "STOPPED"


@pytest.mark.parametrize("ends_by", ["report", "scheduler"])
def test_job_that_ended_just_in_time_counts_although_the_waiting_has_timed_out(
    ends_by: str, task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    defer(job(command=LASTING, deferrable=True), task_run)
    let_go(platform, submitted.only)
    submitted.wait(submitted.only.key.name, "SUCCEEDED")
    if ends_by == "report":
        event: Any = {"outcome": "timeout", "message": "It did not finish in time."}
        result: Any = job().execute_complete(task_run.context(), event)
    else:
        failure = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}
        result = job().resume_execution(TRIGGER_FAIL_REPR, failure, task_run.context())
    assert (result["job_name"], result["status"]) == (submitted.only.key.name, "SUCCEEDED")


def test_evicted_job_is_tried_again_later_and_as_a_new_attempt(
    task_run: TaskRun, submitted: Submitted, faults: Faults
) -> None:
    end: dict[str, Any] = {"appExitType": "TRANSIENT_NORMAL", "appExitDiagnostics": "the node was drained"}
    patch = Effect(records=Records(where={"state": "FAILED"}, patch={"jobStatus": end}))
    faults.add(Fault(match=Match(method="GET"), effect=patch))
    operator = job(command="exit 137")
    with pytest.raises(JobEvictedError, match=r"the node was drained.*the job's program is not the cause") as evicted:
        operator.execute(task_run.context())
    assert operator.retry_policy is not None
    decision = operator.retry_policy.evaluate(evicted.value, 1, 2)
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, EVICTION_DELAY)
    task_run.retry()
    assert job().execute(task_run.context())
    assert [record.key.name[-2:] for record in submitted()] == ["-1", "-2"]


def test_failure_of_the_program_follows_the_dags_own_retries(task_run: TaskRun, submitted: Submitted) -> None:
    operator = job(command="exit 3")
    with pytest.raises(JobFailedError) as failed:
        operator.execute(task_run.context())
    assert operator.retry_policy is not None
    assert operator.retry_policy.evaluate(failed.value, 1, 2).action is RetryAction.DEFAULT
    assert job(retry_policy=None).retry_policy is None
    assert submitted.only.status.value == "FAILED"


def test_job_the_account_cannot_pay_for_fails_at_once(task_run: TaskRun, submitted: Submitted, faults: Faults) -> None:
    patch: dict[str, Any] = {"state": "UNDERPOWERED", "jobStatus": {"state": "UNDERPOWERED"}}
    effect = Effect(records=Records(where={"state": "FAILED"}, patch=patch))
    faults.add(Fault(match=Match(method="GET"), effect=effect))
    with pytest.raises(AirflowFailException, match="too little computing power left: top it up"):
        job(command="exit 1").execute(task_run.context())
    assert submitted.requests("POST") == [submitted.only.key.name]


@pytest.mark.parametrize("outcome", ["finished", "lost", "error"])
def test_report_that_is_about_another_job_is_not_taken_for_ones_own(
    outcome: Any, task_run: TaskRun, submitted: Submitted, client: BitaHubClient
) -> None:
    # SQLite gives the number of a removed trigger to the next one, and triggerers report by that number.
    operator = job(command="sleep 60", deferrable=True)
    defer(operator, task_run)
    ours, theirs = submitted.only.key.name, f"theirs-{outcome}"
    client.send(submit_job(JobSpec(job_name=theirs, task_roles=[TaskRole(image=IMAGE, command="true")])))
    submitted.wait(theirs)
    told = client.send(get_job(theirs)).model_dump(mode="json")
    event: Any = {"outcome": outcome, "job": told, "message": "", "subject": f"job {theirs}"}
    with pytest.raises(TaskDeferred) as deferred:
        job(command="sleep 60", deferrable=True).execute_complete(task_run.context(), event)
    assert deferred.value.trigger.subject == f"job {ours}"
    assert not submitted.status(ours).is_terminal


@pytest.mark.parametrize("state", ["failed", "success", "removed", "restarting", None])
def test_killed_task_that_airflow_no_longer_wants_stops_its_job(
    state: str | None, task_run: TaskRun, submitted: Submitted, task_state: Callable[[str | None], None]
) -> None:
    operator = job(command="sleep 60", deferrable=True)
    defer(operator, task_run)
    task_state(state)
    operator.on_kill()
    submitted.wait(submitted.only.key.name, "STOPPED")


@pytest.fixture
def ctrl_c() -> Callable[..., object]:
    """Interrupts whatever calls it, as Ctrl-C in a terminal does."""

    def interrupt(**_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)  # which the signal ends

    return interrupt


def test_task_that_is_interrupted_in_a_terminal_stops_its_job(
    task_run: TaskRun, submitted: Submitted, ctrl_c: Callable[..., object]
) -> None:
    # In `dag.test()`, Airflow fails a task after Ctrl-C, and does not call `on_kill`.
    context = task_run.context()
    context["ti"].xcom_push = ctrl_c  # which is called between submitting and waiting
    with pytest.raises(KeyboardInterrupt):
        job(command="sleep 60").execute(context)
    assert submitted.only.status.value == "STOPPED"
    task_run.retry()
    assert job().execute(task_run.context())
    assert [record.key.name[-2:] for record in submitted()] == ["-1", "-2"]


def test_task_that_is_interrupted_leaves_its_job_where_that_is_wished_for(
    task_run: TaskRun, submitted: Submitted, ctrl_c: Callable[..., object]
) -> None:
    context = task_run.context()
    context["ti"].xcom_push = ctrl_c
    with pytest.raises(KeyboardInterrupt):
        job(command="sleep 60", cancel_on_kill=False).execute(context)
    assert submitted.requests("DELETE") == []


# "": a new scheduler has found the task orphaned by one that died, and will start it again.
@pytest.mark.parametrize("state", ["running", "up_for_retry", "deferred", "queued", ""])
def test_killed_task_that_airflow_still_wants_leaves_its_job_to_the_next_try(
    state: str, task_run: TaskRun, submitted: Submitted, task_state: Callable[[str | None], None]
) -> None:
    operator = job(command="sleep 60", deferrable=True)
    defer(operator, task_run)
    task_state(state)
    operator.on_kill()
    assert submitted.requests("DELETE") == []


def test_killed_task_leaves_its_job_when_airflow_does_not_answer(task_run: TaskRun, submitted: Submitted) -> None:
    operator = job(command="sleep 60", deferrable=True)
    defer(operator, task_run)
    operator.on_kill()
    assert submitted.requests("DELETE") == []


def test_killed_task_leaves_its_job_where_that_is_wished_for(
    task_run: TaskRun, submitted: Submitted, task_state: Callable[[str | None], None]
) -> None:
    operator = job(command="sleep 60", deferrable=True, cancel_on_kill=False)
    defer(operator, task_run)
    task_state("failed")
    operator.on_kill()
    assert submitted.requests("DELETE") == []


def test_task_killed_while_it_submits_stops_what_it_submitted_and_starts_nothing_new(
    task_run: TaskRun, gateway: Gateway, task_state: Callable[[str | None], None]
) -> None:
    task_state("failed")
    operator = job()

    def answer(asked: Asked) -> tuple[int, Any]:
        methods = [earlier.method for earlier in gateway.asked]
        if asked.method == "POST":
            operator.on_kill()
            return 503, {}
        if "POST" not in methods:
            return 404, {"status": {"code": 404, "msg": "there is no such job"}}
        return 200, {"status": {"code": 0}, "data": {"state": "STOPPED" if "DELETE" in methods else "WAITING"}}

    gateway.answer = answer
    with pytest.raises(AirflowFailException, match="starts nothing new"):
        operator.execute(task_run.context())
    assert [asked.method for asked in gateway.asked if asked.method != "GET"] == ["POST", "DELETE"]
    assert task_run.store["bitahub_job"]["stopped"] is True


def test_task_killed_after_its_submission_was_refused_leaves_alone_whose_job_it_may_be(
    task_run: TaskRun, gateway: Gateway, task_state: Callable[[str | None], None]
) -> None:
    gateway.answer = lambda asked: (
        (404, {"status": {"code": 404, "msg": "no"}}) if asked.method == "GET" else (409, {"status": {"code": 409}})
    )
    operator = job(job_name="theirs")
    with pytest.raises(AirflowFailException, match="this task did not submit it"):
        operator.execute(task_run.context())
    gateway.answer = lambda _: (200, {"status": {"code": 0}, "data": {"state": "RUNNING"}})
    task_state("failed")
    operator.on_kill()
    assert [asked.method for asked in gateway.asked if asked.method != "GET"] == ["POST"]


def test_killing_a_task_that_submitted_nothing_does_nothing(task_state: Callable[[str | None], None]) -> None:
    task_state("failed")
    job().on_kill()


def test_job_that_was_killed_with_its_task_is_run_again_when_the_task_is_cleared(
    task_run: TaskRun, submitted: Submitted, client: BitaHubClient, task_state: Callable[[str | None], None]
) -> None:
    operator = job(command="sleep 60", deferrable=True)
    defer(operator, task_run)
    task_state("restarting")
    operator.on_kill()
    task_run.clear()
    assert job().execute(task_run.context())
    old, new = submitted()
    until(lambda: client.send(get_job(old.key.name)).status.value, lambda status: status == "STOPPED")
    assert new.status.value == "SUCCEEDED"
