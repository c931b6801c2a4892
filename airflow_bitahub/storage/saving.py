"""Copying a folder to a place where readers see all of it or nothing, and exactly once."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from airflow_bitahub.storage.files import CopiedFile, Files
from airflow_bitahub.storage.local import LocalFiles
from airflow_bitahub.storage.manifest import MANIFEST, MANIFEST_LIMIT, main_file_last, manifest, saver_of
from airflow_bitahub.storage.objects import ObjectFiles

IfExists = Literal["refuse", "keep", "replace"]
Outcome = Literal["saved", "saved before", "kept"]

FILES_LIMIT = 100_000  # files and folders of a model
_CLAIM = ".bitahub_saving.json"  # in a folder of an object store that is being written
_ROUNDS = 20  # how often others may save the same folder while it is replaced


class TakenError(OSError):
    """The folder exists, and must not be replaced."""


class BusyError(OSError):
    """Another task is saving the folder."""


@dataclass(frozen=True)
class Saving:
    """A folder to be saved.

    :param source: server path of the folder to copy
    :param target: server path of the folder that is to exist afterwards
    :param inner: the folder inside `target` that gets the files; "": itself
    :param first_line: of the manifest, see `manifest.head`; the same for every try of the same result
    :param owner: identifies the task instance, in file names; only one process of it is alive
    :param if_exists: what to do where another job has saved `target`: raise TakenError, leave it, or move it aside
    """

    source: str
    target: str
    inner: str
    first_line: str
    owner: str
    if_exists: IfExists

    @property
    def previous(self) -> str:
        """Server path at which the folder that was replaced last stays."""
        return self.beside("previous")

    def beside(self, ending: str) -> str:
        """Return a hidden server path beside the target."""
        parent, name = self.target.rsplit("/", 1)
        return f"{parent}/.{name}.{ending}"


def save_folder(files: Files, saving: Saving) -> Outcome:
    """Copy a folder, with a manifest. It may be interrupted anywhere and called again.

    :raises TakenError: the target exists, and must not be replaced
    :raises BusyError: another task is saving it
    :raises FileNotFoundError: the source does not exist
    """
    if not _is_own(files, saving) and not files.entries(saving.source, 1):
        raise OSError(f"{saving.source} is empty")
    model = saving.target.rsplit("/", 1)[0]
    if files.has_content(model) and _has_manifest(files, model):
        raise TakenError(f"{model} is a model itself, without versions")
    if isinstance(files, ObjectFiles):
        return _write_in_place(files, saving)
    if isinstance(files, LocalFiles):
        return _rename_into_place(files, saving)
    raise TypeError(files)


def _is_own(files: Files, saving: Saving) -> bool:
    """Return whether the target is complete, and this job's."""
    try:
        content = files.read(f"{saving.target}/{MANIFEST}", MANIFEST_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return content.startswith(saver_of(saving.first_line).encode())


def _is_kept(files: Files, saving: Saving) -> bool:
    """Return whether a target that exists stays as it is."""
    if saving.if_exists == "refuse":
        raise TakenError(f"{saving.target} exists, and another job made it")
    if saving.if_exists == "replace" and _holds_versions(files, saving.target):
        raise TakenError(f"{saving.target} contains versions of the model, which are not replaced")
    return saving.if_exists == "keep"


def _holds_versions(files: Files, folder: str) -> bool:
    inner = [entry.name for entry in files.entries(folder, FILES_LIMIT) if entry.is_folder]
    return any(_has_manifest(files, f"{folder}/{name}") for name in inner)


def _has_manifest(files: Files, folder: str) -> bool:
    return any(entry.name == MANIFEST for entry in files.entries(folder, FILES_LIMIT))


def _copy(files: Files, source: str, target: str) -> list[CopiedFile]:
    """Copy all that a folder contains, the file that programs open first last."""
    tree = files.tree(source, FILES_LIMIT)
    files.make_folder(target)
    for entry in tree:
        if entry.is_folder:
            files.make_folder(f"{target}/{entry.name}")
    own = (MANIFEST, _CLAIM)  # where the source is a saved model itself
    names = sorted((entry.name for entry in tree if not entry.is_folder and entry.name not in own), key=main_file_last)
    return [
        replace(copied, name=name)
        for name in names
        if (copied := files.copy_file(f"{source}/{name}", f"{target}/{name}")) is not None
    ]


def _copy_with_manifest(files: Files, saving: Saving, folder: str) -> None:
    inner = f"{saving.inner}/" if saving.inner else ""
    copied = _copy(files, saving.source, f"{folder}/{inner}".rstrip("/"))
    described = [replace(file, name=f"{inner}{file.name}") for file in copied]
    files.write(f"{folder}/{MANIFEST}", manifest(saving.first_line, described))


# A file system ---------------------------------------------------------------------------------------------------


def _rename_into_place(files: LocalFiles, saving: Saving) -> Outcome:
    """Copy beside the target, and rename."""
    parent, name = saving.target.rsplit("/", 1)
    mine = f".{name}.{saving.owner}"
    aside = f"{parent}/{mine}.aside"
    with suppress(FileNotFoundError):  # what a try that was killed has left
        for entry in files.entries(parent, FILES_LIMIT):
            if entry.name.startswith(f"{mine}-") and entry.name.endswith(".partial"):
                files.remove(f"{parent}/{entry.name}")
    if _is_own(files, saving):
        _tidy(files, saving, aside)
        return "saved before"
    if files.has_content(saving.target) and _is_kept(files, saving):
        return "kept"
    half = f"{parent}/{mine}-{secrets.token_hex(4)}.partial"
    try:
        _copy_with_manifest(files, saving, half)
        return _publish(files, saving, half, aside)
    finally:
        with suppress(FileNotFoundError):
            files.remove(half)


def _publish(files: LocalFiles, saving: Saving, half: str, aside: str) -> Outcome:
    for _ in range(_ROUNDS):
        try:
            if files.has_content(saving.target):
                if _is_kept(files, saving):
                    return "kept"
                _tidy(files, saving, aside)
                with suppress(FileNotFoundError):  # somebody else has just moved it
                    files.rename(saving.target, aside)
            files.rename(half, saving.target)
        except FileExistsError:
            continue
        except BaseException:
            with suppress(OSError):  # this fails where the target exists
                files.rename(aside, saving.target)
            raise
        _tidy(files, saving, aside)
        return "saved"
    raise BusyError(f"others save {saving.target} at the same time")


def _tidy(files: LocalFiles, saving: Saving, aside: str) -> None:
    """Let what was moved aside be the previous one; what was that before is removed."""
    if not files.has_content(aside):
        return
    old = saving.beside(f"{saving.owner}-old.partial")
    for path, new_path in ((saving.previous, old), (aside, saving.previous)):
        with suppress(FileNotFoundError, FileExistsError):
            files.rename(path, new_path)
    with suppress(FileNotFoundError):
        files.remove(old)


# An object store -------------------------------------------------------------------------------------------------


def _write_in_place(files: ObjectFiles, saving: Saving) -> Outcome:
    """Write the files one by one, the manifest last. A file with the writer's name keeps other writers away."""
    claim = f"{saving.target}/{_CLAIM}"
    if _is_own(files, saving):
        with suppress(FileNotFoundError):
            files.remove(claim)
        return "saved before"
    held = _claim_of(files, saving, claim)
    if held is None:
        if files.has_content(saving.target) and _is_kept(files, saving):
            return "kept"
        try:
            files.claim(claim, _claim(saving, "old"))
        except FileExistsError:
            raise _busy(saving, claim) from None
        held = "old"
        if _other_names(files, saving):  # somebody else was quicker
            try:
                kept = _is_kept(files, saving)
            except TakenError:
                files.remove(claim)
                raise
            if kept:
                files.remove(claim)
                return "kept"
    if held == "old":
        _move_aside(files, saving)
        files.write(claim, _claim(saving, "new"))
    for name in _other_names(files, saving):  # left by an earlier try, or of the folder that is replaced
        with suppress(FileNotFoundError):
            files.remove(f"{saving.target}/{name}")
    _copy_with_manifest(files, saving, saving.target)
    files.remove(claim)
    return "saved"


def _claim(saving: Saving, contains: Literal["old", "new"]) -> bytes:
    """Return the claim of a target that still contains all of what is replaced, or parts of what is saved."""
    return json.dumps({"owner": saving.owner, "contains": contains}).encode()


def _claim_of(files: Files, saving: Saving, claim: str) -> str | None:
    """Return what the target contains if an earlier try has claimed it; None where nobody has."""
    try:
        held = json.loads(files.read(claim, 1000))
    except FileNotFoundError:
        return None
    if held.get("owner") != saving.owner:
        raise _busy(saving, claim)
    return str(held.get("contains"))


def _busy(saving: Saving, claim: str) -> BusyError:
    return BusyError(
        f"another task is saving {saving.target}, or was killed while it did. If no such task is alive, remove {claim}"
    )


def _other_names(files: Files, saving: Saving) -> list[str]:
    """Return the files in the target except the claim, the manifest first: without it, the rest does not count."""
    names = [entry.name for entry in files.tree(saving.target, FILES_LIMIT) if not entry.is_folder]
    return sorted((name for name in names if name != _CLAIM), key=lambda name: name != MANIFEST)


def _move_aside(files: Files, saving: Saving) -> None:
    """Copy what the target contains to the previous one, the manifest last."""
    if not (names := _other_names(files, saving)):
        return
    with suppress(FileNotFoundError):
        files.remove(saving.previous)
    for name in reversed(names):
        files.copy_file(f"{saving.target}/{name}", f"{saving.previous}/{name}")
