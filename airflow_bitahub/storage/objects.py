"""Files of an object store, or of any other storage that Airflow's object storage reaches through fsspec."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_bitahub.storage.files import Entry, Files, NewFile, check_size, checked

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


class ObjectFiles(Files):
    """Files below an address of Airflow's object storage.

    :param root: the address that contains ``projects``, ``datasets`` and ``models``
    """

    def __init__(self, root: ObjectStoragePath) -> None:
        self.root = root

    def read(self, path: str, limit: int) -> bytes:
        """Return the content of a file of at most `limit` bytes."""
        return read_object(self._at(path), limit)

    def entries(self, path: str, limit: int) -> list[Entry]:
        """Return at most `limit` entries of a folder, in no order. Raises FileNotFoundError where there is none."""
        folder = self._at(path)
        found = (_entry(detail) for detail in folder.fs.ls(folder.path, detail=True))
        return list(islice((entry for entry in found if entry.name not in ("", folder.name)), limit))

    def has(self, path: str) -> bool:
        """Return whether there is a file, or a folder with a file in it."""
        place = self._at(path)
        return bool(place.fs.exists(place.path))

    def write(self, path: str, content: bytes) -> None:
        """Write a file, with its folders where they are missing. A reader sees the old file or the new one."""
        self._write(path, NewFile(path, content))

    def create_folder(self, path: str, files: Sequence[NewFile]) -> bool:
        """Write files one by one: the folder is complete when it has the last one. Return False where it is."""
        last = self._at(f"{path}/{files[-1].name}")
        if last.fs.exists(last.path):
            return False
        for file in files:
            self._write(f"{path}/{file.name}", file)
        return True

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with what is in it. Raises FileNotFoundError where there is none."""
        target = self._at(path)
        target.fs.rm(target.path, recursive=True)

    def _at(self, path: str) -> ObjectStoragePath:
        """Return where a server path is, on a file system that remembers nothing."""
        self.root.fs.invalidate_cache()  # a listing of some minutes ago does not show what a job has written since
        return self.root / path.lstrip("/")

    def _write(self, path: str, file: NewFile) -> None:
        target = self._at(path)
        with file.open() as source:
            content = source.read()
        try:
            target.fs.pipe_file(target.path, content)
        except FileNotFoundError:
            # Some storages have real folders. Never make what storage_uri itself names: it may be misspelt.
            if not self.root.fs.exists(self.root.path):
                raise
            target.fs.makedirs(target.parent.path, exist_ok=True)
            target.fs.pipe_file(target.path, content)


def read_object(path: ObjectStoragePath, limit: int) -> bytes:
    """Read a file of at most `limit` bytes."""
    check_size(path.stat().st_size, limit)
    with path.open("rb") as content:
        return checked(content.read(limit + 1), limit)


def _entry(detail: dict[str, Any]) -> Entry:
    name = str(detail["name"]).rstrip("/").rsplit("/", 1)[-1]
    is_folder = detail.get("type") == "directory"
    return Entry(name, is_folder, None if is_folder else detail.get("size"))
