"""An evaluation gives the metrics its job wrote, or says what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.execution_time.comms import SetXCom, _RequestFrame
from airflow.sdk.serde import deserialize, serialize

from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import StorageError
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from tests.conftest import Submitted, TaskRun, events_of

pytestmark = pytest.mark.usefixtures("connection", "results_at_once")

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
        evaluate(deferrable=True, defer_after=0, command=command).execute(task_run.context())
    (tmp_path / "go").touch()
    [event] = events_of(deferred.value.trigger)
    result: Any = evaluate(result_file="m.json").execute_complete(task_run.context(), event)
    assert result["metrics"] == {"loss": 0.5}


def test_metrics_are_read_from_the_log_without_any_storage(
    task_run: TaskRun, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del connection["extra"]["storage_uri"]
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    long = "x" * 2000
    command = f'echo \'{{"accuracy": 0.9, "note": "{long}"}}\'; echo done'
    result: Any = evaluate(metrics_from="log", command=command).execute(task_run.context())
    assert result["metrics"] == {"accuracy": 0.9, "note": long}


@pytest.mark.parametrize(
    ("line", "says"),
    [("accuracy 0.9", "none of the last 500 lines of its log"), ('{"a": {"__id__": 1}}', "has the key '__id__'")],
)
def test_log_without_usable_metrics_is_told(line: str, says: str, task_run: TaskRun) -> None:
    with pytest.raises(StorageError, match=f"^metrics_from: .*{says}"):
        evaluate(metrics_from="log", command=f"echo '{line}'").execute(task_run.context())


def test_metrics_that_are_no_numbers_survive_as_none(task_run: TaskRun) -> None:
    command = 'echo \'{"accuracy": NaN, "loss": Infinity}\' > /output/evaluation_result.json'
    result = evaluate(command=command).execute(task_run.context())
    assert result is not None
    assert json.loads(json.dumps(result, allow_nan=False))["metrics"] == {"accuracy": None, "loss": None}


def through_airflow(value: Any) -> Any:
    """Return an XCom as a downstream task gets it: through the task's channel, the API and the database's JSON."""
    message = SetXCom(key="k", value=serialize(value), dag_id="d", run_id="r", task_id="t")
    assert _RequestFrame(id=1, body=message.model_dump()).as_bytes()
    return deserialize(json.loads(httpx.Request("POST", "http://airflow", json=message.value).content))


def test_airflow_accepts_every_metric(task_run: TaskRun) -> None:
    odd = r'{"a": 1e400, "b": 36893488147419103232, "c": "\ud800\u0000", "\udfff": [NaN], "d": %s0%s}'
    text = odd % ("[" * 90, "]" * 90)
    result: Any = evaluate(command=f"echo '{text}' > /output/evaluation_result.json").execute(task_run.context())
    metrics = result["metrics"]
    assert [metrics[name] for name in ("a", "b", "c", "\ufffd")] == [None, 2.0**65, "\ufffd\ufffd", [None]]
    assert through_airflow(result) == result


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
        ("ln -s /etc/passwd /output/evaluation_result.json", r"cannot be read: .* is a link"),
        ("touch /output/other.json", r"does not exist .* Its folder contains 'other\.json'"),
        ("head -c 1048577 /dev/zero > /output/evaluation_result.json", "its size is 1048577 bytes, and the limit is"),
        ('echo \'{"a": {"__id__": 1}}\' > /output/evaluation_result.json', "has the key '__id__', which Airflow"),
    ],
)
def test_metrics_that_cannot_be_read_are_told_in_a_sentence_and_the_job_is_not_run_again(
    command: str, says: str, task_run: TaskRun, submitted: Submitted, platform: Emulator
) -> None:
    with pytest.raises(StorageError, match=f"^result_file: .*{says}"):
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


def test_result_file_outside_the_output_is_not_waited_for(task_run: TaskRun, submitted: Submitted) -> None:
    with pytest.raises(AirflowFailException, match=r"/\.\./other/metrics\.json' is not below .* contains '\.\.'"):
        evaluate(result_file="../other/metrics.json").execute(task_run.context())
    assert submitted() == []


def test_evaluation_that_is_not_waited_for_has_no_metrics_yet(task_run: TaskRun, submitted: Submitted) -> None:
    result = evaluate(command="sleep 60", wait_for_completion=False).execute(task_run.context())
    assert result is not None
    assert "metrics" not in result
    assert result["job_name"] == submitted.only.key.name
