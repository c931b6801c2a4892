"""The output files of a job, as people look at them. A program wrote them, so nothing about them is trusted.

They are read through `Storage`, which follows no link, and only below one output folder. What is listed, read and shown
is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from airflow_bitahub.exceptions import FileNotReadyError
from airflow_bitahub.pages.file_kinds import HEAD, MAX_TEXT_BYTES, Kind, file_kind, indented
from airflow_bitahub.storage.storage import Storage

_ARGUMENT = "output"  # what `Storage` calls the folder in its messages
FILE_LIMIT = 32 << 20  # bytes of a file that is sent
_MAX_FILES = 300
_MAX_FOLDERS = 60  # each is a request to an object store
_MAX_DEPTH = 6


class OutputFile(NamedTuple):
    """A file; `size` is None where the storage does not say it, `is_sent` whether it can be sent."""

    path: str
    size: int | None

    @property
    def is_sent(self) -> bool:
        """Whether it is small enough to be sent through Airflow."""
        return self.size is None or self.size <= FILE_LIMIT


class Listing(NamedTuple):
    """The files of a folder and its folders, by their paths below it."""

    files: list[OutputFile]
    has_more: bool


class Content(NamedTuple):
    """A file's content, with how it is shown and its media type."""

    content: bytes
    kind: Kind
    media_type: str


class OutputFolder:
    """An output folder.

    :param path: its server path
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path.rstrip("/")

    def files(self) -> Listing:
        """Return the files, sorted. Raises StorageError where the storage cannot be read."""
        found = list(self._walk("", [_MAX_FOLDERS], _MAX_DEPTH))
        return Listing(sorted(file for file in found[:_MAX_FILES] if file), len(found) > _MAX_FILES or None in found)

    def read(self, path: str, limit: int = FILE_LIMIT) -> bytes | None:
        """Return the content of a file; None where there is none.

        :param path: below this folder
        :raises StorageError: it is larger, is a link, or cannot be read
        """
        if any(part in ("", ".", "..") or "\0" in part for part in path.split("/")):
            return None
        try:
            return self._storage.read_bytes(_ARGUMENT, f"{self._path}/{path}", limit)
        except FileNotReadyError:
            return None

    def open(self, path: str) -> Content | None:
        """Return a file; None where there is none. Raises StorageError as `read` does."""
        content = self.read(path)
        return None if content is None else Content(content, *file_kind(path, content[:HEAD], len(content)))

    def _walk(self, prefix: str, left: list[int], depth: int) -> Iterator[OutputFile | None]:
        """Yield files; None where some are left out."""
        if not left[0]:
            yield None
            return
        left[0] -= 1
        entries = self._storage.list_folder(_ARGUMENT, f"{self._path}/{prefix}".rstrip("/"), _MAX_FILES + 1) or ()
        for entry in entries:
            if not entry.is_folder:
                yield OutputFile(prefix + entry.name, entry.size)
        for entry in entries:
            if entry.is_folder:
                yield from self._walk(f"{prefix}{entry.name}/", left, depth - 1) if depth else (None,)


def text_of(path: str, content: bytes) -> tuple[str, bool]:
    """Return a text file as it is shown, and whether only its beginning is."""
    is_cut = len(content) > MAX_TEXT_BYTES
    text = content[:MAX_TEXT_BYTES].decode("utf-8", "replace")
    return (indented(text) if path.lower().endswith(".json") and not is_cut else text), is_cut
