"""What is read of a DAG's runs, from the tables of a real Airflow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.utils.state import DagRunState
from sqlalchemy import event

from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import JobFailedError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.records import (
    DEPLOYMENT_FACTS,
    GATE_FACTS,
    JOB_FACTS,
    METRICS_FACTS,
    MODEL_FACTS,
    numbers_in,
)
from airflow_bitahub.procedures.deployments import Deployment, Version
from airflow_bitahub.ui.history import RUNS, Comparison, Task, read_history
from tests.conftest import IMAGE, TaskRun
from tests.ui.airflow_tables import Tables

JOB = {"job_name": "train-1", "status": "SUCCEEDED", "queue_seconds": 30.0, "run_seconds": 1800, "accelerators": 4}
MODEL = {"model": "net", "version": "1", "model_path": "/models/u/net/1", "job_name": "train-1", "metrics": {}}
DEPLOYED = {
    "outcome": "deployed",
    "serving_name": "net.serving",
    "version": "v1.2",
    "record": "abcd.net.serving.v1.2",
    "model_path": "/models/u/net/1",
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tables") / "airflow.db"
    Tables(file).engine.dispose()
    return file


@pytest.fixture
def tables(empty: Path, tmp_path: Path) -> Iterator[Tables]:
    tables = Tables(Path(shutil.copy(empty, tmp_path)))
    with tables.in_use():
        yield tables


def test_a_run_says_what_its_tasks_said(tables: Tables) -> None:
    gate = {"open": False, "conditions": [{"text": "a > 1", "metric": "a", "value": 0.5, "bound": 1, "holds": False}]}
    tables.add_run(
        {
            ("train", JOB_FACTS): JOB,
            ("evaluate", 0, METRICS_FACTS): {"a": 0.5},
            ("evaluate", 1, METRICS_FACTS): {"a": 0.7},
            ("save", MODEL_FACTS): MODEL,
            ("gate", GATE_FACTS): gate,
            ("deploy", DEPLOYMENT_FACTS): DEPLOYED,
            ("train", "return_value"): {"x": "y" * 100},
        }
    )
    tables.add_run(dag_id="another")
    tables.add_run(state=DagRunState.RUNNING)
    first, second = read_history("mnist").runs
    assert (first.state, second.state, second.ended) == ("success", "running", None)
    [job] = first.jobs
    assert (job.name, job.queue_seconds, job.accelerator_hours) == ("train-1", 30.0, 2.0)
    assert first.metrics == [(Task("evaluate", 0), {"a": 0.5}), (Task("evaluate", 1), {"a": 0.7})]
    assert [saved.path for saved in first.saved] == ["/models/u/net/1"]
    assert first.gates[0].comparisons == [Comparison("a > 1", "a", 0.5, 1, False)]
    assert not first.gates[0].is_open
    assert [end.outcome for end in first.deployments] == ["deployed"]
    assert (second.jobs, second.metrics) == ([], [])


def test_many_runs_come_in_pages_and_take_few_queries(tables: Tables) -> None:
    runs = [tables.add_run({("train", index, JOB_FACTS): JOB for index in range(3)}) for _ in range(RUNS + 3)]
    asked: list[str] = []
    event.listen(tables.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    newest, rest = read_history("mnist"), read_history("mnist", RUNS)
    assert [run.run_id for run in newest.runs] == runs[3:]
    assert [run.run_id for run in rest.runs] == runs[:3]
    assert (newest.has_older, rest.has_older) == (True, False)
    assert all(len(run.jobs) == 3 for run in (*newest.runs, *rest.runs))
    assert len(asked) == 8


def test_what_serves_is_read_from_the_record_of_the_serving(tables: Tables) -> None:
    run_id = tables.add_run({("deploy", DEPLOYMENT_FACTS): DEPLOYED})
    versions = [
        Version("b", {"model": {"path": "/models/u/net/2"}}, deployed_by="task 'x' of another run", deployed_at=20),
        Version(
            "a", {"model": {"path": "/models/u/net/1"}}, metrics={"a": 0.9}, deployed_by=f"task 'x' of mnist {run_id}"
        ),
    ]
    tables.set_record("abcd.net.serving.v1.2", Deployment(exists=True, versions=versions))
    tables.set_record("abcd.of-another-dag.v1", Deployment(exists=True, versions=versions))
    [serving] = read_history("mnist").servings
    assert (serving.name, serving.version, serving.is_changing) == ("net.serving", "v1.2", False)
    assert serving.current is not None
    assert (serving.current.model_path, serving.current.run_id) == ("/models/u/net/2", "")
    [before] = serving.earlier
    assert (before.metrics, before.run_id) == ({"a": 0.9}, run_id)


def test_serving_of_another_dag_is_not_shown_though_an_xcom_names_it(tables: Tables) -> None:
    tables.add_run({("deploy", DEPLOYMENT_FACTS): DEPLOYED})
    version = Version("b", {"model": {"path": "/models/u/net/2"}}, deployed_by="task 'x' of another run")
    tables.set_record("abcd.net.serving.v1.2", Deployment(exists=True, versions=[version]))
    assert read_history("mnist").servings == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "text",
        [],
        {},
        {"conditions": [1, {"text": 3}], "metrics": "x"},
        '{"__classname__": "no.such.Thing", "__version__": 1, "__data__": {}}',
    ],
)
def test_xcoms_of_others_under_these_names_break_nothing(value: Any, tables: Tables) -> None:
    keys = (JOB_FACTS, METRICS_FACTS, MODEL_FACTS, GATE_FACTS, DEPLOYMENT_FACTS)
    tables.add_run({("task", key): value for key in keys})
    assert len(read_history("mnist").runs) == 1


def test_a_record_that_cannot_be_read_is_left_out(tables: Tables) -> None:
    tables.add_run({("deploy", DEPLOYMENT_FACTS): {**DEPLOYED, "record": "x"}})
    tables.set_record("x", None)
    assert read_history("mnist").servings == []


# What operators say --------------------------------------------------------------------------------------------


def test_a_gate_says_what_it_compared(task_run: TaskRun) -> None:
    gate = BitaHubMetricGateOperator(
        task_id="gate", metrics={"test": {"a": 0.8}}, conditions=["test.a >= 0.9", "b < 1"], on_closed="fail"
    )
    with pytest.raises(Exception, match="The gate is closed"):
        gate.execute(task_run.context())
    assert task_run.xcoms[GATE_FACTS] == {
        "open": False,
        "conditions": [
            {"text": "test.a >= 0.9", "metric": "test.a", "value": 0.8, "bound": 0.9, "holds": False},
            {"text": "b < 1", "metric": "b", "value": None, "bound": 1.0, "holds": False},
        ],
    }


def test_a_job_that_failed_says_what_it_has_used(task_run: TaskRun, hook: BitaHubHook, platform: Emulator) -> None:  # noqa: ARG001
    platform.scripts.add(ScriptedJob(job_name="used-*", exit_code=3))
    role = {"task_number": 3}
    job = BitaHubJobOperator(
        task_id="job",
        project="used",
        image=IMAGE,
        command="x",
        code_path=None,
        task_roles=[role],
        accelerator="gtx-1080-ti",
        accelerator_count=2,
        poll_interval=0.1,
    )
    with pytest.raises(JobFailedError):
        job.execute(task_run.context())
    facts = task_run.xcoms[JOB_FACTS]
    assert (facts["status"], facts["accelerator"], facts["accelerators"]) == ("FAILED", "gtx-1080-ti", 6)
    assert facts["run_seconds"] is not None


def test_only_numbers_that_every_database_stores_are_metrics() -> None:
    metrics = {"a": 1, "b": {"c": 0.5, "d": "x", "e": True}, "f": float("nan"), "g": 2**70, "h": None, "i" * 300: 1}
    assert numbers_in(metrics) == {"a": 1, "b.c": 0.5}
    assert len(numbers_in({str(index): index for index in range(1000)})) == 50
