"""The job sensor waits for somebody else's job, here or in the triggerer, and never stops it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import PokeReturnValue
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, TaskRole, stop_job, submit_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.exceptions import AuthenticationError, PermissionDeniedError, TransportError
from airflow_bitahub.sensors.job import BitaHubJobSensor
from airflow_bitahub.triggers.job import BitaHubJobTrigger
from tests.conftest import IMAGE, Gateway, Submitted, TaskRun, events_of, restored

_numbers = count(1)
RESULT = ["job_name", "status", "queue_seconds", "run_seconds", "exit_code"]


@pytest.fixture
def name() -> str:
    """A job's name of the test's own."""
    return f"sensed-{next(_numbers)}"


@pytest.fixture
def submit(client: BitaHubClient, name: str, submitted: Submitted) -> Callable[[str], None]:
    """Submits the job as somebody else does."""

    def submit(command: str) -> None:
        client.send(submit_job(JobSpec(job_name=name, task_roles=[TaskRole(image=IMAGE, command=command)])))
        assert submitted.requests("DELETE") == []

    return submit


def sensor(name: str, **arguments: Any) -> BitaHubJobSensor:
    return BitaHubJobSensor(
        **{"task_id": "task", "job_name": name, "poke_interval": 0.02, "timeout": 20, "deferrable": False, **arguments}
    )


def defer(sensor: BitaHubJobSensor, run: TaskRun) -> BitaHubJobTrigger:
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(run.context())
    assert deferred.value.method_name == "execute_complete"
    trigger = deferred.value.trigger
    assert isinstance(trigger, BitaHubJobTrigger)
    assert trigger.deadline is not None
    assert deferred.value.timeout is not None, "the scheduler's, for the case that there is no triggerer"
    assert deferred.value.timeout.total_seconds() > trigger.deadline - time.time() + 60
    return trigger


def resume(sensor: BitaHubJobSensor, run: TaskRun, event: Any) -> Any:
    """Resume a deferred sensor as Airflow does."""
    return sensor.resume_execution("execute_complete", {"event": event}, run.context())


@pytest.mark.usefixtures("connection")
def test_report_that_is_about_another_job_is_not_taken_for_ones_own(name: str, task_run: TaskRun) -> None:
    defer(sensor(name, deferrable=True), task_run)
    theirs = Job(name="another", status=JobStatus.SUCCEEDED).model_dump(mode="json")
    with pytest.raises(TaskDeferred):
        resume(
            sensor(name, deferrable=True), task_run, {"outcome": "finished", "job": theirs, "subject": "job another"}
        )


@pytest.mark.usefixtures("connection")
def test_poke_asks_once(
    name: str, task_run: TaskRun, submit: Callable[[str], None], submitted: Submitted, tmp_path: Path
) -> None:
    assert sensor(name).poke(task_run.context()) is False, "not there yet"
    submit(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done")
    assert sensor(name).poke(task_run.context()) is False, "not over yet"
    (tmp_path / "go").touch()
    submitted.wait(name)
    answer = sensor(name).poke(task_run.context())
    assert isinstance(answer, PokeReturnValue)
    assert answer.is_done
    assert list(answer.xcom_value or ()) == RESULT


@pytest.mark.usefixtures("connection")
def test_sensor_waits_for_a_job_that_succeeds(name: str, task_run: TaskRun, submit: Callable[[str], None]) -> None:
    submit("sleep 0.2")
    result = sensor(name).execute(task_run.context())
    assert list(result) == RESULT
    assert (result["job_name"], result["status"], result["exit_code"]) == (name, "SUCCEEDED", 0)


@pytest.mark.usefixtures("connection")
def test_deferred_sensor_gives_the_same_result(
    name: str, task_run: TaskRun, submit: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    trigger = defer(sensor(name, deferrable=True), task_run)
    trigger.earliest_report = time.time() - 90
    submit("true")
    [event] = events_of(restored(trigger))
    result = resume(sensor(name, deferrable=True), task_run, event)
    assert "A triggerer began to watch this task only" in capsys.readouterr().out
    assert list(result) == RESULT
    assert (result["job_name"], result["status"], result["exit_code"]) == (name, "SUCCEEDED", 0)


@pytest.mark.usefixtures("connection")
def test_deferrable_sensor_does_not_defer_for_a_job_that_is_over(
    name: str, task_run: TaskRun, submit: Callable[[str], None], submitted: Submitted
) -> None:
    submit("true")
    submitted.wait(name)
    assert sensor(name, deferrable=True).execute(task_run.context())["status"] == "SUCCEEDED"


@pytest.mark.usefixtures("connection")
def test_sensors_trigger_waits_for_a_job_to_appear_and_never_stops_it(name: str, task_run: TaskRun) -> None:
    before = time.time()
    trigger = defer(sensor(name, deferrable=True, timeout=600, poke_interval=7), task_run)
    assert (trigger.grace, trigger.cancel_on_kill, trigger.poll_interval) == (None, False, 7)
    assert trigger.deadline is not None
    assert before + 600 <= trigger.deadline <= time.time() + 600


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(("soft_fail", "ends_with"), [(False, AirflowFailException), (True, AirflowSkipException)])
def test_failed_job_fails_the_sensor_at_once_or_skips_it(
    deferrable: bool,
    soft_fail: bool,
    ends_with: type[Exception],
    name: str,
    task_run: TaskRun,
    submit: Callable[[str], None],
) -> None:
    arguments = {"deferrable": deferrable, "soft_fail": soft_fail}
    if not deferrable:
        submit("exit 3")
        with pytest.raises(ends_with) as ended:
            sensor(name, **arguments).execute(task_run.context())
    else:
        trigger = defer(sensor(name, **arguments), task_run)
        submit("exit 3")
        [event] = events_of(trigger)
        with pytest.raises(ends_with) as ended:
            resume(sensor(name, **arguments), task_run, event)
    if not soft_fail:
        assert f"job '{name}' is FAILED, exit code 3" in str(ended.value)


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("soft_fail", [False, True])
def test_job_that_failed_before_the_sensor_began_is_the_same_to_a_deferrable_one(
    soft_fail: bool, name: str, task_run: TaskRun, submit: Callable[[str], None], submitted: Submitted
) -> None:
    submit("exit 3")
    submitted.wait(name)
    with pytest.raises(AirflowSkipException if soft_fail else AirflowFailException):
        sensor(name, deferrable=True, soft_fail=soft_fail).execute(task_run.context())


@pytest.mark.usefixtures("connection")
def test_stopped_job_fails_the_sensor(
    name: str, task_run: TaskRun, submit: Callable[[str], None], client: BitaHubClient
) -> None:
    submit("sleep 60")
    client.send(stop_job(name))
    with pytest.raises(AirflowFailException, match=f"job '{name}' is STOPPED"):
        sensor(name).execute(task_run.context())


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(("soft_fail", "ends_with"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)])
def test_sensor_that_waited_for_too_long_fails_or_skips_and_leaves_the_job_running(
    deferrable: bool,
    soft_fail: bool,
    ends_with: type[Exception],
    name: str,
    task_run: TaskRun,
    submit: Callable[[str], None],
    submitted: Submitted,
) -> None:
    submit("sleep 60")
    arguments = {"deferrable": deferrable, "soft_fail": soft_fail, "timeout": 0.1}
    if not deferrable:
        with pytest.raises(ends_with):
            sensor(name, **arguments).execute(task_run.context())
    else:
        [event] = events_of(defer(sensor(name, **arguments), task_run))
        with pytest.raises(ends_with):
            resume(sensor(name, **arguments), task_run, event)
    assert submitted.requests("DELETE") == []
    assert not submitted.only.status.is_terminal


LIMITS = pytest.mark.parametrize(
    ("limits", "ends_with", "named"),
    [
        ({"execution_timeout": timedelta(seconds=0.1)}, AirflowTaskTimeout, "execution_timeout=0:00:00.1"),
        ({"execution_timeout": timedelta(days=1), "timeout": 0.1}, AirflowSensorTimeout, " timeout=0:00:00.1"),
        ({"execution_timeout": timedelta(seconds=0.1), "soft_fail": True}, AirflowSkipException, "execution_timeout="),
    ],
    ids=["execution_timeout", "timeout", "soft_fail"],
)


@pytest.mark.usefixtures("connection")
@LIMITS
def test_deferred_sensor_keeps_the_shorter_of_its_limits(
    limits: dict[str, Any], ends_with: type[BaseException], named: str, name: str, task_run: TaskRun
) -> None:
    [event] = events_of(defer(sensor(name, deferrable=True, **limits), task_run))
    with pytest.raises(ends_with, match=named):
        resume(sensor(name, deferrable=True, **limits), task_run, event)


@pytest.mark.usefixtures("connection")
@LIMITS
def test_sensor_that_no_triggerer_watched_ends_unless_its_job_has_succeeded(
    limits: dict[str, Any],
    ends_with: type[BaseException],
    named: str,
    name: str,
    task_run: TaskRun,
    submit: Callable[[str], None],
    submitted: Submitted,
) -> None:
    def resume_unwatched() -> Any:
        failure = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}
        unwatched = sensor(name, deferrable=True, **limits)
        return unwatched.resume_execution(TRIGGER_FAIL_REPR, failure, task_run.context())

    with pytest.raises(ends_with, match=f"is one running.*{named}"):
        resume_unwatched()
    submit("true")
    submitted.wait(name)
    assert resume_unwatched()["status"] == "SUCCEEDED"


@pytest.mark.usefixtures("connection")
def test_sensor_whose_trigger_failed_is_worth_another_try(name: str, task_run: TaskRun) -> None:
    failure = {"error": TriggerFailureReason.TRIGGER_FAILURE, "traceback": ["no such module"]}
    with pytest.raises(TransportError, match="Watching failed"):
        sensor(name, deferrable=True).resume_execution(TRIGGER_FAIL_REPR, failure, task_run.context())


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("event", [{"outcome": "error", "message": "no route"}, None])
def test_trouble_while_waiting_is_worth_another_try(event: Any, name: str, task_run: TaskRun) -> None:
    with pytest.raises(TransportError, match="The queries failed for too long"):
        resume(sensor(name, deferrable=True), task_run, event)


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("outcome", ["error", "timeout"])
def test_sensor_that_must_never_fail_skips_whatever_happens(outcome: str, name: str, task_run: TaskRun) -> None:
    with pytest.raises(AirflowSkipException):
        resume(sensor(name, deferrable=True, never_fail=True), task_run, {"outcome": outcome, "message": "too late"})


@pytest.mark.parametrize("deferrable", [False, True])
def test_sensor_that_must_never_fail_skips_when_it_cannot_ask(
    deferrable: bool, name: str, task_run: TaskRun, gateway: Gateway
) -> None:
    gateway.answer = lambda _: (401, {"status": {"code": 401, "msg": "who are you"}})
    with pytest.raises(AirflowSkipException):
        sensor(name, deferrable=deferrable, never_fail=True).execute(task_run.context())


@pytest.mark.usefixtures("connection")
def test_final_trouble_while_waiting_fails_at_once(name: str, task_run: TaskRun) -> None:
    with pytest.raises(AirflowFailException, match="go away"):
        resume(sensor(name, deferrable=True), task_run, {"outcome": "error", "message": "go away", "is_final": True})


def test_platform_that_refuses_to_be_asked_fails_the_sensor(name: str, task_run: TaskRun, gateway: Gateway) -> None:
    gateway.answer = lambda _: (403, {"status": {"code": 403, "msg": "go away"}})
    for deferrable in (False, True):
        with pytest.raises(PermissionDeniedError, match="go away"):
            sensor(name, deferrable=deferrable).execute(task_run.context())
    gateway.answer = lambda _: (401, {"status": {"code": 401, "msg": "who are you"}})
    with pytest.raises(AuthenticationError, match="who are you"):
        sensor(name).execute(task_run.context())


def test_wrong_connection_fails_the_sensor_at_once(
    name: str, task_run: TaskRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", '{"conn_type": "bitahub"}')
    with pytest.raises(AirflowFailException, match="has no host"):
        sensor(name).execute(task_run.context())
