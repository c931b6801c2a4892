"""Airflow accepts the example DAGs and each operator, mapped or not."""

from __future__ import annotations

import json
import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError

from airflow_bitahub.operators.best import BitaHubBestOperator
from airflow_bitahub.operators.delete import BitaHubDeleteServingOperator
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.rollback import BitaHubRollbackServingOperator
from airflow_bitahub.operators.scale import BitaHubScaleServingOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.start import BitaHubStartServingOperator
from airflow_bitahub.operators.stop import BitaHubStopServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator
from airflow_bitahub.sensors.job import BitaHubJobSensor
from airflow_bitahub.sensors.serving import BitaHubServingSensor
from tests.conftest import REPOSITORY
from tests.e2e.dag_runs import ALL, LATER

EXAMPLES: dict[str, DAG] = {
    file.stem: runpy.run_path(str(file))["dag"] for file in sorted((REPOSITORY / "dags").glob("*.py"))
}
dag = EXAMPLES["mnist_lifecycle"]
ORDER = {
    "mnist_lifecycle": ["train", "save_model", "infer", "evaluate", "gate", "deploy", "ask"],
    "nightly_check": ["is_ready", "read_sample", "ask", "compare", "is_worse", "roll_back"],
    "on_new_model": ["newest_version", "verify"],
    "python_function": ["train", "best"],
    "parameter_sweep": [
        *("read_learning_rates", "train", "best", "save_model", "infer", "evaluate", "gate", "deploy"),
    ],
    "release_with_approval": [
        *("train", "save_model", "infer", "evaluate", "gate", "newest_only", "report", "approve", "deploy"),
    ],
}

# The required arguments of each operator, and one more argument to expand a mapped operator over.
OPERATORS: list[tuple[type[Any], dict[str, Any], str]] = [
    (BitaHubJobOperator, {"project": "demo"}, "command"),
    (BitaHubTrainOperator, {"project": "demo"}, "command"),
    (BitaHubInferOperator, {"project": "demo", "command": "true"}, "model"),
    (BitaHubEvaluateOperator, {"project": "demo", "predictions": "/projects/u/p/outputs/1"}, "command"),
    (BitaHubSaveModelOperator, {"source": "/projects/u/p/outputs/1", "source_folder": "dense"}, "model"),
    (BitaHubDeployServingOperator, {"model": "dense", "commands": "true"}, "serving_name"),
    (BitaHubRollbackServingOperator, {}, "serving_name"),
    (BitaHubStartServingOperator, {}, "serving_name"),
    (BitaHubScaleServingOperator, {"replicas": 2}, "serving_name"),
    (BitaHubStopServingOperator, {}, "serving_name"),
    (BitaHubDeleteServingOperator, {}, "serving_name"),
    (BitaHubInvokeServingOperator, {"image_url": "u"}, "serving_name"),
    (BitaHubBestOperator, {"metric": "loss"}, "results"),
    (BitaHubMetricGateOperator, {"conditions": "accuracy > 0.9"}, "metrics"),
    (BitaHubJobSensor, {}, "job_name"),
    (BitaHubServingSensor, {}, "serving_name"),
]
NAMES = [operator.__name__ for operator, _, _ in OPERATORS]
WITH_NAMED_OUTPUTS = OPERATORS[:7]


def serialized(dag: DAG) -> dict[str, Any]:
    """Return the DAG as Airflow stores it, after checking that Airflow can read it."""
    from airflow.serialization.serialized_objects import DagSerialization  # imports as much again as all tests do

    stored: dict[str, Any] = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    DagSerialization.from_dict(stored)
    return stored


def stored_tasks(dag: DAG) -> dict[str, dict[str, Any]]:
    tasks = [task["__var"] for task in serialized(dag)["dag"]["tasks"]]
    return {task["task_id"]: task for task in tasks}


def test_every_example_runs_in_the_end_to_end_tests() -> None:
    assert {run.dag_id for run in ALL.values()}.union(LATER) >= set(EXAMPLES)


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # of Airflow itself
@pytest.mark.parametrize("syntax", ["glob", "regexp"])  # of [core] dag_ignore_file_syntax
def test_airflow_reads_no_program_of_the_examples_as_a_dag(syntax: str) -> None:
    from airflow._shared.module_loading import find_path_from_directory

    found = find_path_from_directory(REPOSITORY / "dags", ".airflowignore", syntax)
    assert {Path(path).stem for path in found if path.endswith(".py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_can_be_stored_by_airflow(name: str) -> None:
    assert serialized(EXAMPLES[name])["dag"]["dag_id"] == name


@pytest.mark.parametrize("name", EXAMPLES)
def test_tasks_of_an_example_follow_each_other_as_its_documentation_says(name: str) -> None:
    example, order = EXAMPLES[name], ORDER[name]
    assert [task.task_id for task in example.topological_sort()] == order
    for task, following in pairwise(order):
        assert following in example.get_task(task).downstream_task_ids
    assert " -> ".join(order) in (example.doc_md or "")
    assert all(f"| `{task}` |" in (example.doc_md or "") for task in order)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_paused_and_unpausing_it_starts_no_run(name: str) -> None:
    assert EXAMPLES[name].catchup is False
    assert EXAMPLES[name].start_date is None
    assert EXAMPLES[name].is_paused_upon_creation or not EXAMPLES[name].schedule


def test_example_waits_in_the_triggerer() -> None:
    waiting = [task.task_id for task in dag.tasks if getattr(task, "deferrable", False)]
    assert waiting == ["train", "save_model", "infer", "evaluate", "deploy"]


def test_example_passes_the_version_it_trained_from_task_to_task() -> None:
    tasks = stored_tasks(dag)
    assert "infer" in tasks["save_model"]["downstream_task_ids"]
    assert "deploy" in tasks["save_model"]["downstream_task_ids"]
    for task in ("train", "save_model", "infer", "evaluate"):
        assert tasks[task]["multiple_outputs"] is True, f"{task}.output[...] needs it"


def test_examples_say_of_a_model_which_job_has_trained_it() -> None:
    sources: dict[str, Any] = {
        name: getattr(example.get_task("save_model"), "source", None)
        for name, example in EXAMPLES.items()
        if "save_model" in example.task_ids
    }
    assert {name: source.key for name, source in sources.items()} == dict.fromkeys(sources, "return_value")
    assert len(sources) == 3


@pytest.mark.parametrize(("epochs", "more"), [(None, ""), (3, " --epochs 3")])
def test_example_trains_by_the_documents_own_command(epochs: int | None, more: str) -> None:
    task: Any = dag.get_task("train")
    rendered = task.render_template(task.command, {"params": {"epochs": epochs}})
    document = json.loads((REPOSITORY / "tests/golden/train_job.json").read_text())["request"]["json"]
    command = document["taskRoles"][0]["command"]
    assert rendered.replace("{user_name}", "PengchengYang") == command.removesuffix(";") + more + ";"


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
        ("sample", "/tmp/sample"),
        ("picture", "http://127.0.0.1/datasets/u/7.png"),
    ],
)
def test_example_refuses_params_that_make_no_sense(param: str, value: Any) -> None:
    definition: Any = dag.params.get_param(param)
    with pytest.raises(ParamValidationError):
        definition.resolve(value=value)


@pytest.mark.parametrize(
    ("param", "value"),
    [("threshold", 0), ("threshold", 1), ("accelerator", None), ("epochs", None), ("epochs", 1), ("label", 0)],
)
def test_example_takes_params_that_make_sense(param: str, value: Any) -> None:
    definition: Any = dag.params.get_param(param)
    assert definition.resolve(value=value) == value


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_defaults_are_valid(name: str) -> None:
    EXAMPLES[name].params.validate()


def test_nightly_check_computes_the_share_of_right_answers() -> None:
    compare: Any = EXAMPLES["nightly_check"].get_task("compare")
    assert compare.python_callable({"predictions": [7, 1, 0, 2]}, ["7", "1", "0", "3"]) == {"accuracy": 0.75}
    with pytest.raises(ValueError, match="zip"):
        compare.python_callable({"predictions": [7]}, ["7", "1"])


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
