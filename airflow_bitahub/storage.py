"""The platform's folders: their paths on the server and in a container, and reading files in them from Airflow.

Server paths (seed): ``/projects/{user_id}/{project}/code`` and ``.../outputs/{n}``, ``/datasets/{user_id}/{dataset}``,
``/models/{user_id}/{model}``. Container paths (seed): ``/code``, ``/output``, ``/data/{user_name}/{dataset}``,
``/model/{user_name}/{model}``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.texts import parse_json, shorten

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

CODE = "/code"
OUTPUT = "/output"
PREDICTION = "/prediction"
RESULT_LIMIT = 2**20  # bytes of a result file, whose content becomes an XCom
PICTURE_LIMIT = 32 * 2**20  # bytes of a picture for a served program
_ROOTS = ("/projects/", "/datasets/", "/models/")
_LISTED = 10  # names at most, where a message says what a folder contains


@dataclass(frozen=True)
class Folders:
    """One user's folders on the platform.

    :param user_id: the user in server paths
    :param user_name: the user in container paths
    """

    user_id: str
    user_name: str

    def code(self, project: str) -> str:
        """Return the server path of a project's code."""
        return f"/projects/{self.user_id}/{path_part('project', project)}/code"

    def outputs(self, project: str) -> str:
        """Return the server path under which a project's jobs write."""
        return f"/projects/{self.user_id}/{path_part('project', project)}/outputs"

    def dataset(self, name: str) -> tuple[str, str]:
        """Return the server path and container path of a dataset."""
        in_shell = re.sub(r"[^\w.-]+", "_", name)
        spelt_out = {"path": f"/datasets/{{user_id}}/{name}", "mount_path": f"/data/{{user_name}}/{in_shell}"}
        path_part("dataset", name, f"; or give the folder itself: {spelt_out}")
        return f"/datasets/{self.user_id}/{name}", f"/data/{self.user_name}/{name}"

    def model(self, name: str) -> tuple[str, str]:
        """Return the server path and container path of a model."""
        path_part("model", name, f"; or give its path: '/models/{{user_id}}/{name}'")
        return f"/models/{self.user_id}/{name}", f"/model/{self.user_name}/{name}"

    def model_mount(self, model: str) -> tuple[str, str]:
        """Return the server path and container path of a model, given by name or by the server path of a version."""
        if not model.startswith("/"):
            return self.model(model)
        parts = model.split("/")
        if not model.startswith("/models/") or len(parts) < 4 or ".." in parts:
            raise ConfigurationError(
                f"{model!r} is not a model: give its name, or a path like /models/<user>/<model>/<version>."
            )
        return model, f"/model/{self.user_name}/{parts[3]}"

    def fill(self, text: str) -> str:
        """Return `text` with ``{user_id}`` and ``{user_name}`` replaced; a shell's ``${user_id}`` is left unchanged.

        :raises ConfigurationError: it is no text, for example because the XCom in a template is missing
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"Expected text, got {text!r}. Did the upstream task return no value?")
        values = {"user_id": self.user_id, "user_name": self.user_name}
        return re.sub(r"(?<!\$)\{(user_id|user_name)\}", lambda match: values[match[1]], text)


def path_part(what: str, value: str, instead: str = "") -> str:
    """Return `value` if it can be one part of a server path and of a shell command.

    :param instead: what to give instead, for the error; it does not work for a value that contains ``..``
    :raises ConfigurationError: it cannot
    """
    if not re.fullmatch(r"[\w.-]+", value) or value.startswith("."):
        raise ConfigurationError(
            f"{what} {value!r} cannot be part of a path: use letters, digits, '-', '_' and '.', not starting with '.'"
            f"{'' if '..' in value.split('/') else instead}."
        )
    return value


def is_server_path(path: str) -> bool:
    """Return whether `path` is a server path of the platform."""
    return path.startswith(_ROOTS)


class Storage:
    """The platform's storage as Airflow reaches it.

    :param uri: where workers see the folders ``projects``, ``datasets`` and ``models``, such as
        ``file:///mnt/bitahub``, or any address that Airflow's object storage supports
    """

    def __init__(self, uri: str) -> None:
        # A file URI writes a space as %20; Airflow's object storage uses what follows the scheme unchanged.
        self.uri = (unquote(uri) if uri.startswith("file:") else uri).rstrip("/")

    def path(self, server_path: str) -> ObjectStoragePath:
        """Return the path at which Airflow opens a server path."""
        from airflow.sdk import ObjectStoragePath  # costs far more than the rest of this package

        if not is_server_path(server_path) or ".." in server_path.split("/"):
            raise ConfigurationError(f"{server_path!r} is not below /projects, /datasets or /models, or contains '..'.")
        return ObjectStoragePath(self.uri) / server_path.lstrip("/")

    def read_bytes(self, argument: str, server_path: str, limit: int) -> bytes:
        """Read a file that a job may have written, and never anything outside the storage.

        On a file system, no link below ``/projects``, ``/datasets`` and ``/models`` is followed: a job can make a link
        to any file of the worker.

        :param argument: the operator's argument that names the file, for messages
        :param server_path: the file
        :param limit: bytes that it may have
        :raises StorageError: it does not exist, is too large, is no regular file, or cannot be read
        """
        path = self.path(server_path)
        try:
            if _is_local(path):
                with self._open_parent(server_path) as (folder, name):
                    return _read_regular(name, limit, folder)
            return _read_object(path, limit)
        except FileNotFoundError:
            raise StorageError(
                f"{argument}: {server_path} does not exist (Airflow reads it at {path}). "
                f"{self._what_is_beside(server_path)} "
                f"Check that the job wrote it, and that storage_uri of the Airflow connection shows the platform's "
                f"storage."
            ) from None
        except Exception as error:  # every kind of storage has its own errors
            raise StorageError(f"{argument}: {server_path} cannot be read: {error}") from error

    def read_json(self, argument: str, server_path: str, limit: int) -> Any:
        """Read a JSON file as `texts.parse_json` does. The parameters are those of `read_bytes`.

        :raises StorageError: it cannot be read, or is not JSON
        """
        content = self.read_bytes(argument, server_path, limit)
        try:
            return parse_json(content)
        except ValueError as error:
            raise StorageError(f"{argument}: {server_path} is not JSON: {error}") from error

    @contextmanager
    def _open_parent(self, server_path: str) -> Iterator[tuple[int, str]]:
        """Open the folder of a file on a file system, and give it with the file's name.

        It is opened step by step, so that no job can replace a folder that was checked already by a link.
        """
        from airflow.sdk import ObjectStoragePath

        *folders, name = [part for part in server_path.split("/") if part not in ("", ".")]
        opened = os.open(ObjectStoragePath(self.uri).path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for level, part in enumerate(folders):
                # Whoever set up the storage may have linked its areas to other disks; jobs cannot write there.
                inner = _open_entry(part, os.O_DIRECTORY | (os.O_NOFOLLOW if level else 0), opened)
                os.close(opened)
                opened = inner
            yield opened, name
        finally:
            os.close(opened)

    def _what_is_beside(self, server_path: str) -> str:
        """Return in a sentence what the folder of a missing file contains."""
        path = self.path(server_path)
        try:
            if _is_local(path):
                with self._open_parent(server_path) as (folder, _), os.scandir(folder) as entries:
                    names = [entry.name for entry in islice(entries, _LISTED + 1)]
            else:
                names = [entry.name for entry in islice(path.parent.iterdir(), _LISTED + 1)]
        except Exception:
            return "Its folder does not exist or cannot be read."
        listed = ", ".join(repr(shorten(name, 100)) for name in sorted(names[:_LISTED]))
        return (
            f"Its folder contains {listed}{' and more' * (len(names) > _LISTED)}." if names else "Its folder is empty."
        )


def read_anywhere(argument: str, address: str, limit: int) -> bytes:
    """Read a file of this worker, or at any address that Airflow's object storage supports. Links are followed.

    The parameters, but for the address, are those of `Storage.read_bytes`, and so are the errors.
    """
    from airflow.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(address)
        return _read_regular(path.path, limit) if _is_local(path) else _read_object(path, limit)
    except FileNotFoundError:
        raise StorageError(f"{argument}: {address} does not exist.") from None
    except Exception as error:  # every kind of storage has its own errors
        raise StorageError(f"{argument}: {address} cannot be read: {error}") from error


def _is_local(path: ObjectStoragePath) -> bool:
    return path.protocol in ("", "file", "local")


def _open_entry(name: str, flags: int, folder: int | None) -> int:
    """Open an entry of an open folder, or a path. A FIFO is not waited for."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=folder)
    except OSError:
        if flags & os.O_NOFOLLOW and stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(f"{name!r} is a link, and links are not followed. Let the job write a copy") from None
        raise


def _read_regular(name: str, limit: int, folder: int | None = None) -> bytes:
    """Read an entry of an open folder, which must not be a link, or a path."""
    file = _open_entry(name, 0 if folder is None else os.O_NOFOLLOW, folder)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        _check_size(status.st_size, limit)
        with open(file, "rb", closefd=False) as content:
            return _checked(content.read(limit + 1), limit)
    finally:
        os.close(file)


def _read_object(path: ObjectStoragePath, limit: int) -> bytes:
    _check_size(path.stat().st_size, limit)
    with path.open("rb") as content:
        return _checked(content.read(limit + 1), limit)


def _checked(content: bytes, limit: int) -> bytes:
    _check_size(len(content), limit)  # it may have grown meanwhile, or its storage may not know sizes
    return content


def _check_size(size: int | None, limit: int) -> None:
    if size is not None and size > limit:
        raise OSError(f"its size is {size} bytes, and the limit is {limit}")
