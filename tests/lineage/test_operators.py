"""What operators tell the real OpenLineage provider, each event checked against the standard."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

from airflow_bitahub.assets import BitaHubModel, BitaHubServing
from airflow_bitahub.decorators.bitahub import BitaHubFunctionOperator
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import JobFailedError
from airflow_bitahub.lineage.asset_names import convert_asset
from airflow_bitahub.operators.delete import BitaHubDeleteServingOperator
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from airflow_bitahub.operators.stop import BitaHubStopServingOperator
from airflow_bitahub.operators.train import BitaHubTrainOperator
from tests.conftest import IMAGE, Submitted, TaskRun, events_of
from tests.lineage.conftest import Told, plain

pytestmark = pytest.mark.usefixtures("connection")

_numbers = count(1)
JOB: dict[str, Any] = {"task_id": "task", "project": "told", "poll_interval": 0.02, "retries": 2, "code_path": None}
SECRET = "told-to-nobody"


@pytest.fixture
def scripted(platform: Emulator) -> Emulator:
    """An emulator on which the jobs and servings that begin with ``told`` are scripted."""
    results = {"evaluation_result.json": {"accuracy": 0.9}, "dense/weights": "1"}
    platform.scripts.add(ScriptedJob(job_name="told-*", run_seconds=0.05, outputs=results))
    platform.scripts.add(ScriptedJob(job_name="told-*", command="fail", exit_code=3))
    platform.scripts.add(ScriptedJob(job_name="told-*", command="last", run_seconds=1.5))
    platform.scripts.add(ScriptedServing(serving_name="told*", answer={"predictions": [7]}))
    return platform


@pytest.fixture
def names(platform: Emulator) -> Callable[[str], tuple[str, str]]:
    """Return the namespace and name that a path has in events."""

    def name(path: str) -> tuple[str, str]:
        if path.startswith(("/models/", "/servings/")):
            return f"bitahub://{platform.url.partition('://')[2]}", path.lstrip("/")
        return "file", f"{platform.storage}{path}"

    return name


def names_in(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["namespace"], each["name"]) for each in datasets]


def train(**more: Any) -> BitaHubTrainOperator:
    return BitaHubTrainOperator(
        **{**JOB, "command": f"API_KEY={SECRET} python train.py", "datasets": ["MNIST"], **more}
    )


@pytest.mark.parametrize("way", ["on a worker", "deferred", "mapped"])
def test_a_job_tells_its_folders_and_itself(
    told: Told, scripted: Emulator, task_run: TaskRun, submitted: Submitted, names: Any, way: str
) -> None:
    arguments: dict[str, Any] = {
        "code_path": "/projects/{user_id}/{project}/code",
        "models": ["/models/{user_id}/dense/3"],
        "accelerator": "gtx-1080-ti",
        "accelerator_count": 2,
        "preflight": False,
    }

    def make() -> Any:
        if way == "mapped":
            partial = {**JOB, **arguments, "datasets": ["MNIST"]}
            return BitaHubTrainOperator.partial(**partial).expand(command=["x"]).unmap({"command": f"x {SECRET}"})
        if way == "deferred":
            return train(**arguments, deferrable=True, defer_after=0, command="last")
        return train(**arguments)

    operator = make()
    inputs = [
        names(FOLDERS.code("told")),
        names(FOLDERS.dataset("MNIST")[0]),
        names(f"/models/{FOLDERS.user_id}/dense"),
    ]
    begun = told.start(operator)
    assert names_in(begun["inputs"]) == inputs
    assert "bitahub_job" not in begun["run"]["facets"]
    if way == "deferred":
        with pytest.raises(TaskDeferred) as deferral:
            operator.execute(task_run.context())
        operator = make()
        told.start(operator)  # as Airflow does for each part of a task
        operator.execute_complete(task_run.context(), events_of(deferral.value.trigger)[0])
    else:
        operator.execute(task_run.context())

    event = told.complete(operator)
    job: Any = submitted.only
    assert names_in(event["inputs"]) == inputs
    assert plain(event["inputs"][2]["facets"])["version"] == {"datasetVersion": "3"}
    output = job.spec.output.mount_source.path
    assert names_in(event["outputs"]) == [names(output)]
    facets = plain(event["run"]["facets"])
    assert facets["externalQuery"] == {"externalQueryId": job.key.name, "source": scripted.url}
    seconds = {name: facets["bitahub_job"].pop(name) for name in ("queueSeconds", "runSeconds")}
    assert all(isinstance(each, float) for each in seconds.values())
    assert facets["bitahub_job"] == {
        "jobName": job.key.name,
        "url": task_run.xcoms["bitahub_job_url"],
        "status": "SUCCEEDED",
        "image": IMAGE,
        "accelerator": "gtx-1080-ti",
        "acceleratorCount": 2,
        "attempt": 1,
        "exitCode": 0,
    }
    assert SECRET not in told.file.read_text()


@pytest.mark.usefixtures("scripted")
def test_a_job_that_fails_tells_how(told: Told, task_run: TaskRun) -> None:
    operator = train(command="fail")
    with pytest.raises(JobFailedError) as raised:
        operator.execute(task_run.context())
    event = told.fail(operator, raised.value)
    assert event["eventType"] == "FAIL"
    facets = event["run"]["facets"]
    assert (facets["bitahub_job"]["status"], facets["bitahub_job"]["exitCode"]) == ("FAILED", 3)
    assert facets["errorMessage"]["message"] == str(raised.value)
    assert names_in(event["outputs"]), "what it has written is there"


@pytest.mark.parametrize("more", [{"datasets": ["a/b"]}, {"code_path": "/projects/{{ no_such }}/code"}])
def test_a_task_that_cannot_be_read_tells_no_wrong_folder(told: Told, more: dict[str, Any]) -> None:
    operator = train()
    vars(operator).update(more)  # as a template that could not be rendered
    event = told.fail(operator, ValueError("no"))
    assert not {name for name in names_in(event["inputs"]) if "{" in name[1] or "a/b" in name[1]}


@pytest.mark.parametrize("way", ["a folder", "a function"])
def test_code_of_the_worker_is_an_input(
    told: Told, task_run: TaskRun, submitted: Submitted, names: Any, tmp_path: Path, way: str
) -> None:
    if way == "a folder":
        (tmp_path / "train.py").touch()
        operator: Any = train(project="demo", command="true", code=str(tmp_path), datasets=[])
    else:
        operator = BitaHubFunctionOperator(
            task_id="task", project="demo", python_callable=seven, poll_interval=0.02, multiple_outputs=False
        )
    operator.dag = DAG("tests")
    told.start(operator)
    operator.execute(task_run.context())
    event = told.complete(operator)
    spec = submitted.only.spec
    [code] = [*spec.datasets, *([spec.code] if spec.code else [])]
    assert names_in(event["inputs"]) == [names(code.mount_source.path)]
    digest = event["run"]["facets"]["bitahub_job"].get("codeDigest")
    assert digest is None if way == "a function" else code.mount_source.path.endswith(digest)


def seven() -> int:
    return 7


def test_an_evaluation_tells_its_metrics(told: Told, scripted: Emulator, task_run: TaskRun, names: Any) -> None:
    predictions = f"{FOLDERS.outputs('told')}/predictions"
    (scripted.storage / predictions.lstrip("/")).mkdir(parents=True, exist_ok=True)
    operator = BitaHubEvaluateOperator(**JOB, command="x", predictions=predictions)
    operator.execute(task_run.context())
    event = told.complete(operator)
    assert names_in(event["inputs"]) == [names(predictions)]
    assert plain(event["outputs"][0]["facets"])["bitahub_metrics"] == {"metrics": {"accuracy": 0.9}}


@pytest.mark.parametrize("more", [{}, {"copy_by": "storage"}, {"versioned": False}, {"wait_for_completion": False}])
def test_a_model_has_one_name_for_all_that_read_and_write_it(
    told: Told, scripted: Emulator, task_run: TaskRun, names: Any, more: dict[str, Any]
) -> None:
    name = f"told-{next(_numbers)}"
    model, source = FOLDERS.model(name)[0], f"{FOLDERS.outputs('trained')}/{name}"
    for folder in (model, f"{source}/dense"):
        (scripted.storage / folder.lstrip("/")).mkdir(parents=True)
    (scripted.storage / source.lstrip("/") / "dense/weights").touch()
    save = BitaHubSaveModelOperator(
        **{key: value for key, value in JOB.items() if key != "code_path"},
        model=name,
        source=source,
        source_folder="dense",
        metrics={"accuracy": 0.9, "loss": float("nan")},
        **more,
    )
    assert names_in(told.start(save)["outputs"]) == [names(model)]
    result: Any = save.execute(task_run.context())
    event = told.complete(save)
    assert names_in(event["inputs"]) == [names(source)]
    assert names_in(event["outputs"]) == [names(model)]
    facets = plain(event["outputs"][0]["facets"])
    assert facets["datasetType"] == {"datasetType": "MODEL"}
    assert facets["bitahub_metrics"] == {"metrics": {"accuracy": 0.9}}
    is_version = more in ({}, {"copy_by": "storage"})
    assert facets.get("version") == ({"datasetVersion": result["version"]} if is_version else None)
    [place] = facets["symlinks"]["identifiers"]
    assert place["name"] == f"{scripted.storage}{result['model_path'] if is_version else model}"

    infer = BitaHubInferOperator(**JOB, command="x", model=result["model_path"])
    assert names_in(told.start(infer)["inputs"]) == [names(model)]
    for asset in (BitaHubModel(name).asset, BitaHubModel(name).versions):
        assert (found := convert_asset(asset, None)) is not None
        assert (found.namespace, found.name) == names(model)


@pytest.mark.usefixtures("variables", "scripted")
def test_a_serving_has_one_name_for_all_that_change_and_ask_it(told: Told, task_run: TaskRun, names: Any) -> None:
    serving, model = names("/servings/told"), f"/models/{FOLDERS.user_id}/dense"
    deploy = BitaHubDeployServingOperator(
        task_id="task",
        serving_name="told",
        model=f"{model}/3",
        commands=f"serve {SECRET}",
        secret_envs={"API_KEY": SECRET},
        metrics={"accuracy": 0.9},
        preflight=False,
        poll_interval=0.02,
    )
    begun = told.start(deploy)
    assert "version" not in begun["outputs"][0]["facets"]
    deploy.execute(task_run.context())
    event = told.complete(deploy)
    for each in (begun, event):
        assert (names_in(each["inputs"]), names_in(each["outputs"])) == ([names(model)], [serving])
    facets = plain(event["outputs"][0]["facets"])
    assert facets["datasetType"] == {"datasetType": "SERVING"}
    assert len(facets["version"]["datasetVersion"]) == 16
    assert facets["bitahub_metrics"] == {"metrics": {"accuracy": 0.9}}

    ask = BitaHubInvokeServingOperator(task_id="task", serving_name="told", json={})
    gate = BitaHubMetricGateOperator(task_id="task", metrics={"a": 1}, conditions="a > champion.a", champion="told")
    for reader in (ask, gate):
        assert names_in(told.complete(reader)["inputs"]) == [serving]
    stop = BitaHubStopServingOperator(task_id="task", serving_name="told")
    assert names_in(told.complete(stop)["outputs"]) == [serving]
    delete = BitaHubDeleteServingOperator(task_id="task", serving_name="told")
    delete.execute(task_run.context())
    removed = told.complete(delete)["outputs"]
    assert names_in(removed) == [serving]
    assert plain(removed[0]["facets"])["lifecycleStateChange"] == {"lifecycleStateChange": "DROP"}
    assert (found := convert_asset(BitaHubServing("told").asset, None)) is not None
    assert (found.namespace, found.name) == serving
    assert SECRET not in told.file.read_text()


@pytest.mark.parametrize("own", ["", "own"])
@pytest.mark.usefixtures("told")
def test_a_job_learns_which_run_started_it(platform: Emulator, task_run: TaskRun, own: str) -> None:
    context = task_run.context()
    context["ti"].get_template_context = lambda: context
    context["dag_run"].conf = {}
    date = task_run.logical_date
    assert date is not None
    run_id = OpenLineageAdapter.build_task_instance_run_id("tests", "task", 1, date, -1)
    root_id = OpenLineageAdapter.build_dag_run_id("tests", date, 0)
    command = "echo $OPENLINEAGE_PARENT_ID $OPENLINEAGE_ROOT_PARENT_ID > /output/said"
    if own:
        command = f"export OPENLINEAGE_PARENT_ID={own}; {command}"
    result: Any = train(project="demo", command=command).execute(context)
    said = (platform.storage / result["output_path"].lstrip("/") / "said").read_text()
    assert said == f"{own or f'default/tests.task/{run_id}'} default/tests/{root_id}\n"


def unfit(_name: str) -> Any:
    raise RuntimeError("needs Apache Airflow 4")


@pytest.mark.parametrize("way", ["off", "missing", "unfit"])
@pytest.mark.usefixtures("scripted")
def test_without_openlineage_a_submission_is_as_ever(
    monkeypatch: pytest.MonkeyPatch, task_run: TaskRun, submitted: Submitted, told: Told, way: str
) -> None:
    if way == "off":
        monkeypatch.setenv("AIRFLOW__OPENLINEAGE__DISABLED", "True")
    elif way == "missing":
        monkeypatch.setitem(sys.modules, "airflow.providers.openlineage", None)
    else:  # a provider raises RuntimeError where it is imported into an Airflow that is too old for it
        provider: Any = ModuleType("airflow.providers.openlineage")
        provider.__getattr__ = unfit
        monkeypatch.setitem(sys.modules, "airflow.providers.openlineage", provider)
    train(command="python train.py").execute(task_run.context())
    assert submitted.only.spec.task_roles[0].command == "python train.py"
    assert not told.file.exists()
