"""A saved folder is complete or not there, whoever is killed and whoever else saves."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.io import attach

from airflow_bitahub.exceptions import ConfigurationError, FileNotReadyError, StorageError
from airflow_bitahub.storage.manifest import MANIFEST, head
from airflow_bitahub.storage.saving import IfExists, Saving, save_folder
from airflow_bitahub.storage.storage import Storage

MODEL = "/models/u/dense"
SOURCE = "/projects/u/train/outputs/{}/dense"
FILES = {"saved_model.pb": b"a graph", "variables/weights": b"1, 2, 3", "a 'name'.txt": b"", "z.txt": b"z"}
CHANGES = ("write", "copy_file", "make_folder", "rename", "remove", "claim")


def mounted(folder: Path) -> Storage:
    for area in ("projects", "models"):
        (folder / area).mkdir()
    return Storage(folder.as_uri())


@pytest.fixture(params=["file system", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "file system":
        return mounted(tmp_path)
    if request.param == "S3":
        return Storage(f"{request.getfixturevalue('bucket')}/{secrets.token_hex(4)}")
    memory = pytest.importorskip("fsspec.implementations.memory")  # comes with Airflow
    attach(protocol="memory", fs=memory.MemoryFileSystem())
    return Storage(f"memory://bucket/{secrets.token_hex(4)}")


everywhere = pytest.mark.parametrize("storage", ["file system", "object store", "S3"], indirect=True)


def trained(storage: Storage, job: str) -> None:
    for name, content in FILES.items():
        storage.write_bytes("source", f"{SOURCE.format(job)}/{name}", content + job.encode())


def saving(job: str, if_exists: IfExists = "refuse", target: str = MODEL) -> Saving:
    first_line = head({"saved_by": job, "model": "dense", "version": None})
    return Saving(SOURCE.format(job), target, "dense", first_line, f"owner-{job}", if_exists)


def save(storage: Storage, job: str, if_exists: IfExists = "refuse", target: str = MODEL) -> str:
    return storage.save_folder("source", saving(job, if_exists, target))


def saved_by(storage: Storage, target: str = MODEL) -> str | None:
    """Return who saved the complete model; None where there is none. Fail where a reader would see a half."""
    try:
        manifest = storage.read_json("model", f"{target}/{MANIFEST}", 10_000)
    except FileNotReadyError:
        return None
    job = str(manifest["saved_by"])
    expected = {f"dense/{name}": content + job.encode() for name, content in FILES.items()}
    assert {file["path"] for file in manifest["files"]} == expected.keys()
    for file in manifest["files"]:
        content = storage.read_bytes("model", f"{target}/{file['path']}", 1000)
        assert content == expected[file["path"]]
        assert (file["size"], file["sha256"]) == (len(content), sha256(content).hexdigest())
    left = {entry.name for entry in storage.list_folder("model", target) or ()} - {".bitahub_saving.json"}
    assert left == {"dense", MANIFEST}
    return job


def names(storage: Storage, folder: str) -> list[str]:
    return [entry.name for entry in storage.list_folder("model", folder) or ()]


class Killed(BaseException):
    """The process is gone: nothing that follows has an effect."""


def at_change(files: Any, number: int, act: Callable[[], object], *, every: bool) -> Callable[[], bool]:
    """Act before this change of the storage, and before all that follow if `every`. Return whether it came to that."""
    count = 0
    original = {name: getattr(files, name) for name in CHANGES if hasattr(files, name)}

    def changing(name: str) -> Callable[..., Any]:
        def change(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == number or (every and count > number):
                act()
            return original[name](*arguments)

        return change

    for name in original:
        setattr(files, name, changing(name))
    return lambda: count >= number


@everywhere
def test_a_saved_folder_has_a_manifest_and_is_saved_once(storage: Storage) -> None:
    trained(storage, "a")
    assert save(storage, "a") == "saved"
    assert saved_by(storage) == "a"
    assert names(storage, MODEL) == sorted([MANIFEST, "dense"])
    storage.remove("source", SOURCE.format("a"))
    assert save(storage, "a") == "saved before"
    assert saved_by(storage) == "a"
    assert names(storage, "/models/u") == ["dense"], "nothing is left over"


@pytest.mark.parametrize(
    ("if_exists", "by", "previous"), [("refuse", "a", None), ("keep", "a", None), ("replace", "c", "b")]
)
def test_a_folder_of_another_job_is_refused_kept_or_replaced(
    storage: Storage, if_exists: IfExists, by: str, previous: str | None
) -> None:
    for job in "abc":
        trained(storage, job)
    assert save(storage, "a", if_exists) == "saved"
    for job in "bc":
        if if_exists == "refuse":
            with pytest.raises(
                ConfigurationError, match=f"if_exists='refuse': {MODEL} exists, and another job made it"
            ):
                save(storage, job, if_exists)
        else:
            assert save(storage, job, if_exists) == {"keep": "kept", "replace": "saved"}[if_exists]
    assert saved_by(storage) == by
    assert saved_by(storage, "/models/u/.dense.previous") == previous


@pytest.mark.parametrize("if_exists", ["refuse", "replace"])
def test_killed_anywhere_it_is_completed_by_the_next_try(storage: Storage, if_exists: IfExists) -> None:
    number = 0
    reached = True
    while reached:
        number += 1
        target = f"/models/u/dense-{number}"
        for job in "ab":
            trained(storage, job)
        if if_exists == "replace":
            save(storage, "a", target=target)

        def kill() -> None:
            raise Killed

        dying = Storage(storage.uri)
        reached_number = at_change(dying._files, number, kill, every=True)
        try:
            save(dying, "b", if_exists, target)
        except Killed:
            assert saved_by(storage, target) in (None, "a", "b")
        reached = reached_number()
        if reached:
            assert save(storage, "b", if_exists, target) in ("saved", "saved before")
        assert saved_by(storage, target) == "b"
        if if_exists == "replace":
            assert saved_by(storage, f"/models/u/.dense-{number}.previous") in ("a", None)
    assert number > 6
    left = [name for name in names(storage, "/models/u") if not name.endswith(".previous")]
    assert left == sorted(f"dense-{each + 1}" for each in range(number)), "no half is left"


@pytest.mark.parametrize("if_exists", ["refuse", "keep", "replace"])
def test_of_two_at_once_one_is_complete(storage: Storage, if_exists: IfExists) -> None:
    number, reached = 0, True
    while reached:
        number += 1
        target = f"/models/u/dense-{number}"
        outcomes: list[str] = []
        for job in "abc":
            trained(storage, job)
        if if_exists == "replace":
            save(storage, "c", target=target)

        def attempt(by: Storage, job: str, target: str = target, outcomes: list[str] = outcomes) -> None:
            try:
                outcomes.append(save(by, job, if_exists, target))
            except (ConfigurationError, StorageError) as error:
                outcomes.append(str(error))

        first = Storage(storage.uri)
        reached_number = at_change(first._files, number, lambda: attempt(Storage(storage.uri), "b"), every=False)
        attempt(first, "a")
        reached = reached_number()
        assert "saved" in outcomes, outcomes
        assert saved_by(storage, target) in ("a", "b")
    assert number > 6


def test_versions_and_a_plain_model_are_not_mixed(storage: Storage) -> None:
    for job in "ab":
        trained(storage, job)
    save(storage, "a", target=f"{MODEL}/1")
    with pytest.raises(ConfigurationError, match="contains versions of the model"):
        save(storage, "b", "replace")
    save(storage, "a", target="/models/u/plain")
    with pytest.raises(ConfigurationError, match="is a model itself, without versions"):
        save(storage, "b", target="/models/u/plain/1")
    assert saved_by(storage, f"{MODEL}/1") == saved_by(storage, "/models/u/plain") == "a"


def test_a_saved_model_can_be_saved_under_another_name(storage: Storage) -> None:
    trained(storage, "a")
    save(storage, "a")
    promoted = replace(saving("a", target="/models/u/best"), source=MODEL, inner="")
    assert storage.save_folder("source", promoted) == "saved"
    assert saved_by(storage, "/models/u/best") == "a"


def test_a_folder_that_is_not_there_is_named(storage: Storage) -> None:
    trained(storage, "a")
    wrong = replace(saving("a"), source="/projects/u/train/outputs/a/dens")
    with pytest.raises(FileNotReadyError, match=r"source: .*/dens does not exist .*Its folder contains 'dense'"):
        storage.save_folder("source", wrong)
    assert names(storage, "/models/u") == []


def test_object_stores_get_the_main_file_and_then_the_manifest_last(bucket: str) -> None:
    storage = Storage(f"{bucket}/{secrets.token_hex(4)}")
    trained(storage, "a")
    files: Any = storage._files
    written: list[str] = []

    def noting(verb: Any, place: int) -> Any:
        def noted(*paths: Any, **options: Any) -> Any:
            written.append(paths[place])
            return verb(*paths, **options)

        return noted

    files._write, files.copy_file = noting(files._write, 0), noting(files.copy_file, 1)
    save(storage, "a")
    assert written[-2:] == [f"{MODEL}/dense/saved_model.pb", f"{MODEL}/{MANIFEST}"]


def test_another_tasks_claim_is_respected_and_told(bucket: str) -> None:
    storage = Storage(f"{bucket}/{secrets.token_hex(4)}")
    trained(storage, "a")
    storage.write_bytes("model", f"{MODEL}/.bitahub_saving.json", json.dumps({"owner": "other"}).encode())
    files: Any = storage._files
    with pytest.raises(FileExistsError):
        files.claim(f"{MODEL}/.bitahub_saving.json", b"")
    with pytest.raises(StorageError, match=r"another task is saving .* remove /models/u/dense/\.bitahub_saving\.json"):
        save(storage, "a", "replace")


def test_a_link_is_copied_as_a_link_and_a_program_stays_one(tmp_path: Path) -> None:
    storage = mounted(tmp_path)
    trained(storage, "a")
    folder = tmp_path / SOURCE.format("a").lstrip("/")
    (folder / "latest").symlink_to("/etc/passwd")
    (folder / "empty").mkdir()
    (folder / "z.txt").chmod(0o755)
    save_folder(storage._files, saving("a"))
    saved = tmp_path / "models/u/dense/dense"
    assert (saved / "latest").readlink() == Path("/etc/passwd")
    assert (saved / "empty").is_dir()
    assert (saved / "z.txt").stat().st_mode & 0o111
    assert "latest" not in (saved.parent / MANIFEST).read_text()
