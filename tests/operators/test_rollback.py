"""Going back to an earlier version of a serving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.assets import BitaHubServing
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.operators.rollback import BitaHubRollbackServingOperator
from tests.conftest import TaskRun
from tests.operators.rollouts import Service, defer, deploy, finish, new_service, quick
from tests.operators.served_program import START, model_path, put_models

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("connection", "variables", "shown_at_once", "quick")


@pytest.fixture
def service(platform: Emulator, client: BitaHubClient) -> Iterator[Service]:
    put_models(platform)
    with new_service(platform, client) as service:
        yield service


def roll_back(service: Service, **arguments: Any) -> BitaHubRollbackServingOperator:
    return BitaHubRollbackServingOperator(
        **{
            "task_id": "back",
            "serving_name": service.name,
            "poll_interval": 0.05,
            "defer_after": 0,
            "retries": 2,
            **arguments,
        }
    )


@pytest.mark.parametrize("deferrable", [False, True])
def test_version_before_comes_back_once_however_often_the_task_runs(
    deferrable: bool, service: Service, task_run: TaskRun
) -> None:
    for model in ("v1", "v2"):
        deploy(service, model).execute(TaskRun().context())
    operator = roll_back(service, deferrable=deferrable)
    assert operator.outlets == [BitaHubServing(service.name).asset]
    result = (
        finish(operator, task_run, defer(operator, task_run)) if deferrable else operator.execute(task_run.context())
    )
    service.until_serves("v1")
    assert (result["model_path"], result["previous"]) == (model_path("v1"), model_path("v2"))
    assert task_run.xcoms["bitahub_deployment_facts"]["outcome"] == "reverted"
    task_run.clear()
    again = roll_back(service).execute(task_run.context())
    assert (again["model_path"], again["previous"]) == (model_path("v1"), None)
    service.until_serves("v1")
    with pytest.raises(AirflowFailException, match="each one on record was itself rolled back"):
        roll_back(service).execute(TaskRun().context())  # and not forward again to the bad version


def test_named_version_comes_back(service: Service, variables: dict[str, str]) -> None:
    for model, commands in (("v1", START), ("v2", START), ("v2", f"echo newer; {START}")):
        deploy(service, model, commands=commands).execute(TaskRun().context())
    roll_back(service, to="/models/{user_id}/served/v1").execute(TaskRun().context())
    service.until_serves("v1")
    [record] = [json.loads(value) for key, value in variables.items() if key.startswith("bitahub_serving.")]
    [digest] = [each["digest"] for each in record["versions"] if each["spec"]["commands"][0].startswith("echo newer")]
    roll_back(service, to=digest[:6]).execute(TaskRun().context())
    service.until_serves("v2")
    assert service.record.spec.commands[0].startswith("echo newer")


def test_version_that_is_not_on_record_is_refused(service: Service) -> None:
    with pytest.raises(AirflowFailException, match=r"has no earlier version to go back to.*On record: none"):
        roll_back(service).execute(TaskRun().context())
    deploy(service).execute(TaskRun().context())
    with pytest.raises(AirflowFailException, match=r"has no earlier version to .*On record: version .*/served/v1"):
        roll_back(service).execute(TaskRun().context())
    with pytest.raises(AirflowFailException, match=r"to='v9' is no version of serving .* On record: .*/served/v1"):
        roll_back(service, to="v9").execute(TaskRun().context())
    service.until_serves("v1")


def test_version_that_needs_secrets_is_given_them_again(service: Service) -> None:
    secrets = {"API_TOKEN": "hush-hush", "LICENCE": "mum-mum"}
    commands = f"export API_TOKEN=hush-hush; {START}"
    deploy(service, secret_envs=secrets, commands=commands).execute(TaskRun().context())
    old = service.record.spec
    deploy(service, "v2", secret_envs=secrets).execute(TaskRun().context())
    with pytest.raises(AirflowFailException, match="needs the secret values API_TOKEN, LICENCE"):
        roll_back(service).execute(TaskRun().context())
    service.until_serves("v2")
    roll_back(service, secret_envs=secrets).execute(TaskRun().context())
    service.until_serves("v1")
    assert service.record.spec == old
