"""The command that copies the examples out of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_bitahub.cli import main
from airflow_bitahub.examples import examples_folder
from tests.conftest import REPOSITORY


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the content of every file, apart from what Python has compiled."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_all_examples_are_copied_into_a_folder_that_has_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dags = tmp_path / "my dags"
    (dags / "workloads").mkdir(parents=True)
    (dags / "mine.py").write_text("mine")
    (dags / "nightly_check.py").write_bytes((examples_folder() / "nightly_check.py").read_bytes())

    assert main(["examples", "copy", str(dags)]) == 0

    assert files_in(dags) == {**files_in(REPOSITORY / "dags"), "mine.py": b"mine"}
    printed = capsys.readouterr().out
    assert f"Copied to {dags}:\n  mnist_lifecycle.py\n  on_new_model.py\n" in printed
    assert "with the same content: 1\n" in printed
    assert "load_examples" in printed

    assert main(["examples", "copy", str(dags)]) == 0
    assert "Copied" not in capsys.readouterr().out


def test_nothing_is_copied_where_a_file_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "workloads/dense-mnist-tf/train.py").mkdir(parents=True)
    (tmp_path / "mnist_lifecycle.py").write_text("mine")
    (tmp_path / "python_function.py").symlink_to(tmp_path / "nowhere")

    assert main(["examples", "copy", str(tmp_path)]) == 1

    said = capsys.readouterr().err
    assert f"Nothing was copied to {tmp_path}" in said
    assert "\n  mnist_lifecycle.py\n  python_function.py\n  workloads/dense-mnist-tf/train.py\n" in said
    assert files_in(tmp_path) == {"mnist_lifecycle.py": b"mine"}


@pytest.mark.parametrize("folder", ["file", "file/dags", "workloads is one"])
def test_nothing_is_left_where_a_folder_cannot_be_created(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "workloads is one").mkdir()
    (tmp_path / "workloads is one/workloads").touch()
    before = files_in(tmp_path)

    assert main(["examples", "copy", str(tmp_path / folder)]) == 1

    assert "Nothing was copied" in capsys.readouterr().err
    assert files_in(tmp_path) == before


def test_nothing_is_left_after_ctrl_c(tmp_path: Path) -> None:
    """Somebody else creates a file meanwhile, which stays."""
    program = """
import os, pathlib, signal, sys
from airflow_bitahub.cli import main

def interrupt(event, arguments):
    if event == "open" and str(arguments[1]).startswith("x") and str(arguments[0]).endswith("train.py"):
        pathlib.Path(arguments[0]).with_name("not_ours").touch()
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start programs that ignore it
sys.addaudithook(interrupt)
sys.exit(main(["examples", "copy", sys.argv[1]]))
"""
    (tmp_path / "before").touch()
    for folder in (tmp_path, tmp_path / "new/folder"):
        done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 130, done.stderr
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["before", "not_ours", "not_ours"]
