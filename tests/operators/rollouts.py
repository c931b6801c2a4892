"""What tests of deployments share: a deployment of their own, and what the platform has of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from airflow_bitahub.api.servings import delete_serving
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.emulator.state.serving_records import StoredServing
from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.operators.rollout import RolloutOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.procedures.deployments import candidate_name
from airflow_bitahub.triggers.rollout import BitaHubRolloutTrigger
from tests.conftest import TaskRun, events_of, until
from tests.operators.served_program import START, ask, model_path, no_serving_ready

_numbers = count(1)


class Service:
    """A name under which a test deploys."""

    def __init__(self, platform: Emulator) -> None:
        self.name = f"serving-{next(_numbers)}"
        self._platform = platform

    @property
    def names(self) -> set[str]:
        """Which servings there are: the public one, the candidate."""
        mine = {self.name, candidate_name(self.name)}
        return {found.key.name for found in self._platform.state.servings()} & mine

    @property
    def record(self) -> StoredServing:
        """What the platform has of the public one."""
        return self._platform.state.serving(ServingKey("inference", self.name, "v1"))

    def until_serves(self, model: str) -> None:
        """Wait until a version answers at the public name, and there is no candidate."""
        until(lambda: (self.names, self._answer()), lambda seen: seen == ({self.name}, model))

    def _answer(self) -> str:
        with suppress(Exception):
            return ask(self.record.url)
        return ""


@contextmanager
def new_service(platform: Emulator, client: BitaHubClient) -> Iterator[Service]:
    """Provide a new name, and remove its servings afterwards."""
    service = Service(platform)
    yield service
    for name in service.names:
        with suppress(BitaHubError):
            client.send(delete_serving(name))


def deploy(service: Service, saved: str = "v1", /, **arguments: Any) -> BitaHubDeployServingOperator:
    """Return the operator that deploys one of the two models."""
    return BitaHubDeployServingOperator(
        **{
            "task_id": "task",
            "serving_name": service.name,
            "model": model_path(saved),
            "commands": START,
            "poll_interval": 0.1,
            "launch_timeout": 30,
            "defer_after": 0,
            "retries": 2,
            **arguments,
        }
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Procedures do not wait for long."""
    sleep = time.sleep
    monkeypatch.setattr("airflow_bitahub.client.time.sleep", lambda seconds: sleep(min(seconds, 0.1)))


def defer(operator: RolloutOperator, run: TaskRun) -> BitaHubRolloutTrigger:
    """Execute until the task is deferred, and return its trigger."""
    with pytest.raises(TaskDeferred) as deferred, no_serving_ready():
        operator.execute(run.context())
    return trigger_of(deferred.value)


def trigger_of(deferred: TaskDeferred) -> BitaHubRolloutTrigger:
    """Return the trigger of a deferral."""
    trigger = deferred.trigger
    assert isinstance(trigger, BitaHubRolloutTrigger)
    assert deferred.method_name == "execute_complete"
    assert not deferred.kwargs, "dag.test() would drop them"
    assert deferred.timeout is not None, "the scheduler's, for the case that there is no triggerer"
    assert deferred.timeout.total_seconds() > (trigger.deadline or 0) - time.time() + 60
    return trigger


def finish(operator: RolloutOperator, run: TaskRun, trigger: BitaHubRolloutTrigger) -> dict[str, Any]:
    """Resume a deferred task, as often as it is deferred, and return its result."""
    for _ in range(5):
        [event] = events_of(trigger)
        try:
            return operator.execute_complete(run.context(), event)
        except TaskDeferred as deferred:
            trigger = trigger_of(deferred)
    raise AssertionError("the task is deferred again and again")
