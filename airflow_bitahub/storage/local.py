"""Files of a file system that this machine has mounted.

Jobs write there, too, and a job can make a link to any file of the worker. So below ``/projects``, ``/datasets`` and
``/models``, folders are opened one by one, and no link is followed, for reading as for writing.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice

from airflow_bitahub.storage.files import CopiedFile, Entry, Files, NewFile, check_size, checked

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_PART = 2**20  # bytes that are copied at a time


class LocalFiles(Files):
    """Files below a folder of this machine.

    :param root: the folder that contains ``projects``, ``datasets`` and ``models``
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, path: str, limit: int) -> bytes:
        """Return the content of a regular file of at most `limit` bytes."""
        with self._parent(path) as (folder, name):
            return read_regular(name, limit, folder)

    def entries(self, path: str, limit: int) -> list[Entry]:
        """Return at most `limit` entries of a folder, in no order. Raises FileNotFoundError where there is none."""
        with self._parent(f"{path}/any entry") as (folder, _), os.scandir(folder) as found:
            return [_entry(entry) for entry in islice(found, limit)]

    def has(self, path: str) -> bool:
        """Return whether there is a file, folder or link."""
        try:
            with self._parent(path) as (folder, name):
                return _exists(name, folder)
        except FileNotFoundError:
            return False

    def write(self, path: str, content: bytes) -> None:
        """Write a file, with its folders where they are missing. A reader sees the old file or the new one."""
        with self._parent(path, create=True) as (folder, name), _temporary(name, folder) as temporary:
            _write_file(NewFile(temporary, content), folder)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)

    def copy_file(self, source: str, target: str) -> CopiedFile | None:
        """Copy a file with its mode. A link is copied as it is, and gives None."""
        with self._parent(source) as (old, name), self._parent(target, create=True) as (new, new_name):
            if stat.S_ISLNK(os.stat(name, dir_fd=old, follow_symlinks=False).st_mode):
                os.symlink(os.readlink(name, dir_fd=old), new_name, dir_fd=new)
                return None
            file = _open_entry(name, os.O_NOFOLLOW, old)
            with os.fdopen(file, "rb") as content:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(f"{name!r} is not a regular file")
                copy = os.open(new_name, _NEW, status.st_mode & 0o777, dir_fd=new)
                with os.fdopen(copy, "wb") as written:
                    digest = sha256()
                    size = 0
                    while part := content.read(_PART):
                        written.write(part)
                        digest.update(part)
                        size += len(part)
                    written.flush()
                    os.fsync(copy)
        return CopiedFile(target, size, digest.hexdigest())

    def make_folder(self, path: str) -> None:
        """Make a folder, with its folders."""
        with self._parent(f"{path}/any entry", create=True):
            pass

    def rename(self, path: str, new_path: str) -> None:
        """Rename a folder at once. Raises FileExistsError where the new one exists and is not empty."""
        with self._parent(path) as (old, name), self._parent(new_path, create=True) as (new, new_name):
            try:
                os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)
            except OSError as error:
                if error.errno in _TAKEN:
                    raise FileExistsError(error.errno, "it exists", new_path) from None
                raise

    def create_folder(self, path: str, files: Sequence[NewFile]) -> bool:
        """Write a folder beside its place and rename it. Return False where it exists already."""
        with self._parent(path, create=True) as (folder, name), _temporary(name, folder) as temporary:
            if _exists(name, folder):
                return False
            os.mkdir(temporary, dir_fd=folder)
            for file in files:
                with _opened(f"{temporary}/{file.name}", folder, create=True) as (inner, inner_name):
                    _write_file(NewFile(inner_name, file.content, file.is_executable), inner)
            try:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                if error.errno in _TAKEN:  # somebody else was quicker
                    return False
                raise
        return True

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with what is in it. Raises FileNotFoundError where there is none."""
        with self._parent(path) as (folder, name):
            _remove(name, folder)

    @contextmanager
    def _parent(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of an entry, and give it with the entry's name."""
        try:
            root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise OSError(f"the folder of storage_uri, {self.root}, does not exist on this machine") from None
        try:
            area = path.split("/")[1]
            if create and not _exists(area, root):  # an empty mount point takes everything
                raise OSError(
                    f"the folder of storage_uri, {self.root}, has no folder {area!r}: is the storage mounted?"
                )
            # Whoever set up the storage may have linked its areas to other disks; jobs cannot write there.
            with _opened(path, root, create=create, links=1) as opened:
                yield opened
        finally:
            os.close(root)


@contextmanager
def _opened(path: str, start: int, *, create: bool, links: int = 0) -> Iterator[tuple[int, str]]:
    """Open the folder of an entry below an open folder, step by step, and give it with the entry's name.

    So no job can replace a folder that was checked already by a link.

    :param create: make folders that are missing
    :param links: how many folders, from the start, may be links
    """
    *folders, name = [part for part in path.split("/") if part not in ("", ".")]
    opened = os.dup(start)
    try:
        for level, part in enumerate(folders):
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=opened)
            inner = _open_entry(part, os.O_DIRECTORY | (0 if level < links else os.O_NOFOLLOW), opened)
            os.close(opened)
            opened = inner
        yield opened, name
    finally:
        os.close(opened)


def read_regular(name: str, limit: int, folder: int | None = None) -> bytes:
    """Read an entry of an open folder, which must not be a link, or a path."""
    file = _open_entry(name, 0 if folder is None else os.O_NOFOLLOW, folder)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        check_size(status.st_size, limit)
        with open(file, "rb", closefd=False) as content:
            return checked(content.read(limit + 1), limit)
    finally:
        os.close(file)


def _open_entry(name: str, flags: int, folder: int | None) -> int:
    """Open an entry of an open folder, or a path. A FIFO is not waited for."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=folder)
    except OSError:
        if flags & os.O_NOFOLLOW and stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(f"{name!r} is a link, and links are not followed. Let the job write a copy") from None
        raise


def _entry(entry: os.DirEntry[str]) -> Entry:
    if entry.is_dir(follow_symlinks=False):
        return Entry(entry.name, is_folder=True)
    return Entry(entry.name, is_folder=False, size=entry.stat(follow_symlinks=False).st_size)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _temporary(name: str, folder: int) -> Iterator[str]:
    """Give a name beside an entry, and remove what is left there."""
    temporary = f".{name}.{secrets.token_hex(6)}.partial"
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            _remove(temporary, folder)


def _write_file(new: NewFile, folder: int) -> None:
    mode = 0o777 if new.is_executable else 0o666
    file = os.open(new.name, _NEW, mode, dir_fd=folder)
    with os.fdopen(file, "wb") as target, new.open() as source:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())  # or a crash after the renaming leaves an empty file under the final name


def _remove(name: str, folder: int) -> None:
    """Remove an entry of an open folder. A link is removed, not followed."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    inner = _open_entry(name, os.O_DIRECTORY | os.O_NOFOLLOW, folder)
    try:
        with os.scandir(inner) as entries:
            names = [entry.name for entry in entries]
        for entry in names:
            _remove(entry, inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)
