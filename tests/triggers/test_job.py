"""The trigger of a job fires one event, whatever happens, and stops the job only when its task is no longer active."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, TaskRole, stop_job, submit_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.triggers.job import BitaHubJobTrigger
from tests.conftest import IMAGE, Gateway, Submitted, TaskRun, events_of, restored

_numbers = count(1)


@pytest.fixture
def submit(client: BitaHubClient, submitted: Submitted) -> Iterator[Callable[[str], str]]:
    """Submits a job that runs a command, and returns its name."""

    def submit(command: str) -> str:
        name = f"triggered-{next(_numbers)}"
        client.send(submit_job(JobSpec(job_name=name, task_roles=[TaskRole(image=IMAGE, command=command)])))
        return name

    yield submit
    assert all(name.startswith("triggered-") for name in submitted.requests("POST"))


def trigger(name: str, **arguments: Any) -> BitaHubJobTrigger:
    defaults = {"bitahub_conn_id": "bitahub_default", "job_name": name, "poll_interval": 0.02, "grace": 0}
    return BitaHubJobTrigger(**{**defaults, **arguments})


def test_trigger_survives_storage() -> None:
    stored = BitaHubJobTrigger(
        "elsewhere",
        "job",
        7.5,
        deadline=123.5,
        grace=None,
        cancel_on_kill=False,
        queue_deadline=99.5,
        unreachable_timeout=60,
        earliest_report=77.5,
        log_interval=15,
        log_masks={"salt": "00", "words": {}, "others": {}},
    )
    assert restored(stored).serialize() == stored.serialize()
    assert stored.serialize() == (
        "airflow_bitahub.triggers.job.BitaHubJobTrigger",
        {
            "bitahub_conn_id": "elsewhere",
            "job_name": "job",
            "poll_interval": 7.5,
            "deadline": 123.5,
            "grace": None,
            "cancel_on_kill": False,
            "queue_deadline": 99.5,
            "unreachable_timeout": 60,
            "earliest_report": 77.5,
            "log_interval": 15,
            "log_masks": {"salt": "00", "words": {}, "others": {}},
        },
    )


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(
    ("command", "status", "exit_code"),
    [("sleep 0.1", JobStatus.SUCCEEDED, 0), ("sleep 0.1; exit 3", JobStatus.FAILED, 3)],
)
def test_finished_job_is_reported_once_however_it_ended(
    command: str, status: JobStatus, exit_code: int, submit: Callable[[str], str]
) -> None:
    name = submit(command)
    [event] = events_of(restored(trigger(name)))
    assert event["outcome"] == "finished"
    job = Job.model_validate(event["job"])
    assert (job.name, job.status, job.exit_code) == (name, status, exit_code)


@pytest.mark.usefixtures("connection")
def test_job_that_a_user_stopped_is_reported_as_finished(submit: Callable[[str], str], client: BitaHubClient) -> None:
    name = submit("sleep 60")
    client.send(stop_job(name))
    [event] = events_of(trigger(name))
    assert Job.model_validate(event["job"]).status is JobStatus.STOPPED


@pytest.mark.usefixtures("connection")
def test_passed_deadline_is_reported_and_the_job_is_left_to_the_task(
    submit: Callable[[str], str], submitted: Submitted
) -> None:
    name = submit("sleep 60")
    [event] = events_of(trigger(name, deadline=time.time() + 0.1))
    assert event["outcome"] == "timeout"
    assert f"Job '{name}' did not finish in time. When last seen, job '{name}' is" in event["message"]
    assert submitted.requests("DELETE") == []


@pytest.mark.usefixtures("connection")
def test_finished_job_is_reported_even_after_the_deadline(submit: Callable[[str], str], submitted: Submitted) -> None:
    name = submit("true")
    submitted.wait(name)
    [event] = events_of(trigger(name, deadline=1.0))
    assert event["outcome"] == "finished"


@pytest.mark.usefixtures("connection")
def test_job_the_platform_no_longer_knows_is_reported_as_lost(
    submit: Callable[[str], str], client: BitaHubClient, submitted: Submitted
) -> None:
    name = submit("true")
    submitted.wait(name)
    client.send(stop_job(name))
    [event] = events_of(trigger(name))
    assert event["outcome"] == "lost"
    assert name in event["message"]


@pytest.mark.usefixtures("connection")
def test_job_that_may_still_appear_is_waited_for(submitted: Submitted) -> None:
    [event] = events_of(trigger("never-submitted", grace=None, deadline=time.time() + 0.2))
    assert event["outcome"] == "timeout"
    assert "was never seen" in event["message"]
    assert submitted() == []


@pytest.mark.parametrize(("connection_id", "problem"), [("nowhere", "'nowhere'"), ("bitahub_default", "has no host")])
def test_connection_that_stays_wrong_is_reported_as_an_error(
    connection_id: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", '{"conn_type": "bitahub"}')
    [event] = events_of(trigger("job", bitahub_conn_id=connection_id, unreachable_timeout=0.1))
    assert event["outcome"] == "error"
    assert problem in event["message"]
    assert not event["is_final"]


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_is_reported_immediately_and_without_the_token(
    status: int, gateway: Gateway, connection: dict[str, Any]
) -> None:
    gateway.answer = lambda _: (status, {"status": {"code": status, "msg": "go away"}})
    [event] = events_of(trigger("job", grace=None))  # a sensor's
    assert event["outcome"] == "error"
    assert "go away" in event["message"]
    assert connection["password"] not in str(event)
    assert len(gateway.asked) == 1


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("status", [401, 403])
def test_first_refused_look_at_a_job_that_is_known_to_exist_decides_nothing(
    status: int, submit: Callable[[str], str], platform: Emulator
) -> None:
    """A restarted triggerer has not seen the job yet."""
    name = submit("true")
    match = Match(method="GET", path="*/jobs*", times=1)
    fault = platform.faults.add(Fault(match=match, effect=Effect(before=Answer(status=status, body="x"))))
    [event] = events_of(restored(trigger(name)))
    assert event["outcome"] == "finished"
    assert fault.applied


def waiting_for(trigger: BitaHubJobTrigger, run: TaskRun) -> BitaHubJobTrigger:
    ti: Any = SimpleNamespace(dag_id="tests", task_id="task", run_id=run.run_id, map_index=run.map_index)
    trigger.task_instance = ti
    return trigger


@pytest.mark.usefixtures("connection")
# "": the task was cleared, and its next try may come much later
@pytest.mark.parametrize("state", ["failed", "success", "restarting", "removed", None, ""])
def test_killed_trigger_stops_the_job_of_an_inactive_task(
    state: str | None,
    submit: Callable[[str], str],
    submitted: Submitted,
    task_run: TaskRun,
    task_state: Callable[[str | None], None],
) -> None:
    name = submit("sleep 60")
    task_state(state)
    asyncio.run(waiting_for(trigger(name), task_run).on_kill())
    submitted.wait(name, "STOPPED")


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("state", ["deferred", "running", "queued", "scheduled", "up_for_retry", "up_for_reschedule"])
def test_trigger_that_is_only_moved_leaves_the_job_alone(
    state: str,
    submit: Callable[[str], str],
    submitted: Submitted,
    task_run: TaskRun,
    task_state: Callable[[str | None], None],
) -> None:
    name = submit("sleep 60")
    task_state(state)
    asyncio.run(waiting_for(trigger(name), task_run).on_kill())
    assert submitted.requests("DELETE") == []


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("lost", ["a look", "a stop"])
def test_killed_trigger_stops_the_job_although_airflow_cancels_it_meanwhile(
    lost: str,
    platform: Emulator,
    submit: Callable[[str], str],
    submitted: Submitted,
    task_run: TaskRun,
    task_state: Callable[[str | None], None],
) -> None:
    name = submit("sleep 60")
    task_state("failed")
    match = Match(method="GET" if lost == "a look" else "DELETE", path=f"*/jobs/{name}", times=1)
    fault = platform.faults.add(Fault(match=match, effect=Effect(before="close")))

    async def kill_and_cancel() -> None:
        # Airflow cancels a trigger again every second until it has ended.
        killed = asyncio.create_task(waiting_for(trigger(name), task_run).on_kill())
        while not fault.applied:
            await asyncio.sleep(0.01)
        killed.cancel()
        await asyncio.wait([killed])
        while not submitted.status(name).is_terminal:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(kill_and_cancel(), 20))
    assert submitted.status(name).value == "STOPPED"
    platform.faults.clear()


@pytest.mark.usefixtures("connection")
def test_killed_trigger_leaves_the_job_when_airflow_does_not_answer(
    submit: Callable[[str], str], submitted: Submitted, task_run: TaskRun
) -> None:
    name = submit("sleep 60")
    asyncio.run(waiting_for(trigger(name), task_run).on_kill())
    asyncio.run(trigger(name).on_kill())  # in dag.test(), the trigger does not know its task
    assert submitted.requests("DELETE") == []


@pytest.mark.usefixtures("connection")
def test_killed_trigger_leaves_the_job_where_cancel_on_kill_is_false(
    submit: Callable[[str], str], submitted: Submitted, task_run: TaskRun, task_state: Callable[[str | None], None]
) -> None:
    name = submit("sleep 60")
    task_state("failed")
    asyncio.run(waiting_for(trigger(name, cancel_on_kill=False), task_run).on_kill())
    assert submitted.requests("DELETE") == []


@pytest.mark.usefixtures("connection")
def test_killed_trigger_does_not_touch_a_finished_job(
    submit: Callable[[str], str], submitted: Submitted, task_run: TaskRun, task_state: Callable[[str | None], None]
) -> None:
    name = submit("true")
    submitted.wait(name)
    task_state("failed")
    asyncio.run(waiting_for(trigger(name), task_run).on_kill())
    assert submitted.requests("DELETE") == []


@pytest.mark.usefixtures("connection")
def test_state_of_a_mapped_task_is_found_by_its_index(
    submit: Callable[[str], str], submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(dag_id: str, map_index: int | None, task_ids: list[str], run_ids: list[str]) -> dict[str, Any]:
        assert (dag_id, task_ids) == ("tests", ["task"])
        return {run_ids[0]: {"task_3": "failed" if map_index == 3 else "deferred"}}

    monkeypatch.setattr(
        "airflow.sdk.execution_time.task_runner.RuntimeTaskInstance.get_task_states", staticmethod(answer)
    )
    name = submit("sleep 60")
    asyncio.run(waiting_for(trigger(name), TaskRun(map_index=2)).on_kill())
    assert submitted.requests("DELETE") == []
    asyncio.run(waiting_for(trigger(name), TaskRun(map_index=3)).on_kill())
    submitted.wait(name, "STOPPED")
