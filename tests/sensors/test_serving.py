"""The serving sensor waits for somebody else's serving, here or in the triggerer, and never stops it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from airflow.sdk import PokeReturnValue
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_bitahub.api.servings import (
    ServingModel,
    ServingProtocol,
    ServingSpec,
    create_serving,
    delete_serving,
    stop_serving,
)
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.emulator.state.serving_records import StoredServing
from airflow_bitahub.exceptions import BitaHubError, TransportError
from airflow_bitahub.sensors.serving import BitaHubServingSensor
from airflow_bitahub.triggers.serving import BitaHubServingTrigger
from tests.conftest import IMAGE, TaskRun, events_of, restored, until

_numbers = count(1)
ANSWER = "exec python -m http.server --bind $HOST $PORT"
# Answers, but with errors only.
SICK = (
    "exec python -c 'import http.server as h, os; h.BaseHTTPRequestHandler.do_GET = lambda self: self.send_error(503); "
    'h.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), h.BaseHTTPRequestHandler).serve_forever()\''
)


@pytest.fixture
def name(client: BitaHubClient) -> Iterator[str]:
    """A serving's name of the test's own; the serving is gone afterwards."""
    name = f"sensed-{next(_numbers)}"
    yield name
    with suppress(BitaHubError):
        client.send(delete_serving(name))


@pytest.fixture
def serve(client: BitaHubClient, platform: Emulator, name: str) -> Callable[[str], None]:
    """Creates the serving as somebody else does."""
    (platform.storage / "models/sensors/dense").mkdir(parents=True, exist_ok=True)

    def serve(command: str) -> None:
        model = ServingModel(path="/models/sensors/dense", mount_path="/model/dense")
        spec = ServingSpec(name=name, model=model, image=IMAGE, protocols=[ServingProtocol()], commands=[command])
        client.send(create_serving(spec))

    return serve


@pytest.fixture
def record(platform: Emulator, name: str) -> Callable[[], StoredServing]:
    """What the platform has of the serving."""
    return lambda: platform.state.serving(ServingKey("inference", name, "v1"))


def sensor(name: str, **arguments: Any) -> BitaHubServingSensor:
    return BitaHubServingSensor(
        **{
            "task_id": "task",
            "serving_name": name,
            "poke_interval": 0.05,
            "timeout": 20,
            "deferrable": False,
            **arguments,
        }
    )


def defer(sensor: BitaHubServingSensor, run: TaskRun) -> BitaHubServingTrigger:
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(run.context())
    trigger = deferred.value.trigger
    assert isinstance(trigger, BitaHubServingTrigger)
    return trigger


def resume(sensor: BitaHubServingSensor, run: TaskRun, event: Any) -> Any:
    """Resume a deferred sensor as Airflow does."""
    return sensor.resume_execution("execute_complete", {"event": event}, run.context())


@pytest.mark.usefixtures("connection")
def test_poke_asks_once(name: str, task_run: TaskRun, serve: Callable[[str], None]) -> None:
    assert sensor(name).poke(task_run.context()) is False, "not there yet"
    serve(ANSWER)
    answer = until(lambda: sensor(name).poke(task_run.context()))
    assert isinstance(answer, PokeReturnValue)
    assert answer.is_done


@pytest.mark.usefixtures("connection")
def test_sensor_waits_until_the_program_answers(
    name: str, task_run: TaskRun, serve: Callable[[str], None], record: Callable[[], StoredServing]
) -> None:
    serve(ANSWER)
    result = sensor(name).execute(task_run.context())
    assert result == {"serving_name": name, "status": "RUNNING", "url": record().url}


@pytest.mark.usefixtures("connection")
def test_deferred_sensor_gives_the_same_result(
    name: str, task_run: TaskRun, serve: Callable[[str], None], record: Callable[[], StoredServing]
) -> None:
    trigger = defer(sensor(name, deferrable=True), task_run)
    assert (trigger.grace, trigger.cancel_on_kill) == (None, False)
    serve(ANSWER)
    [event] = events_of(restored(trigger))
    result = resume(sensor(name, deferrable=True), task_run, event)
    assert result == {"serving_name": name, "status": "RUNNING", "url": record().url}


@pytest.mark.usefixtures("connection")
def test_version_and_path_are_asked_for_as_given(name: str, task_run: TaskRun) -> None:
    trigger = defer(sensor(name, version="v2", readiness_path="/health", deferrable=True), task_run)
    assert (trigger.version, trigger.readiness_path) == ("v2", "/health")


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(("soft_fail", "ends_with"), [(False, AirflowFailException), (True, AirflowSkipException)])
def test_failed_serving_fails_the_sensor_at_once_or_skips_it(
    deferrable: bool,
    soft_fail: bool,
    ends_with: type[Exception],
    name: str,
    task_run: TaskRun,
    serve: Callable[[str], None],
) -> None:
    arguments = {"deferrable": deferrable, "soft_fail": soft_fail}
    if not deferrable:
        serve("exit 3")
        with pytest.raises(ends_with) as ended:
            sensor(name, **arguments).execute(task_run.context())
    else:
        trigger = defer(sensor(name, **arguments), task_run)
        serve("exit 3")
        [event] = events_of(trigger)
        with pytest.raises(ends_with) as ended:
            resume(sensor(name, **arguments), task_run, event)
    if not soft_fail:
        assert f"serving '{name}' is FAILED" in str(ended.value)


@pytest.mark.usefixtures("connection")
def test_stopped_serving_fails_the_sensor(
    name: str,
    task_run: TaskRun,
    serve: Callable[[str], None],
    client: BitaHubClient,
    record: Callable[[], StoredServing],
) -> None:
    serve(ANSWER)
    client.send(stop_serving(name))
    until(lambda: record().status.value, lambda status: status == "STOPPED")
    for deferrable in (False, True):
        with pytest.raises(AirflowFailException, match=f"serving '{name}' is STOPPED"):
            sensor(name, deferrable=deferrable).execute(task_run.context())


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(("soft_fail", "ends_with"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)])
def test_sensor_that_waited_for_too_long_fails_or_skips_and_leaves_the_serving_running(
    deferrable: bool,
    soft_fail: bool,
    ends_with: type[Exception],
    name: str,
    task_run: TaskRun,
    serve: Callable[[str], None],
    record: Callable[[], StoredServing],
) -> None:
    serve(SICK)
    arguments = {"deferrable": deferrable, "soft_fail": soft_fail, "timeout": 0.1}
    if not deferrable:
        with pytest.raises(ends_with):
            sensor(name, **arguments).execute(task_run.context())
    else:
        [event] = events_of(defer(sensor(name, **arguments), task_run))
        with pytest.raises(ends_with):
            resume(sensor(name, **arguments), task_run, event)
    assert record().status.value in ("WAITING", "RUNNING")


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("event", [{"outcome": "error", "message": "no route"}, None])
def test_trouble_while_waiting_is_worth_another_try(event: Any, name: str, task_run: TaskRun) -> None:
    with pytest.raises(TransportError, match="The queries failed for too long"):
        resume(sensor(name, deferrable=True), task_run, event)
