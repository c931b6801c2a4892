"""Files of an object store, or of any other storage that Airflow's object storage reaches through fsspec."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_bitahub.storage.files import CopiedFile, Entry, Files, NewFile, check_size, checked

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

_PART = 2**23  # bytes that are read at a time


class ObjectFiles(Files):
    """Files below an address of Airflow's object storage.

    :param root: the address that contains ``projects``, ``datasets`` and ``models``
    """

    def __init__(self, root: ObjectStoragePath) -> None:
        self.root = root

    def read(self, path: str, limit: int) -> bytes:
        """Return the content of a file of at most `limit` bytes."""
        try:
            return read_object(self._at(path), limit)
        except FileNotFoundError:
            self._check_root()
            raise

    def entries(self, path: str, limit: int) -> list[Entry]:
        """Return at most `limit` entries of a folder, in no order. Raises FileNotFoundError where there is none."""
        folder = self._at(path)
        try:
            found = _listing(folder, limit)
        except FileNotFoundError:
            self._check_root()
            raise
        own_name = folder.path.rstrip("/")
        for detail in found:
            if detail["name"] == own_name and detail.get("type") != "directory":
                raise NotADirectoryError(f"it is a file: {path}")
        # Some tools mark a folder by an empty object, whose name is the folder's and a slash.
        inner = (detail for detail in found if str(detail["name"]).rstrip("/") != own_name)
        return list(islice(map(_entry, inner), limit))

    def has(self, path: str) -> bool:
        """Return whether there is a file, or a folder with a file in it."""
        place = self._at(path)
        return bool(place.fs.exists(place.path))

    def write(self, path: str, content: bytes) -> None:
        """Write a file, with its folders where they are missing. A reader sees the old file or the new one."""
        self._write(path, NewFile(path, content))

    def claim(self, path: str, content: bytes) -> None:
        """Write a file that must not exist yet. Raises FileExistsError where it does; S3 knows who is first."""
        self._write(path, NewFile(path, content), mode="create")

    def create_folder(self, path: str, files: Sequence[NewFile]) -> bool:
        """Write files one by one: the folder is complete when it has the last one. Return False where it is."""
        last = self._at(f"{path}/{files[-1].name}")
        if last.fs.exists(last.path):
            return False
        for file in files:
            self._write(f"{path}/{file.name}", file)
        return True

    def copy_file(self, source: str, target: str) -> CopiedFile:
        """Copy a file within the store, and read the copy for its digest."""
        old, new = self._at(source), self._at(target)
        new.fs.cp_file(old.path, new.path)
        digest, size = sha256(), 0
        with self._at(target).open("rb") as content:
            while part := content.read(_PART):
                digest.update(part)
                size += len(part)
        return CopiedFile(target, size, digest.hexdigest())

    def make_folder(self, path: str) -> None:
        """Do nothing: a folder of an object store is what its files have in common."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with what is in it. Raises FileNotFoundError where there is none."""
        target = self._at(path)
        target.fs.rm(target.path, recursive=True)

    def _at(self, path: str) -> ObjectStoragePath:
        """Return where a server path is, on a file system that remembers nothing."""
        self.root.fs.invalidate_cache()  # a listing of some minutes ago does not show what a job has written since
        return self.root / path.strip("/")

    def _check_root(self) -> None:
        """Raise OSError where the bucket of `storage_uri` does not exist. Its folders appear with their first file."""
        bucket = self.root.path.strip("/").split("/")[0]
        if not self.root.fs.exists(bucket):
            raise OSError(f"the bucket of storage_uri, {bucket!r}, does not exist")

    def _write(self, path: str, file: NewFile, mode: str = "overwrite") -> None:
        target = self._at(path)
        content = file.content.read_bytes() if isinstance(file.content, Path) else file.content
        try:
            target.fs.pipe_file(target.path, content, mode=mode)
        except FileNotFoundError:
            # Some storages have real folders. Never make what storage_uri itself names: it may be misspelt.
            self._check_root()
            if not self.root.fs.exists(self.root.path):
                raise
            target.fs.makedirs(target.parent.path, exist_ok=True)
            target.fs.pipe_file(target.path, content, mode=mode)


def read_object(path: ObjectStoragePath, limit: int) -> bytes:
    """Read a file of at most `limit` bytes."""
    status = path.fs.info(path.path)
    if status.get("type") == "directory":
        raise IsADirectoryError("it is not a regular file")
    check_size(status.get("size"), limit)
    with path.open("rb") as content:
        return checked(content.read(limit + 1), limit)


def _listing(folder: ObjectStoragePath, limit: int) -> list[dict[str, Any]]:
    """Return what the store says about the entries of a folder, and not much more than `limit` where it can."""
    fs = folder.fs
    if hasattr(fs, "_lsdir") and "s3" in fs.protocol:  # s3fs lists a million files otherwise, a thousand at a time
        with suppress(TypeError):  # another release may call the limit by another name
            listing = fs._lsdir(folder.path, max_items=limit + 1)
            if found := asyncio.run_coroutine_threadsafe(listing, fs.loop).result():
                return list(found)
    return list(fs.ls(folder.path, detail=True))


def _entry(detail: dict[str, Any]) -> Entry:
    name = str(detail["name"]).rstrip("/").rsplit("/", 1)[-1]
    is_folder = detail.get("type") == "directory"
    return Entry(name, is_folder, None if is_folder else detail.get("size"))
