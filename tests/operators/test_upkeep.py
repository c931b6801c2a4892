"""Stopping, starting, scaling and deleting a served model. `procedures` tests what each step may meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_bitahub.api.servings import delete_serving
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.emulator.state.serving_records import StoredServing
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError, ServingTimeoutError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.deployment_records import VariableRecords
from airflow_bitahub.operators.delete import BitaHubDeleteServingOperator
from airflow_bitahub.operators.scale import BitaHubScaleServingOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.start import BitaHubStartServingOperator
from airflow_bitahub.operators.stop import BitaHubStopServingOperator
from airflow_bitahub.triggers.serving import BitaHubServingTrigger
from tests.conftest import TaskRun, events_of, restored, until
from tests.operators.served_program import START, ask, foreign_serving, model_path, no_serving_ready, put_models

_numbers = count(1)
pytestmark = pytest.mark.usefixtures("connection", "variables")


@pytest.fixture(scope="module", autouse=True)
def _models(shared_platform: Emulator) -> None:
    put_models(shared_platform)


@pytest.fixture
def name(client: BitaHubClient) -> Iterator[str]:
    """A serving's name of the test's own; the serving is gone afterwards."""
    name = f"kept-{next(_numbers)}"
    yield name
    with suppress(BitaHubError):
        client.send(delete_serving(name))


@pytest.fixture
def record(platform: Emulator, name: str) -> Callable[[], StoredServing]:
    """What the platform has of that serving."""
    return lambda: platform.state.serving(ServingKey("inference", name, "v1"))


def deploy(name: str) -> dict[str, Any]:
    operator = BitaHubDeployServingOperator(
        task_id="task", serving_name=name, model=model_path("v1"), commands=START, poll_interval=0.05, launch_timeout=30
    )
    return operator.execute(TaskRun().context())


def stop(name: str) -> BitaHubStopServingOperator:
    return BitaHubStopServingOperator(task_id="task", serving_name=name)


def start(name: str, **arguments: Any) -> BitaHubStartServingOperator:
    waiting = {"poll_interval": 0.05, "launch_timeout": 30, "defer_after": 0, **arguments}
    return BitaHubStartServingOperator(task_id="task", serving_name=name, **waiting)


def scale(name: str, replicas: Any, **arguments: Any) -> BitaHubScaleServingOperator:
    waiting = {"poll_interval": 0.05, "launch_timeout": 30, "defer_after": 0, **arguments}
    return BitaHubScaleServingOperator(task_id="task", serving_name=name, replicas=replicas, **waiting)


def delete(name: str) -> BitaHubDeleteServingOperator:
    return BitaHubDeleteServingOperator(task_id="task", serving_name=name)


def run(operator: Any, task_run: TaskRun | None = None) -> dict[str, Any]:
    result: dict[str, Any] = operator.execute((task_run or TaskRun()).context())
    return result


def test_life_of_a_serving(
    name: str, hook: BitaHubHook, platform: Emulator, record: Callable[[], StoredServing], task_run: TaskRun
) -> None:
    deploy(name)
    for _ in range(2):
        assert run(stop(name), task_run) == {"serving_name": name, "version": "v1", "status": "STOPPED"}
    assert task_run.xcoms["bitahub_serving_url"].endswith(f"/console/servings/inference/{name}")
    records = VariableRecords(hook, name, "v1")
    stopped = records.load()
    assert stopped is not None
    assert stopped.current is not None, "what is stopped is still on record"

    started = {"serving_name": name, "version": "v1", "status": "RUNNING", "url": record().url, "replicas": 1}
    for _ in range(2):
        assert run(start(name)) == {**started, "url": record().url}
    assert ask(record().url) == "v1"

    assert run(scale(name, "2"))["replicas"] == 2
    assert [replica.can_answer for replica in record().replicas] == [True, True]
    untouched = record()
    deploy(name)  # of the same specification
    assert record() == untouched
    current = records.load()
    assert current is not None
    assert current.versions[0].spec["replicas"] == 2
    assert current.versions[0].digest == stopped.versions[0].digest

    assert run(delete(name))["removed"] is True
    assert run(delete(name)) == {"serving_name": name, "version": "v1", "removed": False}
    assert name not in {serving.key.name for serving in platform.state.servings()}
    assert run(stop(name))["status"] is None


def test_a_serving_that_does_not_start_is_stopped_again(
    name: str, record: Callable[[], StoredServing], task_run: TaskRun
) -> None:
    deploy(name)
    with pytest.raises(ServingTimeoutError, match="this task did not start it, so it was not stopped"):
        run(start(name, launch_timeout=0.3, readiness_path="/sick"), task_run)
    assert record().status.value == "RUNNING"
    run(stop(name))
    with no_serving_ready(), pytest.raises(ServingTimeoutError) as late:
        run(start(name, launch_timeout=1), task_run)
    assert "The limit is launch_timeout=0:00:01 from the start of the try; the serving was stopped." in str(late.value)
    until(lambda: record().status.value, lambda status: status == "STOPPED")
    run(start(name))
    task_run.clear()  # it is not this task's any more
    with pytest.raises(ServingTimeoutError, match="this task did not start it, so it was not stopped"):
        run(start(name, launch_timeout=0.3, readiness_path="/sick"), task_run)


def test_more_replicas_that_do_not_run_are_kept(name: str, record: Callable[[], StoredServing]) -> None:
    deploy(name)
    with no_serving_ready(), pytest.raises(ServingTimeoutError) as late:
        run(scale(name, 2, launch_timeout=1))
    assert "the serving keeps 2 replicas, which the platform may still start." in str(late.value)
    assert record().spec.replicas == 2
    assert ask(record().url) == "v1"


def defer(operator: Any, task_run: TaskRun) -> BitaHubServingTrigger:
    with no_serving_ready(), pytest.raises(TaskDeferred) as deferred:
        operator.execute(task_run.context())
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.timeout is not None
    trigger = deferred.value.trigger
    assert isinstance(trigger, BitaHubServingTrigger)
    return trigger


def test_both_wait_in_the_triggerer(name: str, task_run: TaskRun) -> None:
    deploy(name)
    scaling = defer(scale(name, 2, deferrable=True), task_run)
    assert scaling.is_update
    assert not scaling.cancel_on_kill, "it would stop a serving that works"
    run(stop(name))
    starting = defer(start(name, deferrable=True), other := TaskRun())
    assert starting.cancel_on_kill
    [event] = events_of(restored(starting))
    assert start(name, deferrable=True).execute_complete(other.context(), event)["status"] == "RUNNING"
    late: Any = {**event, "outcome": "timeout", "message": "not ready"}
    with pytest.raises(ServingTimeoutError, match="the serving was stopped"):
        start(name, deferrable=True).execute_complete(other.context(), late)


def test_killed_task_stops_what_it_has_started(
    name: str, task_state: Callable[[str | None], None], record: Callable[[], StoredServing], task_run: TaskRun
) -> None:
    deploy(name)
    run(stop(name))
    operator = start(name, launch_timeout=1)
    operator.stop = lambda: "not yet"  # type: ignore[method-assign]
    with no_serving_ready():
        with pytest.raises(ServingTimeoutError):
            operator.execute(task_run.context())
        task_state("running")
        operator.on_kill()
        assert not record().status.is_ending
        task_state("failed")
        operator.on_kill()
    until(lambda: record().status.value, lambda status: status == "STOPPED")


@pytest.mark.parametrize("operator", [stop, start, lambda name: scale(name, 2), delete])
def test_somebody_elses_serving_is_refused(
    operator: Any, name: str, client: BitaHubClient, record: Callable[[], StoredServing]
) -> None:
    foreign_serving(client, name)
    with pytest.raises(AirflowFailException, match="this Airflow did not create"):
        run(operator(name))
    assert not record().status.is_ending


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: stop("Mnist"), "serving_name must have lower-case letters"),
        (lambda: delete(""), "serving_name"),
        (lambda: scale("mnist", 0), "replicas must be a whole number of at least 1"),
        (lambda: start("mnist", launch_timeout=0), "launch_timeout must be more than 0 seconds"),
        (lambda: start("mnist", cancel_on_kill="no"), "cancel_on_kill must be True or False"),
    ],
)
def test_wrong_argument_is_refused_when_the_dag_is_parsed(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()
