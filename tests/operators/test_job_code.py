"""A job runs its author's code as it was when the task began, on every attempt until the task is cleared."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError, JobFailedError, StorageError
from airflow_bitahub.operators.code_folder import MOST_PACKED
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from tests.conftest import Submitted, TaskRun, WorkerDied

PROJECT = f"/projects/{FOLDERS.user_id}/demo"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A program beside a DAG, which tells its version in the job's output."""
    folder = tmp_path / "dags" / "my code"
    folder.mkdir(parents=True)
    (folder / "run.sh").write_text('echo one > "$1/seen"\n')
    return folder


@pytest.fixture(params=["uploaded", "inline"])
def way(request: pytest.FixtureRequest, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """How the code comes to the job."""
    if request.param == "inline":
        del connection["extra"]["storage_uri"]
        monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    return str(request.param)


def job(folder: Path, **arguments: Any) -> BitaHubJobOperator:
    defaults = {"task_id": "task", "project": "demo", "code": folder.name, "command": "sh run.sh /output"}
    dag = DAG("tests")
    dag.fileloc = str(folder.parent / "dag.py")
    return BitaHubJobOperator(**{**defaults, "poll_interval": 0.02, "retries": 2, "dag": dag, **arguments})


def seen(platform: Emulator, result: Any) -> str:
    """Return which version of the program wrote a result."""
    return Path(platform.storage, result["output_path"].lstrip("/"), "seen").read_text().strip()


def test_code_is_uploaded_once_for_all_jobs_that_run_it(
    code: Path, submitted: Submitted, platform: Emulator, way: str
) -> None:
    results = [job(code).execute(TaskRun().context()) for _ in range(2)]
    [digest] = {result["code_digest"] for result in results if result}
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert [seen(platform, result) for result in results] == ["one", "one"]
    specs = [stored.spec for stored in submitted()]
    if way == "inline":
        assert {spec.code for spec in specs} == {None}
        return
    assert {spec.code.mount_source.path for spec in specs if spec.code} == {f"{PROJECT}/code-{digest}"}
    assert {spec.task_roles[0].command for spec in specs} == {"cd /code || exit 1; sh run.sh /output"}
    beside = (platform.storage / PROJECT.lstrip("/")).iterdir()
    assert [entry.name for entry in beside if entry.name.startswith((f"code-{digest}", "."))] == [f"code-{digest}"]


@pytest.mark.usefixtures("way")
def test_retry_runs_the_code_that_the_task_began_with_and_a_clear_takes_the_new_one(
    code: Path, task_run: TaskRun, platform: Emulator, submitted: Submitted
) -> None:
    may_succeed = code.parent / "go"
    command = f"sh run.sh /output; [ -e {may_succeed} ]"
    with pytest.raises(JobFailedError):
        job(code, command=command).execute(task_run.context())
    may_succeed.touch()
    (code / "run.sh").write_text('echo two > "$1/seen"\n')
    task_run.retry()
    retried = job(code, command=command).execute(task_run.context())
    task_run.clear()
    cleared = job(code, command=command).execute(task_run.context())
    assert (seen(platform, retried), seen(platform, cleared)) == ("one", "two")
    assert len(submitted()) == 3
    assert retried is not None
    assert cleared is not None
    assert retried["code_digest"] != cleared["code_digest"]


@pytest.mark.usefixtures("way")
def test_retry_that_finds_its_job_does_not_need_the_code(code: Path, task_run: TaskRun, submitted: Submitted) -> None:
    def die(key: str, value: Any) -> None:
        raise WorkerDied(key, value)

    context = task_run.context()
    context["ti"].xcom_push = die
    with pytest.raises(WorkerDied):
        job(code).execute(context)
    (code / "run.sh").unlink()
    task_run.retry()
    result = job(code).execute(task_run.context())
    assert result is not None
    assert result["code_digest"] == task_run.store["bitahub_job"]["code_digest"]
    assert submitted.only.key.name == result["job_name"]


def gone(platform: Emulator, run: TaskRun) -> None:
    """Let somebody tidy up what the first attempt left."""
    run.store.pop("bitahub_code", None)
    for folder in (platform.storage / PROJECT.lstrip("/")).glob("code-*"):
        shutil.rmtree(folder)


@pytest.mark.usefixtures("way")
def test_code_that_is_gone_is_read_again_unless_it_has_changed(
    code: Path, task_run: TaskRun, platform: Emulator
) -> None:
    for _ in range(2):
        with pytest.raises(JobFailedError):
            job(code, command="exit 1").execute(task_run.context())
        gone(platform, task_run)
        task_run.retry()
    (code / "run.sh").write_text("echo two")
    with pytest.raises(AirflowFailException, match=r"the code that this task began with is gone .* Clear the task"):
        job(code, command="exit 1").execute(task_run.context())


@pytest.mark.usefixtures("connection")
def test_upload_that_fails_submits_nothing_and_the_next_try_repeats_it(
    code: Path, task_run: TaskRun, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("airflow_bitahub.storage.local.LocalFiles.create_folder", full)
        with pytest.raises(StorageError, match=r"^code: .*/code-.* cannot be written: no space left"):
            job(code).execute(task_run.context())
    assert (submitted(), task_run.store) == ([], {})
    task_run.retry()
    assert job(code).execute(task_run.context())


def test_code_of_almost_the_largest_size_travels_inside_a_command(
    code: Path, task_run: TaskRun, platform: Emulator, monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any]
) -> None:
    del connection["extra"]["storage_uri"]
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    (code / "noise").write_bytes(os.urandom(MOST_PACKED - 600))
    assert seen(platform, job(code).execute(task_run.context())) == "one"
    assert len(json.dumps(task_run.store["bitahub_code"])) < 65_535, "more than this, Airflow's store complains about"


@pytest.mark.usefixtures("way")
def test_every_role_starts_in_the_code(code: Path, task_run: TaskRun, submitted: Submitted, platform: Emulator) -> None:
    roles = [{"task_role_name": "a"}, {"task_role_name": "b", "command": "sh run.sh /output; exit 0"}]
    assert seen(platform, job(code, task_roles=roles).execute(task_run.context())) == "one"
    assert [role.command.rpartition("; ")[2] for role in submitted.only.spec.task_roles] == [
        "sh run.sh /output",
        "exit 0",
    ]


@pytest.mark.usefixtures("connection")
def test_missing_input_costs_no_upload(
    code: Path, task_run: TaskRun, platform: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_bitahub.operators.preflight.PAUSES", ())
    (code / "run.sh").write_text("never uploaded")
    before = set((platform.storage / PROJECT.lstrip("/")).iterdir())
    with pytest.raises(AirflowFailException, match="Nothing was submitted"):
        job(code, datasets=["never"]).execute(task_run.context())
    assert set((platform.storage / PROJECT.lstrip("/")).iterdir()) == before


@pytest.mark.usefixtures("connection")
def test_version_of_the_dags_bundle_is_on_record_with_the_job(code: Path, task_run: TaskRun) -> None:
    context = task_run.context()
    context["ti"].bundle_instance = SimpleNamespace(version="9c1e7d2")
    result = job(code).execute(context)
    assert result is not None
    assert list(result)[-2:] == ["code_digest", "bundle_version"]
    assert task_run.store["bitahub_job"]["bundle_version"] == result["bundle_version"] == "9c1e7d2"


# The argument ----------------------------------------------------------------------------------------------------


def test_code_may_be_a_function_or_a_path() -> None:
    assert job(Path("x"), code=seen).code == __file__
    assert job(Path("x"), code=Path("some/folder")).code == "some/folder"
    assert job(Path("x"), code="{{ params.code }}").code == "{{ params.code }}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"code_path": "/projects/{user_id}/other/code"}, "Give code or code_path, not both"),
        ({"code": len}, "code must be a folder, a file, or a function that a file defines"),
        ({"code": 7.5j}, "code must be text"),
    ],
)
def test_wrong_code_shows_when_the_dag_is_read(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        job(Path("x"), **arguments)


def test_saving_a_model_takes_no_code() -> None:
    make: Callable[..., Any] = BitaHubSaveModelOperator
    with pytest.raises(TypeError, match="takes no code"):
        make(task_id="t", model="m", source="/x", source_folder="y", code="z")


@pytest.mark.usefixtures("connection")
def test_code_path_of_default_args_can_be_given_up_for_one_task(code: Path, task_run: TaskRun) -> None:
    assert job(code, code_path=None).execute(task_run.context())
