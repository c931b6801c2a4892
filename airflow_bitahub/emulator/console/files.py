"""Reads the output files of jobs, and the folders of models. Programs wrote them, so nothing about them is trusted.

No link is followed, on the way to a folder, in it, or as the file itself. What is listed and what is shown is bounded.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from airflow_bitahub.emulator.mounts.handles import open_without_links
from airflow_bitahub.emulator.mounts.shared_storage import SharedStorage
from airflow_bitahub.emulator.state.errors import InvalidRequest, NotFound
from airflow_bitahub.pages.file_kinds import HEAD, MAX_TEXT_BYTES, Kind, file_kind

_MAX_ENTRIES = 300
_MAX_SCANNED = 3000  # entries that are looked at for one page
_MAX_DEPTH = 6
_CHUNK = 1 << 18
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not make the emulator wait


class Entry(NamedTuple):
    """A file in a folder; `modified` is milliseconds since the epoch."""

    path: str
    size: int
    modified: int


class Folder:
    """A folder of the platform's storage, as a context manager.

    :param path: its server path
    :raises NotFound: there is none, or a link on the way to it
    """

    def __init__(self, storage: SharedStorage, path: str) -> None:
        self.path = path
        storage.locate(path)  # refuses a path that is not below one of the areas
        place = storage.root.joinpath(*PurePosixPath(path).parts[1:])
        try:
            handle = open_without_links(place)
        except (OSError, ValueError, InvalidRequest):
            raise NotFound(f"there is no folder {path!r}") from None
        try:
            self._handle = os.open(".", _FOLDER, dir_fd=handle)  # `handle` may be one that cannot be read from
        except OSError:
            raise NotFound(f"{path!r} cannot be read as a folder") from None
        finally:
            os.close(handle)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def entries(self) -> tuple[list[Entry], bool]:
        """Return the files in this folder and below, sorted, and whether there are more than are returned."""
        found = sorted(self._walk(self._handle, "", [_MAX_SCANNED], _MAX_DEPTH))
        return found[:_MAX_ENTRIES], len(found) > _MAX_ENTRIES

    def folders(self) -> list[Entry]:
        """Return the folders directly in this one; their size is that of all files in them."""
        found = []
        for name, status in _scan(self._handle, [_MAX_SCANNED]):
            if stat.S_ISDIR(status.st_mode) and not name.startswith("."):
                with _opened(name, self._handle) as handle:
                    size = sum(entry.size for entry in self._walk(handle, "", [_MAX_SCANNED], _MAX_DEPTH))
                found.append(Entry(name, size, int(status.st_mtime * 1000)))
        return found

    def open(self, path: str) -> BinaryIO:
        """Return a file in this folder, open for reading.

        :param path: relative to this folder
        :raises NotFound: there is no such regular file, or a link on the way to it
        """
        parts = path.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise NotFound(f"there is no file {path!r}")
        handle = os.dup(self._handle)
        try:
            for part in parts[:-1]:
                above, handle = handle, -1
                try:
                    handle = os.open(part, _FOLDER, dir_fd=above)
                finally:
                    os.close(above)
            file = os.open(parts[-1], _FILE, dir_fd=handle)
        except OSError:
            raise NotFound(f"there is no file {path!r}") from None
        finally:
            if handle >= 0:
                os.close(handle)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise NotFound(f"there is no file {path!r}")
        return os.fdopen(file, "rb")

    def _walk(self, folder: int, prefix: str, left: list[int], depth: int) -> Iterator[Entry]:
        for name, status in _scan(folder, left):
            if stat.S_ISREG(status.st_mode):
                yield Entry(prefix + name, status.st_size, int(status.st_mtime * 1000))
            elif stat.S_ISDIR(status.st_mode) and depth:
                with contextlib.suppress(OSError), _opened(name, folder) as handle:
                    yield from self._walk(handle, f"{prefix}{name}/", left, depth - 1)


def _scan(folder: int, left: list[int]) -> list[tuple[str, os.stat_result]]:
    """Return what is in a folder, and count it against `left[0]`, the number of entries that may still be looked at."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if left[0] <= 0:
                break
            left[0] -= 1
            with contextlib.suppress(OSError):  # it was removed meanwhile
                found.append((entry.name.encode("utf-8", "replace").decode(), entry.stat(follow_symlinks=False)))
    return found


@contextlib.contextmanager
def _opened(name: str, above: int) -> Iterator[int]:
    handle = os.open(name, _FOLDER, dir_fd=above)
    try:
        yield handle
    finally:
        os.close(handle)


def kind_of(path: str, file: BinaryIO) -> tuple[Kind, str]:
    """Return how a file is shown, and its media type."""
    return file_kind(path, os.pread(file.fileno(), HEAD, 0), size_of(file))


def size_of(file: BinaryIO) -> int:
    """Return the size of a file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_text(file: BinaryIO) -> tuple[str, bool]:
    """Return the beginning of a file, and whether there is more."""
    content = os.pread(file.fileno(), MAX_TEXT_BYTES + 1, 0)
    return content[:MAX_TEXT_BYTES].decode("utf-8", "replace"), len(content) > MAX_TEXT_BYTES


def stream(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file, even if a program writes on, and close it."""
    with file:
        while size > 0 and (chunk := file.read(min(_CHUNK, size))):
            size -= len(chunk)
            yield chunk
