"""The trigger of a deployment: killed for good, it ends the deployment; only moved, it leaves it alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Variable
from airflow.sdk._shared.secrets_masker import _secrets_masker

from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Effect, Fault, Records
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.procedures.deployments import candidate_name
from airflow_bitahub.triggers.rollout import BitaHubRolloutTrigger
from tests.conftest import TaskRun, events_of, restored
from tests.operators.rollouts import Service, defer, deploy, finish, new_service, quick
from tests.operators.served_program import put_models

__all__ = ["quick"]


@pytest.fixture
def service(platform: Emulator, client: BitaHubClient) -> Iterator[Service]:
    put_models(platform)
    with new_service(platform, client) as service:
        yield service


def kill(trigger: BitaHubRolloutTrigger, run: TaskRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do as Airflow does. Its Variables are read and stored through the triggerer's event loop, which must be free."""
    ti: Any = SimpleNamespace(dag_id="tests", task_id="task", run_id=run.run_id, map_index=run.map_index)
    trigger.task_instance = ti

    async def end() -> None:
        loop = asyncio.get_running_loop()

        def through_loop(call: Callable[..., Any]) -> Any:
            def blocking(*args: Any, **kwargs: Any) -> Any:
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(5)
                return call(*args, **kwargs)

            return staticmethod(blocking)

        with monkeypatch.context() as patch:
            for name in ("get", "set", "keys"):
                patch.setattr(Variable, name, through_loop(getattr(Variable, name)))
            await trigger.on_kill()

    asyncio.run(end())


def test_trigger_survives_storage() -> None:
    stored = BitaHubRolloutTrigger(
        deployed_name="mnist",
        bitahub_conn_id="elsewhere",
        serving_name="mnist-next",
        version="v1",
        poll_interval=7.5,
        pending_deadline=99.5,
        deadline=123.5,
    )
    path, arguments = stored.serialize()
    assert path == "airflow_bitahub.triggers.rollout.BitaHubRolloutTrigger"
    assert restored(stored).serialize() == (path, arguments)
    assert (arguments["deployed_name"], arguments["serving_name"]) == ("mnist", "mnist-next")


@pytest.mark.usefixtures("connection", "variables", "shown_at_once", "quick")
@pytest.mark.parametrize(
    ("state", "strategy"),
    [("failed", "candidate"), (None, "recreate"), ("success", "in_place"), ("deferred", "candidate")],
)
def test_killed_trigger_ends_the_deployment_of_an_inactive_task(
    state: str | None, strategy: str, service: Service, task_run: TaskRun,
    task_state: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    deploy(service).execute(TaskRun().context())
    operator = deploy(service, "v2", deferrable=True, strategy=strategy)
    trigger = restored(defer(operator, task_run))
    task_state(state)
    kill(trigger, task_run, monkeypatch)
    if state == "deferred":  # Airflow only moves the trigger
        assert service.names == {service.name, candidate_name(service.name)}
        finish(operator, task_run, trigger)
        service.until_serves("v2")
    else:
        service.until_serves("v1")


@pytest.mark.usefixtures("connection", "variables", "shown_at_once", "quick")
def test_killed_trigger_of_a_first_deployment_removes_it(
    service: Service, task_run: TaskRun, task_state: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = defer(deploy(service, deferrable=True), task_run)
    task_state("failed")
    kill(trigger, task_run, monkeypatch)
    assert not service.names


@pytest.mark.usefixtures("connection", "variables", "shown_at_once", "quick")
def test_trigger_masks_secrets_in_what_the_platform_says_of_the_serving(
    service: Service, task_run: TaskRun, platform: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = deploy(service, deferrable=True, secret_envs={"KEY": "sesame-of-the-serving"})
    trigger = restored(defer(operator, task_run))
    assert "sesame" not in json.dumps(trigger.serialize())
    fault = Fault(effect=Effect(records=Records(patch={"message": "KeyError: sesame-of-the-serving!"})))
    platform.faults.add(fault)
    with pytest.MonkeyPatch.context() as triggerer:  # which knows no secrets of workers
        triggerer.setattr(_secrets_masker(), "patterns", set())
        triggerer.setattr(_secrets_masker(), "replacer", None)
        capsys.readouterr()
        events_of(trigger)
    printed = capsys.readouterr().out
    assert "KeyError: ***!" in printed
    assert "sesame" not in printed
