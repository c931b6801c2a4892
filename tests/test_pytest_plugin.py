"""The fixtures with which users test their own DAGs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.api.jobs import list_jobs
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import JobFailedError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator
from tests.conftest import TaskRun


def evaluate() -> BitaHubEvaluateOperator:
    return BitaHubEvaluateOperator(
        task_id="evaluate", project="p", command="python evaluate.py", predictions="/projects/_tester/p/outputs/1"
    )


def test_the_connection_leads_to_the_emulator(bitahub_emulator: Emulator, bitahub_connection: str) -> None:
    hook = BitaHubHook(bitahub_connection)
    assert hook.settings.base_url == bitahub_emulator.url
    assert hook.send(list_jobs()).jobs == {}
    assert hook.storage.uri == bitahub_emulator.storage.as_uri()


@pytest.mark.usefixtures("bitahub_connection")
@pytest.mark.parametrize("deferrable", [False, True])
def test_every_job_succeeds_immediately_so_no_test_waits(
    deferrable: bool, task_run: TaskRun, bitahub_emulator: Emulator
) -> None:
    train = BitaHubTrainOperator(
        task_id="train", project="p", datasets=["MNIST"], command="python train.py", deferrable=deferrable,
        poll_interval=3600,
    )  # fmt: skip
    result = train.execute(task_run.context())
    assert result is not None
    assert result["status"] == "SUCCEEDED"
    [entry] = bitahub_emulator.state.ledger()
    assert entry.record.spec.task_roles[0].command == "python train.py"


@pytest.mark.usefixtures("bitahub_connection")
def test_a_script_makes_a_job_fail(task_run: TaskRun, bitahub_emulator: Emulator) -> None:
    bitahub_emulator.scripts.add(ScriptedJob(command="*evaluate.py*", exit_code=2, log="no such folder"))
    with pytest.raises(JobFailedError, match="no such folder"):
        evaluate().execute(task_run.context())


@pytest.mark.usefixtures("bitahub_connection")
def test_a_script_sets_the_results_of_a_job(task_run: TaskRun, bitahub_emulator: Emulator) -> None:
    bitahub_emulator.scripts.add(ScriptedJob(outputs={"evaluation_result.json": {"accuracy": 0.5}}))
    result = evaluate().execute(task_run.context())
    assert result is not None
    gate = BitaHubMetricGateOperator(
        task_id="gate", metrics=result["metrics"], conditions="accuracy >= 0.9", on_closed="fail"
    )
    with pytest.raises(AirflowFailException, match=r"0\.5 is not >= 0\.9"):
        gate.execute(task_run.context())


@pytest.mark.usefixtures("bitahub_connection", "variables")
def test_a_serving_is_deployed_and_invoked(task_run: TaskRun, bitahub_emulator: Emulator) -> None:
    bitahub_emulator.scripts.add(ScriptedServing(answer={"predictions": [7]}))
    deploy = BitaHubDeployServingOperator(task_id="deploy", serving_name="s", model="m", commands="python serving.py")
    assert deploy.execute(task_run.context())["status"] == "RUNNING"
    ask = BitaHubInvokeServingOperator(task_id="ask", serving_name="s", image_url="u", expected_prediction=7)
    assert ask.execute(task_run.context()) == {"predictions": [7]}


def test_the_plugin_costs_other_tests_nothing() -> None:
    code = "import sys, airflow_bitahub.pytest_plugin; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"airflow", "fastapi", "uvicorn", "httpx", "pydantic"} & set(loaded)
