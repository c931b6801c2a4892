"""Airflow accepts the example DAG and each of its operators, mapped or not."""

from __future__ import annotations

import json
import runpy
from itertools import pairwise
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError

from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator
from airflow_bitahub.sensors.job import BitaHubJobSensor
from airflow_bitahub.sensors.serving import BitaHubServingSensor
from tests.conftest import REPOSITORY

dag: DAG = runpy.run_path(str(REPOSITORY / "dags" / "mnist_lifecycle.py"))["dag"]

# The required arguments of each operator, and one more argument to expand a mapped operator over.
OPERATORS: list[tuple[type[Any], dict[str, Any], str]] = [
    (BitaHubJobOperator, {"project": "demo"}, "command"),
    (BitaHubTrainOperator, {"project": "demo"}, "command"),
    (BitaHubInferOperator, {"project": "demo", "command": "true"}, "model"),
    (BitaHubEvaluateOperator, {"project": "demo", "predictions": "/projects/u/p/outputs/1"}, "command"),
    (BitaHubSaveModelOperator, {"source": "/projects/u/p/outputs/1", "source_folder": "dense"}, "model"),
    (BitaHubDeployServingOperator, {"model": "dense", "commands": "true"}, "serving_name"),
    (BitaHubInvokeServingOperator, {"image_url": "u"}, "serving_name"),
    (BitaHubMetricGateOperator, {"conditions": "accuracy > 0.9"}, "metrics"),
    (BitaHubJobSensor, {}, "job_name"),
    (BitaHubServingSensor, {}, "serving_name"),
]
NAMES = [operator.__name__ for operator, _, _ in OPERATORS]
WITH_NAMED_OUTPUTS = OPERATORS[:6]


def serialized(dag: DAG) -> dict[str, Any]:
    """Return the DAG as Airflow stores it, after checking that Airflow can read it."""
    from airflow.serialization.serialized_objects import DagSerialization  # imports as much again as all tests do

    stored: dict[str, Any] = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    DagSerialization.from_dict(stored)
    return stored


def stored_tasks(dag: DAG) -> dict[str, dict[str, Any]]:
    tasks = [task["__var"] for task in serialized(dag)["dag"]["tasks"]]
    return {task["task_id"]: task for task in tasks}


def test_example_can_be_stored_by_airflow() -> None:
    assert serialized(dag)["dag"]["dag_id"] == "mnist_lifecycle"


def test_example_goes_from_pictures_to_a_served_model() -> None:
    order = ["train", "save_model", "infer", "evaluate", "gate", "newest_only", "deploy", "ask"]
    assert [task.task_id for task in dag.topological_sort()] == order
    for task, following in pairwise(order):
        assert following in dag.get_task(task).downstream_task_ids
        assert task in (dag.doc_md or "")


def test_unpausing_the_example_starts_no_run() -> None:
    assert dag.catchup is False
    assert dag.start_date is None


def test_example_waits_in_the_triggerer() -> None:
    waiting = [task.task_id for task in dag.tasks if getattr(task, "deferrable", False)]
    assert waiting == ["train", "save_model", "infer", "evaluate", "deploy"]


def test_example_passes_the_version_it_trained_from_task_to_task() -> None:
    tasks = stored_tasks(dag)
    assert "infer" in tasks["save_model"]["downstream_task_ids"]
    assert "deploy" in tasks["save_model"]["downstream_task_ids"]
    for task in ("train", "save_model", "infer", "evaluate"):
        assert tasks[task]["multiple_outputs"] is True, f"{task}.output[...] needs it"


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("threshold", 1.5),
        ("threshold", -0.1),
        ("threshold", "high"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("image", ""),
        ("serving_name", "My_Service"),
        ("serving_name", "x" * 50),
        ("label", 10),
        ("picture", None),
        ("picture", "/proc/self/environ"),
        ("picture", "http://127.0.0.1/datasets/u/7.png"),
    ],
)
def test_example_refuses_params_that_make_no_sense(param: str, value: Any) -> None:
    definition: Any = dag.params.get_param(param)
    with pytest.raises(ParamValidationError):
        definition.resolve(value=value)


@pytest.mark.parametrize(("param", "value"), [("threshold", 0), ("threshold", 1), ("accelerator", None), ("label", 0)])
def test_example_takes_params_that_make_sense(param: str, value: Any) -> None:
    definition: Any = dag.params.get_param(param)
    assert definition.resolve(value=value) == value


def test_example_defaults_are_valid() -> None:
    dag.params.validate()


@pytest.mark.parametrize("task_id", dag.task_ids)
def test_every_template_field_of_the_example_exists(task_id: str) -> None:
    task: Any = dag.get_task(task_id)
    for field in task.template_fields:
        assert hasattr(task, field)


@pytest.mark.parametrize(("operator", "arguments", "mapped"), OPERATORS, ids=NAMES)
def test_every_template_field_exists(operator: type[Any], arguments: dict[str, Any], mapped: str) -> None:
    task = operator(task_id="task", **arguments, **{mapped: "x"})
    for field in task.template_fields:
        assert hasattr(task, field)
    assert len(set(task.template_fields)) == len(task.template_fields)


@pytest.mark.parametrize(("operator", "arguments", "mapped"), OPERATORS, ids=NAMES)
def test_operator_can_be_mapped_and_stored(operator: type[Any], arguments: dict[str, Any], mapped: str) -> None:
    with DAG("mapped", schedule=None) as mapping:
        operator.partial(task_id="task", **arguments).expand(**{mapped: ["a", "b"]})
    [task] = stored_tasks(mapping).values()
    assert task["_is_mapped"] is True


@pytest.mark.parametrize(("operator", "arguments", "mapped"), OPERATORS, ids=NAMES)
def test_mapped_operator_keeps_its_defaults(operator: type[Any], arguments: dict[str, Any], mapped: str) -> None:
    with DAG("mapped", schedule=None):
        template = operator.partial(task_id="task", **arguments).expand(**{mapped: ["a", "b"]})
    plain = operator(task_id="task", **arguments, **{mapped: "a"})
    task = template.unmap({mapped: "a"})
    for name in (
        "multiple_outputs",
        "deferrable",
        "cancel_on_kill",
        "poll_interval",
        "bitahub_conn_id",
        *task.template_fields,
    ):
        if hasattr(plain, name):
            assert getattr(task, name) == getattr(plain, name), name


@pytest.mark.parametrize(("operator", "arguments", "mapped"), WITH_NAMED_OUTPUTS, ids=NAMES[: len(WITH_NAMED_OUTPUTS)])
def test_mapped_operators_push_each_entry_under_its_own_name(
    operator: type[Any], arguments: dict[str, Any], mapped: str
) -> None:
    with DAG("mapped", schedule=None):
        template = operator.partial(task_id="task", **arguments).expand(**{mapped: ["a", "b"]})
    assert template.unmap({mapped: "a"}).multiple_outputs is True


@pytest.mark.parametrize(("operator", "arguments", "mapped"), OPERATORS, ids=NAMES)
def test_defaults_of_the_dag_reach_every_operator(operator: type[Any], arguments: dict[str, Any], mapped: str) -> None:
    with DAG("defaults", schedule=None, default_args={"deferrable": True, "bitahub_conn_id": "other", "retries": 4}):
        plain = operator(task_id="plain", **arguments, **{mapped: "a"})
        template = operator.partial(task_id="mapped", **arguments).expand(**{mapped: ["a", "b"]})
    for task in (plain, template.unmap({mapped: "a"})):
        assert task.retries == 4
        assert getattr(task, "deferrable", True) is True
        assert getattr(task, "bitahub_conn_id", "other") == "other"
