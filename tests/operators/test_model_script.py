"""The shell line that saves a model is complete or not there, in any shell and wherever it is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.emulator.mounts.symlinks import PathMap
from airflow_bitahub.operators.model_script import ModelScript
from airflow_bitahub.storage.manifest import MANIFEST, head
from airflow_bitahub.storage.saving import IfExists

PROGRAMS = ("cp", "mkdir", "mv", "rm", "rmdir", "sha256sum", "wc")
FILES = {"a": b"a", "in \"ner\\/it's": b"12345", ".hidden": b"", "-n": b"x"}
SHELLS = [shell for shell in ("sh", "bash") if shutil.which(shell)]


class Place:
    """Where a job runs, with the programs that its image has."""

    def __init__(self, folder: Path, if_exists: IfExists = "refuse", shell: str = "sh") -> None:
        self.folder, self.models, self.bin = folder, folder / "models", folder / "bin"
        self.if_exists, self.shell = if_exists, shell
        for each in (self.models, self.bin):
            each.mkdir(parents=True, exist_ok=True)
        for job in "abc":
            for name, content in FILES.items():
                file = folder / job / "dense" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content + job.encode())
        for program in PROGRAMS:
            self.program(program)

    def program(self, name: str, script: str = "") -> None:
        """Let a program do something first."""
        real = shutil.which(name, path="/usr/bin:/bin")
        (self.bin / name).unlink(missing_ok=True)
        if script:
            (self.bin / name).write_text(f'#!/bin/sh\n{script}\nexec {real} "$@"\n')
            (self.bin / name).chmod(0o755)
        else:
            (self.bin / name).symlink_to(str(real))

    def line(self, job: str) -> str:
        script = ModelScript("v1", "dense", head({"saved_by": job, "model": "m"}), f"token{job}", 1, self.if_exists)
        return PathMap({"/source": str(self.folder / job), "/output": str(self.models)})(script.line())

    def run(self, job: str, *, all_programs: bool = False) -> subprocess.CompletedProcess[str]:
        path = "/usr/bin:/bin" if all_programs else str(self.bin)
        command = [str(shutil.which(self.shell)), "-c", self.line(job)]
        return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, start_new_session=True)

    def saved_by(self, name: str = "v1", *, digests: bool = True) -> str | None:
        """Return who saved the complete version; fail where there is a half."""
        version = self.models / name
        if not version.exists():
            return None
        manifest = json.loads((version / MANIFEST).read_text())
        job: str = manifest["saved_by"]
        files = {
            str(file.relative_to(version)): file.read_bytes()
            for file in version.rglob("*")
            if file.is_file() and file.name != MANIFEST
        }
        assert files == {f"dense/{name}": content + job.encode() for name, content in FILES.items()}
        described = {file["path"]: (file["size"], file["sha256"]) for file in manifest["files"]}
        known = {name: (len(content), sha256(content).hexdigest()) for name, content in files.items()}
        assert described == (known if digests else dict.fromkeys(files, (None, None)))
        return job

    def at_call(self, number: int, script: str) -> None:
        """Let the n-th start of any program do something first."""
        count = self.folder / "count"
        count.unlink(missing_ok=True)
        for program in PROGRAMS:
            self.program(
                program, f"read n < {count} 2>/dev/null; n=$((n+1)); echo $n > {count}; [ $n != {number} ] || {script}"
            )

    def calls(self) -> int:
        return int((self.folder / "count").read_text())

    def restore(self) -> None:
        for program in PROGRAMS:
            self.program(program)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_version_is_saved_once_with_every_file_described(shell: str, tmp_path: Path) -> None:
    place = Place(tmp_path, shell=shell)
    done = place.run("a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "saved v1\n", "")
    assert place.saved_by() == "a"
    (tmp_path / "a/dense/a").write_text("changed")
    again = place.run("a")
    assert (again.returncode, again.stdout) == (0, "saved before\n")
    assert place.saved_by() == "a"
    assert os.listdir(place.models) == ["v1"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("if_exists", "code", "says", "by", "previous"),
    [
        ("refuse", 1, "v1 exists, and another job made it", "a", None),
        ("keep", 0, "v1 exists, and is kept", "a", None),
        ("replace", 0, "saved v1", "c", "b"),
    ],
)
def test_a_version_of_another_job_is_refused_kept_or_replaced(
    if_exists: IfExists, code: int, says: str, by: str, previous: str | None, tmp_path: Path
) -> None:
    place = Place(tmp_path, if_exists)
    assert place.run("a").returncode == 0
    for job in "bc":
        done = place.run(job)
        assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done
    assert (place.saved_by(), place.saved_by(".v1.previous")) == (by, previous)


@pytest.mark.parametrize("if_exists", [pytest.param("refuse", marks=pytest.mark.long), "replace"])
def test_killed_anywhere_the_same_line_completes_it(if_exists: IfExists, tmp_path: Path) -> None:
    number, is_reached = 0, True
    while is_reached:
        number += 1
        place = Place(tmp_path / str(number), if_exists)
        if if_exists == "replace":
            place.run("a", all_programs=True)
        place.at_call(number, "kill -9 0")
        killed = place.run("b")
        is_reached = killed.returncode != 0
        assert place.saved_by() in (None, "a", "b")
        place.restore()
        done = place.run("b")
        assert done.returncode == 0, done
        assert place.saved_by() == "b"
        left = {entry.name for entry in place.models.iterdir()} - {"v1", ".v1.previous"}
        assert not left, f"killed at call {number}"
    assert number > 10


@pytest.mark.parametrize("moves", ["all at once", pytest.param("into folders", marks=pytest.mark.long)])
@pytest.mark.parametrize("if_exists", [pytest.param("refuse", marks=pytest.mark.long), "replace"])
def test_of_two_at_once_one_is_complete(if_exists: IfExists, moves: str, tmp_path: Path) -> None:
    number, is_reached = 0, True
    while is_reached:
        number += 1
        place = Place(tmp_path / str(number), if_exists)
        other = Place(tmp_path / str(number), if_exists)
        (place.folder / "other.sh").write_text(other.line("b"))
        refuse_t = 'if [ "$1" = -T ]; then exit 1; fi; ' if moves == "into folders" else ""
        place.at_call(number, f"PATH=/usr/bin:/bin sh {place.folder}/other.sh > {place.folder}/log 2>&1")
        if refuse_t:
            script = (place.bin / "mv").read_text().replace("exec", f"{refuse_t}\nexec")
            (place.bin / "mv").write_text(script)
        done = place.run("a")
        is_reached = place.calls() >= number
        assert done.returncode in (0, 1), done
        logs = [done.stdout, *(log.read_text() for log in place.folder.glob("log"))]
        assert any("saved" in log for log in logs), done
        assert place.saved_by() in ("a", "b")
    assert number > 10


def test_an_image_without_the_programs_for_it_leaves_sizes_and_digests_out(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for program in ("wc", "sha256sum"):
        (place.bin / program).unlink()
    done = place.run("a")
    assert done.returncode == 0
    assert "this image has no wc and no sha256sum" in done.stderr
    assert place.saved_by(digests=False) == "a"


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        ("echo 'no space left' >&2; exit 1", "no space left"),
        ("mkdir -p $3 && exit 0", "there is no file to save"),
    ],
)
def test_a_copy_that_fails_leaves_nothing(prepare: str, says: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.program("cp", prepare)
    failed = place.run("a")
    assert failed.returncode != 0
    assert says in failed.stderr
    assert list(place.models.iterdir()) == []


def test_an_old_version_comes_back_where_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    place = Place(tmp_path, "replace")
    place.run("a")
    place.program("mv", 'for target; do :; done; [ "$target" != v1 ] || [ "$1" = .v1.tokenb.aside ] || exit 1')
    failed = place.run("b")
    assert (failed.returncode, failed.stderr) == (1, "v1 could not be renamed\n")
    assert place.saved_by() == "a"


def test_versions_are_not_replaced_by_a_plain_model(tmp_path: Path) -> None:
    place = Place(tmp_path, "replace")
    (place.models / "v1/2026.1").mkdir(parents=True)
    (place.models / "v1/2026.1" / MANIFEST).touch()
    done: Any = place.run("a")
    assert (done.returncode, done.stderr) == (1, "v1 contains versions of the model, which are not replaced\n")
