"""Files of any job become entries of its task's result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from tests.conftest import Submitted, TaskRun, events_of

pytestmark = pytest.mark.usefixtures("connection", "results_at_once")

FILES = {"scores": "eval/scores.json", "report": "report.md"}
COMMAND = "mkdir /output/eval; echo '[1, NaN]' > /output/eval/scores.json; printf '# \\0Good' > /output/report.md"


def job(**arguments: Any) -> BitaHubJobOperator:
    return BitaHubJobOperator(
        **{"task_id": "task", "project": "demo", "command": COMMAND, "poll_interval": 0.02, "retries": 2, **arguments}
    )


def test_files_become_entries_of_the_result(task_run: TaskRun) -> None:
    result: Any = job(outputs=FILES).execute(task_run.context())
    assert (result["scores"], result["report"]) == ([1, None], "# \ufffdGood")


def test_a_deferred_job_reads_its_files_when_it_resumes(task_run: TaskRun, tmp_path: Path) -> None:
    command = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; {COMMAND}"
    task_run.map_index = 3
    with pytest.raises(TaskDeferred) as deferred:
        job(outputs=FILES, deferrable=True, defer_after=0, command=command).execute(task_run.context())
    (tmp_path / "go").touch()
    [event] = events_of(deferred.value.trigger)
    result: Any = job(outputs=FILES).execute_complete(task_run.context(), event)
    assert result["scores"] == [1, None]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("touch /output/other.md", r"does not exist .*Its folder contains 'other\.md'"),
        ("ln -s /etc/passwd /output/report.md", "cannot be read: .* is a link"),
        ("head -c 1048577 /dev/zero > /output/report.md", "and the limit is 1048576"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_by_its_argument(command: str, says: str, task_run: TaskRun) -> None:
    with pytest.raises(StorageError, match=rf"^outputs\['report'\]: .*{says}"):
        job(outputs={"report": "report.md"}, command=command).execute(task_run.context())


def test_files_that_nobody_could_read_are_found_before_the_job_runs(task_run: TaskRun, submitted: Submitted) -> None:
    operator = job(outputs=FILES)
    operator.outputs = {"report": "../report.md"}  # as a template may give it
    with pytest.raises(AirflowFailException, match=r"outputs\['report'\] must be a path below /output"):
        operator.execute(task_run.context())
    assert submitted() == []


def test_a_job_that_is_not_waited_for_has_no_files_yet(task_run: TaskRun) -> None:
    result: Any = job(outputs=FILES, command="sleep 60", wait_for_completion=False).execute(task_run.context())
    assert "report" not in result


@pytest.mark.parametrize("outputs", ["report.md", ["report.md"], {"status": "a"}, {"return_value": "a"}, {"": "a"}])
def test_outputs_that_the_result_has_no_place_for_are_refused(outputs: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^outputs must "):
        job(outputs=outputs)


def test_an_evaluation_has_metrics_anyway() -> None:
    with pytest.raises(ConfigurationError, match=r"^outputs must have other keys than 'metrics'"):
        BitaHubEvaluateOperator(task_id="t", project="p", command="c", predictions="/x", outputs={"metrics": "m.json"})
