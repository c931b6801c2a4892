"""What certainly cannot work is refused before anything is submitted; what is only doubtful is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ServingFailedError
from airflow_bitahub.hooks.settings import Settings
from airflow_bitahub.operators import preflight
from airflow_bitahub.operators.evaluate import BitaHubEvaluateOperator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.operators.preflight import Limits, Replica, image_without_version, impossible
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator
from tests.conftest import Submitted, TaskRun, WorkerDied

USER = FOLDERS.user_id
Change = Callable[..., None]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "PAUSES", ())


@pytest.fixture
def extra(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Change:
    """Changes the connection's extra; None removes an entry."""

    def change(**changes: Any) -> None:
        changed = {name: value for name, value in {**connection["extra"], **changes}.items() if value is not None}
        monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps({**connection, "extra": changed}))

    return change


@pytest.fixture(autouse=True)
def storage(platform: Emulator, extra: Change) -> Path:
    """The platform's storage, with a model of two versions, a result, and a project without code."""
    for path in (
        f"/models/{USER}/flower-net/v1",
        f"/models/{USER}/flower-net/v2",
        f"/projects/{USER}/flowers/outputs/7/net",
        f"/datasets/{USER}/roses",
    ):
        (platform.storage / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    extra()
    return platform.storage


def job(**arguments: Any) -> BitaHubJobOperator:
    defaults = {"task_id": "task", "project": "demo", "command": "true", "poll_interval": 0.02, "retries": 2}
    return BitaHubJobOperator(**{**defaults, **arguments})


JOB: dict[str, Any] = {"task_id": "task", "project": "demo", "command": "true"}


@pytest.mark.parametrize(
    ("operator", "says"),
    [
        (
            partial(BitaHubJobOperator, **JOB, datasets=["roses", "Rosse"]),
            rf"datasets\[1\]: /datasets/{USER}/Rosse does not exist\. Did you mean 'roses'\? "
            rf"/datasets/{USER} contains .*'roses'",
        ),
        (
            partial(BitaHubJobOperator, **JOB, models=["/models/{user_id}/flower-net/v10"]),
            rf"models\[0\]: /models/{USER}/flower-net/v10 does not exist\. Did you mean 'v1'\? .* 'v1', 'v2'\.",
        ),
        (
            partial(BitaHubJobOperator, **{**JOB, "project": "flowers"}),
            rf"code_path: /projects/{USER}/flowers/code does not exist\. .* contains 'outputs'\. Give code=\.\.\., or",
        ),
        (partial(BitaHubInferOperator, **JOB, model="flowernet"), r"model: .*/flowernet .* mean 'flower-net'\?"),
        (
            partial(BitaHubEvaluateOperator, **JOB, predictions="/projects/{user_id}/flowers/output/7"),
            rf"predictions: /projects/{USER}/flowers/output does not exist\. Did you mean 'outputs'\?",
        ),
        (
            partial(
                BitaHubSaveModelOperator,
                task_id="task",
                model="flower-net",
                source=f"/projects/{USER}/flowers/outputs/7",
                source_folder="nett",
            ),
            r"source_folder: .*/outputs/7/nett does not exist\. Did you mean 'net'\?",
        ),
        (
            partial(BitaHubJobOperator, **JOB, datasets=["rose"], models=["flower-ned"]),
            r"datasets\[0\]: .* models\[0\]: ",
        ),
    ],
)
def test_missing_input_is_named_with_its_nearest_spelling_and_nothing_is_submitted(
    operator: Callable[[], BitaHubJobOperator], says: str, task_run: TaskRun, submitted: Submitted
) -> None:
    with pytest.raises(AirflowFailException, match=f"^Nothing was submitted. {says}"):
        operator().execute(task_run.context())
    assert submitted() == []
    assert not task_run.store, "nothing is on record"


def test_retry_that_finds_its_job_does_not_depend_on_its_inputs_any_more(
    task_run: TaskRun, submitted: Submitted, storage: Path
) -> None:
    def die(key: str, value: Any) -> None:
        raise WorkerDied(key, value)

    context = task_run.context()
    context["ti"].xcom_push = die
    with pytest.raises(WorkerDied):
        job(datasets=["roses"]).execute(context)
    submitted.wait(submitted.only.key.name)
    (storage / f"datasets/{USER}/roses").rename(storage / f"datasets/{USER}/tulips")
    task_run.retry()
    assert job(datasets=["roses"]).execute(task_run.context())
    assert submitted.requests("POST") == [submitted.only.key.name]


def test_input_that_a_network_file_system_shows_late_is_waited_for(
    task_run: TaskRun, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "PAUSES", (1,))
    late = storage / f"datasets/{USER}/late"
    monkeypatch.setattr("airflow_bitahub.operators.preflight.time.sleep", lambda _: late.mkdir(exist_ok=True))
    assert job(datasets=["late"]).execute(task_run.context())


@pytest.mark.parametrize("view", ["not mounted", "no such folder", "without datasets"])
def test_storage_that_airflow_cannot_see_costs_no_good_job(
    view: str, task_run: TaskRun, tmp_path: Path, extra: Change, caplog: pytest.LogCaptureFixture
) -> None:
    if view == "without datasets":
        (tmp_path / "projects" / USER / "demo" / "code").mkdir(parents=True)
    extra(storage_uri=f"file://{tmp_path}{'/never' * (view == 'no such folder')}")
    assert job(datasets=["roses"]).execute(task_run.context())
    assert "Inputs were not looked up before the submission: " in caplog.text
    assert ("Airflow finds nothing in /datasets/" in caplog.text) == (view != "no such folder")


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [({}, {"storage_uri": None}), ({"preflight": False}, {}), ({}, {"preflight": "false"})],
    ids=["no storage", "the task's", "the installation's"],
)
def test_without_a_preflight_the_platform_decides(
    arguments: dict[str, Any],
    changes: dict[str, Any],
    task_run: TaskRun,
    extra: Change,
    caplog: pytest.LogCaptureFixture,
) -> None:
    extra(**changes)
    with pytest.raises(AirflowFailException, match=r"dataset .*never' does not exist"):
        job(datasets=["never"], **arguments).execute(task_run.context())
    assert "not looked up" not in caplog.text


def test_folder_outside_the_platforms_areas_is_not_looked_up(task_run: TaskRun, submitted: Submitted) -> None:
    with pytest.raises(AirflowFailException, match="is not below /projects, /datasets or /models"):
        job(datasets=[{"path": "/public/data", "mount_path": "/data"}]).execute(task_run.context())
    assert submitted() == []


# The machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"accelerator": "gtx-1080ti"},
            "accelerator is 'gtx-1080ti', .*'accelerators' does not list. Did you mean 'gtx-1080-ti'?",
        ),
        ({"cpu": 65}, r"cpu is 65, and no machine has more than 64 \(.*'max_cpu'\)"),
        (
            {"task_roles": [{}, {"memory_mb": 2**20, "task_role_name": "big"}]},
            r"task_roles\[1\]\.memory_mb is 1048576, and no machine has more than 262144 ",
        ),
        (
            {"task_roles": [{"acc_device": {"device_type": "a100", "requests": 1}}]},
            r"task_roles\[0\]\.acc_device is 'a100'.* It contains 'gtx-1080-ti', 'v100'\.",
        ),
    ],
)
def test_what_no_machine_has_is_refused_in_the_operators_words(
    arguments: dict[str, Any], says: str, task_run: TaskRun, submitted: Submitted, extra: Change
) -> None:
    extra(accelerators="gtx-1080-ti, v100", max_cpu="64", max_memory_mb=262144)
    with pytest.raises(AirflowFailException, match=says):
        job(**arguments).execute(task_run.context())
    assert submitted() == []


def test_machine_that_has_what_is_asked_for_is_not_complained_about() -> None:
    replica = Replica("image:1", 64, 1000, "v100", {})
    assert list(impossible(replica, Limits(["v100"], 64, 1000))) == []
    assert list(impossible(replica, Limits.of(Settings("http://platform", None, "", {})))) == []


@pytest.mark.parametrize(
    ("image", "is_doubtful"),
    [
        ("tensorflow", True),
        ("10.11.3.8:5000/bitahub/tensorflow", True),
        ("tensorflow:latest", True),
        ("10.11.3.8:5000/bitahub/tensorflow:2.4", False),
        ("tensorflow@sha256:0123", False),
    ],
)
def test_image_whose_name_does_not_say_which_one_it_is_is_doubtful(image: str, is_doubtful: bool) -> None:
    said = image_without_version(Replica(image, 1, 1, None, {"image": "task_roles[0].image"}))
    assert said.startswith("task_roles[0].image: ") == is_doubtful


@pytest.mark.parametrize("wrong", [{"accelerators": [1]}, {"accelerators": {"a": 1}}, {"max_cpu": "many"}])
def test_extras_of_the_installation_are_checked(wrong: dict[str, Any], task_run: TaskRun, extra: Change) -> None:
    extra(**wrong)
    with pytest.raises(AirflowFailException, match=f"extra '{next(iter(wrong))}' must be"):
        job().execute(task_run.context())


# Deployments -----------------------------------------------------------------------------------------------------


def deploy(**arguments: Any) -> BitaHubDeployServingOperator:
    return BitaHubDeployServingOperator(
        **{
            "task_id": "task",
            "serving_name": "flowers",
            "model": f"/models/{USER}/flower-net/v1",
            "commands": "exit 3",
            "poll_interval": 0.02,
            "retries": 2,
            **arguments,
        }
    )


@pytest.mark.usefixtures("variables")
def test_deployment_of_a_missing_model_creates_nothing(task_run: TaskRun, platform: Emulator, extra: Change) -> None:
    extra(max_cpu=1)
    with pytest.raises(AirflowFailException, match=r"cpu is 2, .* model: .*/v9 does not exist\."):
        deploy(model=f"/models/{USER}/flower-net/v9").execute(task_run.context())
    assert not [serving for serving in platform.state.servings() if serving.key.name.startswith("flowers")]


@pytest.mark.usefixtures("variables")
def test_deployment_that_is_under_way_does_not_depend_on_a_look(
    task_run: TaskRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_bitahub.client.time.sleep", lambda _: None)
    looks: list[object] = []

    def look(_: object, inputs: object) -> list[str]:
        looks.append(inputs)
        return []

    def die(*_: Any) -> Any:
        raise WorkerDied

    monkeypatch.setattr(preflight, "missing", look)
    dying: Any = deploy()
    dying._wait = die
    with pytest.raises(WorkerDied):
        dying.execute(task_run.context())
    task_run.retry()
    with pytest.raises(ServingFailedError):
        deploy().execute(task_run.context())
    assert looks == [{"model": f"/models/{USER}/flower-net/v1"}]
