"""An evaluation gives the metrics its job wrote, or says what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import StorageError
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from tests.conftest import Submitted, TaskRun, events_of

pytestmark = pytest.mark.usefixtures("connection")

PREDICTIONS = f"{FOLDERS.outputs('infer')}/20260101-abc-1"


@pytest.fixture(autouse=True)
def _predictions(platform: Emulator) -> None:
    folder = platform.storage / PREDICTIONS.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text('{"accuracy": 0.903}')


def evaluate(**arguments: Any) -> BitaHubEvaluateOperator:
    return BitaHubEvaluateOperator(
        **{
            "task_id": "task",
            "project": "demo",
            "predictions": PREDICTIONS,
            "command": "cp /prediction/results.json /output/evaluation_result.json",
            "poll_interval": 0.02,
            "retries": 2,
            **arguments,
        }
    )


def test_metrics_are_read_from_where_the_job_wrote_them(task_run: TaskRun) -> None:
    result = evaluate().execute(task_run.context())
    assert result is not None
    assert result["metrics"] == {"accuracy": 0.903}
    assert list(result)[-2:] == ["exit_code", "metrics"]


def test_deferred_evaluation_reads_the_metrics_when_it_resumes(task_run: TaskRun, tmp_path: Path) -> None:
    command = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo '{{\"loss\": 0.5}}' > /output/m.json"
    with pytest.raises(TaskDeferred) as deferred:
        evaluate(deferrable=True, command=command).execute(task_run.context())
    (tmp_path / "go").touch()
    [event] = events_of(deferred.value.trigger)
    result: Any = evaluate(result_file="m.json").execute_complete(task_run.context(), event)
    assert result["metrics"] == {"loss": 0.5}


def test_metrics_that_are_no_numbers_survive_as_none(task_run: TaskRun) -> None:
    command = 'echo \'{"accuracy": NaN, "loss": Infinity}\' > /output/evaluation_result.json'
    result = evaluate(command=command).execute(task_run.context())
    assert result is not None
    assert json.loads(json.dumps(result, allow_nan=False))["metrics"] == {"accuracy": None, "loss": None}


def test_predictions_are_the_last_of_the_datasets(task_run: TaskRun, submitted: Submitted) -> None:
    evaluate(datasets=["MNIST"], predictions=PREDICTIONS.replace(FOLDERS.user_id, "{user_id}")).execute(
        task_run.context()
    )
    mounts = [(mount.mount_source.path, mount.mount_source.mount_path) for mount in submitted.only.spec.datasets]
    assert mounts == [FOLDERS.dataset("MNIST"), (PREDICTIONS, "/prediction")]
    assert submitted.only.spec.models is None, "the document's evaluation has no such field"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("true", r"evaluation_result\.json does not exist .*Check that the job wrote it"),
        ("echo accuracy 0.9 > /output/evaluation_result.json", "is not JSON"),
        ("echo '[0.9]' > /output/evaluation_result.json", r"contains '\[0\.9\]' instead of a JSON object of metrics"),
        ("mkdir /output/evaluation_result.json", "cannot be read"),
    ],
)
def test_metrics_that_cannot_be_read_are_told_in_a_sentence_and_the_job_is_not_run_again(
    command: str, says: str, task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    with pytest.raises(StorageError, match=says):
        evaluate(command=command).execute(task_run.context())
    output = submitted.only.spec.output
    assert output is not None
    file = platform.storage / output.mount_source.path.lstrip("/") / "late.json"
    file.write_text('{"accuracy": 1}')
    task_run.retry()
    result = evaluate(result_file="late.json").execute(task_run.context())
    assert result is not None
    assert result["metrics"] == {"accuracy": 1}
    assert submitted.requests("POST") == [submitted.only.key.name]


def test_evaluation_nobody_could_read_is_not_submitted(
    task_run: TaskRun, submitted: Submitted, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del connection["extra"]["storage_uri"]
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    with pytest.raises(AirflowFailException, match="extra 'storage_uri' is not set"):
        evaluate().execute(task_run.context())
    assert submitted() == []
    assert evaluate(wait_for_completion=False).execute(task_run.context()), "it reads nothing"


def test_evaluation_that_is_not_waited_for_has_no_metrics_yet(task_run: TaskRun, submitted: Submitted) -> None:
    result = evaluate(command="sleep 60", wait_for_completion=False).execute(task_run.context())
    assert result is not None
    assert "metrics" not in result
    assert result["job_name"] == submitted.only.key.name
