"""A saved model version is complete, and never changes."""

from __future__ import annotations

import subprocess
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.mounts.symlinks import PathMap
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError, JobFailedError
from airflow_bitahub.identity import JobRecord
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from tests.conftest import Submitted, TaskRun

_numbers = count(1)


@pytest.fixture
def source(platform: Emulator) -> str:
    """Server path of a job's output that holds a trained model."""
    path = f"{FOLDERS.outputs('trained')}/{next(_numbers)}"
    folder = platform.storage / path.lstrip("/") / "dense-mnist-tf" / "variables"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("1, 2, 3")
    (folder.parent / "saved_model.pb").write_text("a graph")
    return path


@pytest.fixture
def model(platform: Emulator) -> str:
    """A model's name of the test's own."""
    name = f"model-{next(_numbers)}"
    (platform.storage / FOLDERS.model(name)[0].lstrip("/")).mkdir(parents=True)
    return name


def save(model: str, source: str, **arguments: Any) -> BitaHubSaveModelOperator:
    return BitaHubSaveModelOperator(
        **{
            "task_id": "task",
            "model": model,
            "source": source,
            "source_folder": "dense-mnist-tf",
            "poll_interval": 0.02,
            "retries": 2,
            **arguments,
        }
    )


def files_below(folder: Path) -> dict[str, str]:
    """Give the files of a model, without the note of who saved it."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".saved-by")
    return {str(file.relative_to(folder)): file.read_text() for file in files}


COMPLETE = {"dense-mnist-tf/variables/weights": "1, 2, 3", "dense-mnist-tf/saved_model.pb": "a graph"}


@pytest.mark.usefixtures("connection")
def test_saved_version_is_complete_and_told_by_its_path(
    model: str, source: str, task_run: TaskRun, platform: Emulator
) -> None:
    result = save(model, source).execute(task_run.context())
    assert result is not None
    assert list(result)[-2:] == ["model_path", "version"]
    assert result["model_path"] == f"/models/{FOLDERS.user_id}/{model}/{result['version']}"
    version = platform.storage / result["model_path"].lstrip("/")
    assert files_below(version) == COMPLETE
    assert [entry.name for entry in version.parent.iterdir()] == [result["version"]], "nothing half is left over"


@pytest.mark.usefixtures("connection")
def test_placeholders_may_stand_in_model_and_source(source: str, task_run: TaskRun, platform: Emulator) -> None:
    folder = FOLDERS.model(f"net-of-{FOLDERS.user_name}")[0]
    (platform.storage / folder.lstrip("/")).mkdir(parents=True)
    result = save("net-of-{user_name}", source.replace(FOLDERS.user_id, "{user_id}")).execute(task_run.context())
    assert result is not None
    assert result["model_path"].startswith(f"{folder}/")


@pytest.mark.usefixtures("connection")
def test_saving_twice_makes_two_versions(model: str, source: str, platform: Emulator) -> None:
    for _ in range(2):
        assert save(model, source).execute(TaskRun().context())
    versions = list((platform.storage / FOLDERS.model(model)[0].lstrip("/")).iterdir())
    assert [files_below(version) for version in versions] == [COMPLETE, COMPLETE]


@pytest.mark.usefixtures("connection")
def test_version_may_be_given(model: str, source: str, task_run: TaskRun) -> None:
    result = save(model, source, output_version="2026.1").execute(task_run.context())
    assert result is not None
    assert (result["version"], result["model_path"]) == ("2026.1", f"/models/{FOLDERS.user_id}/{model}/2026.1")


@pytest.mark.usefixtures("connection")
def test_version_that_another_job_saved_is_neither_overwritten_nor_taken_for_ones_own(
    model: str, source: str, platform: Emulator
) -> None:
    first = save(model, source, output_version="2026.1").execute(TaskRun().context())
    assert first is not None
    weights = platform.storage / source.lstrip("/") / "dense-mnist-tf" / "variables" / "weights"
    weights.write_text("4, 5, 6")
    with pytest.raises(JobFailedError, match=r"(?s)exit code 1.*version 2026\.1 exists, and another job made it"):
        save(model, source, output_version="2026.1").execute(TaskRun().context())
    assert files_below(platform.storage / first["model_path"].lstrip("/")) == COMPLETE


@pytest.mark.parametrize("argument", ["command", "datasets", "models", "code_path", "task_roles"])
def test_arguments_that_would_have_no_effect_are_refused_when_the_dag_is_read(argument: str) -> None:
    with pytest.raises(TypeError, match=f"takes no {argument}"):
        save("m", "/x", **{argument: "x"})


@pytest.mark.usefixtures("connection")
def test_missing_folder_fails_with_a_sentence_in_the_log_and_shows_no_version(
    model: str, source: str, task_run: TaskRun, platform: Emulator
) -> None:
    with pytest.raises(JobFailedError, match=r"(?s)Its last lines:.*sparse-mnist-tf.*No such file"):
        save(model, source, source_folder="sparse-mnist-tf", preflight=False).execute(task_run.context())
    entries = (platform.storage / FOLDERS.model(model)[0].lstrip("/")).iterdir()
    assert all(entry.name.startswith(".") for entry in entries)


@pytest.mark.usefixtures("connection")
def test_missing_source_fails_at_once(model: str, source: str, task_run: TaskRun, submitted: Submitted) -> None:
    with pytest.raises(AirflowFailException, match="does not exist"):
        save(model, f"{source}-never", preflight=False).execute(task_run.context())
    assert submitted() == []


@pytest.mark.parametrize("odd", ["a b", "a;b", "../up", "$(id)", ".hidden", "a/b", "'"])
@pytest.mark.parametrize("argument", ["model", "source_folder", "output_version"])
def test_odd_characters_are_refused_when_the_dag_is_read_and_again_when_a_template_gave_them(
    argument: str, odd: str
) -> None:
    with pytest.raises(ConfigurationError, match="cannot be part of a path"):
        save(**{"model": "m", "source": "/x", argument: odd})
    operator = save("m", "/x")
    setattr(operator, argument, odd)
    with pytest.raises(ConfigurationError, match="cannot be part of a path"):
        operator.read_arguments()


class Copy:
    """The job's command, run where the test can cut it off."""

    def __init__(self, folder: Path) -> None:
        self.source, self.models, self._bin = folder / "trained", folder / "versions", folder / "bin"
        for place in (self.source / "dense", self.models, self._bin):
            place.mkdir(parents=True)
        for name in "abc":
            (self.source / "dense" / name).write_text(name * 1000)
        record = JobRecord("job", "/models/u/m/v1", "token", 1, 1, 2, 0)
        command = save("m", "/x", source_folder="dense").job_command(record)
        self._command = PathMap({"/source": str(self.source), "/output": str(self.models)})(command)

    def run(self) -> subprocess.CompletedProcess[str]:
        path = f"{self._bin}:/usr/bin:/bin"
        return subprocess.run(["/bin/sh", "-c", self._command], env={"PATH": path}, capture_output=True, text=True)

    def replace(self, program: str, script: str) -> None:
        (self._bin / program).write_text(f"#!/bin/sh\n{script}\n")
        (self._bin / program).chmod(0o755)

    def restore(self, program: str) -> None:
        (self._bin / program).unlink()

    def visible(self) -> list[str]:
        return [entry.name for entry in self.models.iterdir() if not entry.name.startswith(".")]


KILL = "kill -9 $PPID"


@pytest.mark.parametrize(
    ("program", "script"),
    [
        pytest.param("mkdir", KILL, id="before the folder is made"),
        pytest.param("cp", KILL, id="before the first file"),
        pytest.param("cp", f'mkdir -p "$3/dense"; head -c 10 "$2/a" > "$3/dense/a"; {KILL}', id="within a file"),
        pytest.param("mv", KILL, id="after the last file"),
    ],
)
def test_copy_killed_halfway_shows_nothing_and_the_same_command_completes_it(
    program: str, script: str, tmp_path: Path
) -> None:
    copy = Copy(tmp_path)
    copy.replace(program, script)
    assert copy.run().returncode != 0
    assert copy.visible() == []
    copy.restore(program)
    done = copy.run()
    assert (done.returncode, done.stdout) == (0, "saved v1\n")
    assert copy.visible() == ["v1"]
    assert files_below(copy.models) == {f"v1/dense/{name}": name * 1000 for name in "abc"}


def test_copy_run_again_leaves_a_complete_version_alone(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    assert copy.run().returncode == 0
    (copy.source / "dense" / "a").write_text("changed")
    again = copy.run()
    assert (again.returncode, again.stdout) == (0, "saved before\n")
    assert files_below(copy.models)["v1/dense/a"] == "a" * 1000


def test_copy_that_fails_shows_nothing(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.replace("cp", 'echo "cp: no space left" >&2; exit 1')
    failed = copy.run()
    assert failed.returncode != 0
    assert "no space left" in failed.stderr
    assert copy.visible() == []
