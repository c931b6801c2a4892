"""What an inference job sees."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.operators.infer import BitaHubInferOperator
from tests.conftest import Submitted, TaskRun

pytestmark = pytest.mark.usefixtures("connection")

VERSION = f"/models/{FOLDERS.user_id}/seen/20260101-abc-1"


@pytest.fixture(autouse=True)
def _model(platform: Emulator) -> None:
    for version in (VERSION, FOLDERS.model("other")[0]):
        folder = platform.storage / version.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text(version)


def infer(**arguments: Any) -> BitaHubInferOperator:
    return BitaHubInferOperator(
        **{"task_id": "task", "project": "demo", "command": "true", "poll_interval": 0.02, **arguments}
    )


@pytest.mark.parametrize(
    ("model", "path"),
    [
        pytest.param("seen", f"/models/{FOLDERS.user_id}/seen", id="by name"),
        pytest.param(VERSION, VERSION, id="by the path of a version"),
        pytest.param("/models/{user_id}/seen/20260101-abc-1", VERSION, id="by a path with a placeholder"),
        pytest.param({"path": VERSION, "mount_path": "/model/{user_name}/seen"}, VERSION, id="as a folder"),
    ],
)
def test_inference_sees_the_model_under_its_name_however_it_is_given(
    model: str | dict[str, str], path: str, task_run: TaskRun, submitted: Submitted
) -> None:
    infer(model=model).execute(task_run.context())
    [mount] = submitted.only.spec.models or []
    assert mount.mount_source.path == path
    assert mount.mount_source.mount_path == f"/model/{FOLDERS.user_name}/seen"


def test_inference_reads_the_very_version_it_was_given(task_run: TaskRun, platform: Emulator) -> None:
    result = infer(model=VERSION, command="cp /model/{user_name}/seen/weights /output").execute(task_run.context())
    assert result is not None
    assert (platform.storage / result["output_path"].lstrip("/") / "weights").read_text() == VERSION


@pytest.mark.parametrize("more", [None, ["other"]])
def test_inference_may_see_more_models_behind_the_first(
    more: list[str] | None, task_run: TaskRun, submitted: Submitted
) -> None:
    infer(model=VERSION, models=more).execute(task_run.context())
    mounts = [mount.mount_source.mount_path for mount in submitted.only.spec.models or []]
    assert mounts == [f"/model/{FOLDERS.user_name}/{name}" for name in ["seen", *(more or [])]]


def test_model_that_was_never_saved_fails_at_once(task_run: TaskRun, submitted: Submitted) -> None:
    with pytest.raises(AirflowFailException, match=r"model .*never-saved' does not exist"):
        infer(model="never-saved", preflight=False).execute(task_run.context())
    assert submitted() == []
