"""What every kind of storage can do, and what it deals in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Entry:
    """A file or folder in a folder.

    :param name: its name, without the folder's
    :param is_folder: whether it is a folder; a link is none
    :param size: bytes of a file; None where the storage does not say, and for a folder
    """

    name: str
    is_folder: bool
    size: int | None = None


@dataclass(frozen=True)
class NewFile:
    """A file to be written.

    :param name: its path below the folder that is written, such as ``src/train.py``
    :param content: its bytes, or the local file that has them
    :param is_executable: whether it is a program, where the storage knows such a thing
    """

    name: str
    content: bytes | Path
    is_executable: bool = False

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open the content for reading."""
        return nullcontext(BytesIO(self.content)) if isinstance(self.content, bytes) else self.content.open("rb")


@dataclass(frozen=True)
class CopiedFile:
    """A file that was copied.

    :param name: its path below the folder that was copied
    :param size: its bytes
    :param sha256: the digest of the copy
    """

    name: str
    size: int
    sha256: str


class Files(ABC):
    """The files of one storage. Paths are server paths that have been checked. Errors are those of the storage."""

    @abstractmethod
    def read(self, path: str, limit: int) -> bytes:
        """Return the content of a regular file of at most `limit` bytes."""

    @abstractmethod
    def entries(self, path: str, limit: int) -> list[Entry]:
        """Return at most `limit` entries of a folder, in no order. Raises FileNotFoundError where there is none."""

    def tree(self, path: str, limit: int) -> list[Entry]:
        """Return all that a folder and its folders contain, by paths below it. Raises OSError for more than `limit`."""
        found: list[Entry] = []
        folders = [""]
        while folders:
            prefix = folders.pop()
            for entry in self.entries(f"{path}/{prefix}".rstrip("/"), limit - len(found) + 1):
                found.append(replace(entry, name=f"{prefix}{entry.name}"))
                if len(found) > limit:
                    raise OSError(f"it contains more than {limit} files and folders")
                if entry.is_folder:
                    folders.append(f"{prefix}{entry.name}/")
        return found

    def has_content(self, path: str) -> bool:
        """Return whether a folder exists and is not empty."""
        try:
            return bool(self.entries(path, 1))
        except FileNotFoundError:
            return False

    @abstractmethod
    def has(self, path: str) -> bool:
        """Return whether there is a file, folder or link."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a file, with its folders where they are missing. A reader sees the old file or the new one."""

    @abstractmethod
    def copy_file(self, source: str, target: str) -> CopiedFile | None:
        """Copy a file, with its folders where they are missing. A link is copied as it is, and gives None."""

    @abstractmethod
    def make_folder(self, path: str) -> None:
        """Make a folder that may stay empty, with its folders, where the storage knows such a thing."""

    @abstractmethod
    def create_folder(self, path: str, files: Sequence[NewFile]) -> bool:
        """Write a folder that no reader takes for complete before it is. Return False where it exists already."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file, or a folder with what is in it. Raises FileNotFoundError where there is none."""


def checked(content: bytes, limit: int) -> bytes:
    """Return a content that was read. Raises OSError when it has more than `limit` bytes."""
    check_size(len(content), limit)  # it may have grown meanwhile, or its storage may not know sizes
    return content


def check_size(size: int | None, limit: int) -> None:
    """Raise OSError when a file has more than `limit` bytes."""
    if size is not None and size > limit:
        raise OSError(f"its size is {size} bytes, and the limit is {limit}")
