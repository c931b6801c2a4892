"""What becomes of templates: which job a broken one stops, and what Airflow shows of the values."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from airflow.sdk import DAG
from airflow.sdk._shared.secrets_masker import _secrets_masker, redact
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import StorageError, TransportError
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from tests.conftest import Submitted, TaskRun, events_of

JOB: dict[str, Any] = {"task_id": "task", "project": "demo", "command": "sleep 60", "poll_interval": 0.02, "retries": 2}


PARAMS = {"lost": None, "token": "s3cr3t-by-name", "licence": "s3cr3t-by-author"}


def render(operator: Any, context: Any) -> Any:
    """Render an operator as a worker does, and give the one that runs: of a mapped operator, the instance's."""
    dag = operator.dag
    context["dag_run"].conf = {}
    context |= {"dag": dag, "task": operator, "params": PARAMS}
    context["ti"].task = operator
    operator.render_template_fields(context, dag.get_template_env())
    return context["task"]


def job(**arguments: Any) -> Any:
    with DAG("d", params=PARAMS):
        return BitaHubJobOperator(**{**JOB, **arguments})


def mapped(**expanded: Any) -> Any:
    with DAG("d", params=PARAMS):
        arguments = {name: value for name, value in JOB.items() if name not in expanded}
        return BitaHubJobOperator.partial(**arguments).expand(**expanded)


# Stopping what an earlier try started --------------------------------------------------------------------------


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(
    ("operator", "error"),
    [
        (lambda: job(project="{{ params.lost.name }}"), jinja2.UndefinedError),
        (lambda: job(cpu="{{ params.lost }}"), AirflowFailException),
        (lambda: mapped(cpu=["many"]), AirflowFailException),
        (lambda: mapped(command=["{{ params.lost.name }}"]), jinja2.UndefinedError),
    ],
    ids=["template", "argument", "mapped argument", "mapped template"],
)
def test_last_try_whose_arguments_became_wrong_stops_the_job_of_an_earlier_try(
    operator: Any, error: type[Exception], task_run: TaskRun, submitted: Submitted
) -> None:
    task_run.map_index = 0
    BitaHubJobOperator(**JOB, wait_for_completion=False).execute(task_run.context())
    assert not submitted.only.status.is_terminal
    if error is not AirflowFailException:  # which is final in any try
        task_run.retry()
        with pytest.raises(error):
            render(operator(), task_run.context())
        assert not submitted.only.status.is_terminal, "the last try may still find it"
    task_run.try_number = task_run.max_tries + 1
    context = task_run.context()
    with pytest.raises(error):
        render(operator(), context).execute(context)
    submitted.wait(submitted.only.key.name, "STOPPED")


@pytest.mark.usefixtures("connection")
def test_argument_of_the_submission_that_became_wrong_does_not_cost_the_result_of_a_finished_job(
    task_run: TaskRun, submitted: Submitted, tmp_path: Path
) -> None:
    lasting = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    with pytest.raises(TaskDeferred) as deferred:
        job(command=lasting, deferrable=True, defer_after=0).execute(task_run.context())
    (tmp_path / "go").touch()
    [event] = events_of(deferred.value.trigger)
    context = task_run.context()
    resumed = render(job(cpu="{{ params.lost }}", queue_timeout=60), context)
    assert resumed.execute_complete(context, event)["job_name"] == submitted.only.key.name


# What Airflow shows --------------------------------------------------------------------------------------------


@pytest.fixture
def _masker() -> Iterator[None]:
    masker = _secrets_masker()
    before = masker.patterns.copy(), masker.replacer
    yield
    masker.patterns, masker.replacer = before


@pytest.mark.usefixtures("_masker")
def test_rendered_fields_and_logs_show_no_secret(task_run: TaskRun) -> None:
    with DAG("d", params=PARAMS):
        serving = BitaHubDeployServingOperator(
            task_id="task",
            serving_name="s",
            model="m",
            envs={"API_TOKEN": "{{ params.token }}", "MODEL": "/model/net", "PASSWORD_PIN": 98765},
            secret_envs={"LICENCE": "{{ params.licence }}", "PIN": 1234},
            commands=[
                "export DB_PASSWORD='s3cr3t in a line'; serve --auth-token=s3cr3t-option --api-key s3cr3t-apart",
                "serve --licence {{ params.licence }} --model /model/net --token $API_TOKEN",
            ],
        )
    render(serving, task_run.context())
    assert (serving.envs or {})["API_TOKEN"] == "s3cr3t-by-name", "the platform needs it"
    shown = json.dumps(_serialize_rendered_fields(serving))
    logged = redact("got s3cr3t-by-name s3cr3t-by-author 's3cr3t in a line' s3cr3t-option s3cr3t-apart 98765")
    for text in (shown, str(logged)):
        assert "s3cr3t" not in text
        assert "98765" not in text
    assert '"PIN": "***"' in shown
    assert "/model/net" in shown
    assert "$API_TOKEN" in shown


@pytest.mark.usefixtures("_masker")
def test_secret_in_a_jobs_command_is_masked_in_a_mapped_task_too(task_run: TaskRun) -> None:
    task_run.map_index = 0
    operator = render(mapped(command=["TOKEN={{ params.token }} python train.py"]), task_run.context())
    assert operator.command == "TOKEN=s3cr3t-by-name python train.py"
    assert _serialize_rendered_fields(operator)["command"] == "TOKEN=*** python train.py"


def test_number_whose_name_looks_secret_is_sent_as_a_number(task_run: TaskRun) -> None:
    body = {"maxTokens": 5, "tokenRequired": True, "limits": [{"keys": 1.5, "api_key": 2}]}
    assert render(job(extra_body=body), task_run.context()).extra_body == body


# What Airflow logs ---------------------------------------------------------------------------------------------


def tracebacks(error: BaseException) -> int:
    return "".join(traceback.format_exception(error)).count("Traceback (most recent call last)")


@pytest.mark.usefixtures("connection")
def test_traceback_of_a_failure_appears_once(task_run: TaskRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException) as wrong:
        BitaHubJobOperator(**{**JOB, "memory_mb": 1, "shm_mb": 2}).execute(task_run.context())
    assert tracebacks(wrong.value) == 1
    assert "job_spec" in "".join(traceback.format_exception(wrong.value)), "where it was found"
    monkeypatch.setenv(
        "AIRFLOW_CONN_BITAHUB_DEFAULT", "bitahub://u:p@127.0.0.1:9/?__extra__=%7B%22user_id%22%3A+%22u%22%7D"
    )
    monkeypatch.setattr("airflow_bitahub.procedures.retry.GRACE_PERIOD", 0.0)
    with pytest.raises(TransportError) as unreachable:
        BitaHubJobOperator(**JOB, image="python", job_name="job", unreachable_timeout=0).execute(task_run.context())
    assert tracebacks(unreachable.value) == 1


@pytest.mark.usefixtures("connection", "results_at_once")
def test_job_that_has_succeeded_is_not_said_to_be_stopped_when_its_result_is_missing(
    task_run: TaskRun, platform: Emulator, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    task_run.try_number = task_run.max_tries + 1
    predictions = platform.storage / "projects/u/p/outputs/1"
    predictions.mkdir(parents=True, exist_ok=True)
    arguments = {**JOB, "command": "true", "predictions": "/projects/u/p/outputs/1"}
    with pytest.raises(StorageError):
        BitaHubEvaluateOperator(**arguments).execute(task_run.context())
    log = caplog.text + capsys.readouterr().out
    assert "is SUCCEEDED" in log
    assert "Stopping" not in log
