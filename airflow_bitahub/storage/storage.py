"""`Storage`: reading and writing the platform's files from Airflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_bitahub.exceptions import BitaHubError, ConfigurationError, FileNotReadyError, StorageError
from airflow_bitahub.storage.files import Entry, Files, NewFile
from airflow_bitahub.storage.limits import FOLDER_LIMIT
from airflow_bitahub.storage.local import LocalFiles, read_regular
from airflow_bitahub.storage.objects import ObjectFiles, read_object
from airflow_bitahub.storage.paths import is_server_path
from airflow_bitahub.storage.saving import Outcome, Saving, TakenError, save_folder
from airflow_bitahub.texts import contents_of, parse_json

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

_LISTED = 10  # names at most, where a message says what a folder contains


class Storage:
    """The platform's storage as Airflow reaches it.

    Every method takes server paths, and `argument`: the operator's argument that the path comes from, for messages. On
    a file system, no link below ``/projects``, ``/datasets`` and ``/models`` is followed: a job can make a link to any
    file of the worker.

    :param uri: where workers see the folders ``projects``, ``datasets`` and ``models``, such as
        ``file:///mnt/bitahub``, or any address that Airflow's object storage supports
    """

    def __init__(self, uri: str) -> None:
        # A file URI writes a space as %20; Airflow's object storage uses what follows the scheme unchanged.
        self.uri = (unquote(uri) if uri.startswith("file:") else uri).rstrip("/")

    @cached_property
    def _files(self) -> Files:
        from airflow.sdk import ObjectStoragePath  # costs far more than the rest of this package

        try:
            root = ObjectStoragePath(self.uri)
            if _is_local(root):
                return LocalFiles(root.path)
            root.fs  # noqa: B018  imports the provider, which looks its own connection up
        except (ImportError, ValueError) as error:
            scheme = self.uri.partition("://")[0]
            raise ConfigurationError(
                f"The extra 'storage_uri' of the Airflow connection begins with {scheme}://, which this Airflow cannot "
                f"open: {str(error).rstrip('.')}. Install the Airflow provider for it, such as "
                f"'apache-airflow-providers-amazon[s3fs]' for s3://, wherever tasks run."
            ) from error
        return ObjectFiles(root)

    def path(self, server_path: str) -> ObjectStoragePath:
        """Return the path at which Airflow opens a server path.

        :raises ConfigurationError: it is none of the platform's
        """
        from airflow.sdk import ObjectStoragePath

        _check(server_path)
        return ObjectStoragePath(self.uri) / server_path.lstrip("/")

    def read_bytes(self, argument: str, server_path: str, limit: int) -> bytes:
        """Read a file that a job may have written.

        :param limit: bytes that it may have
        :raises FileNotReadyError: it does not exist
        :raises StorageError: it is too large, is no regular file, or cannot be read
        """
        _check(server_path)
        try:
            with _converted(argument, server_path, "read", FileNotFoundError):
                return self._files.read(server_path, limit)
        except FileNotFoundError:
            raise FileNotReadyError(
                f"{argument}: {server_path} does not exist (Airflow reads it at {self.path(server_path)}). "
                f"{self.contents(server_path.rsplit('/', 1)[0])} "
                f"Check that the job wrote it, and that storage_uri of the Airflow connection shows the platform's "
                f"storage."
            ) from None

    def read_json(self, argument: str, server_path: str, limit: int) -> Any:
        """Read a JSON file as `texts.parse_json` does. The parameters are those of `read_bytes`.

        :raises StorageError: it cannot be read, or is not JSON
        """
        content = self.read_bytes(argument, server_path, limit)
        try:
            return parse_json(content)
        except ValueError as error:
            raise StorageError(f"{argument}: {server_path} is not JSON: {error}") from error

    def list_folder(self, argument: str, server_path: str, limit: int = FOLDER_LIMIT) -> list[Entry] | None:
        """Return the entries of a folder by their names; None where there is no such folder.

        :param limit: entries at most; which ones are left out is not defined
        :raises StorageError: it cannot be read
        """
        _check(server_path)
        try:
            with _converted(argument, server_path, "read", FileNotFoundError):
                return sorted(self._files.entries(server_path, limit), key=lambda entry: entry.name)
        except FileNotFoundError:
            return None

    def has(self, argument: str, server_path: str) -> bool:
        """Return whether there is a file, folder or link.

        :raises StorageError: that cannot be found out
        """
        _check(server_path)
        with _converted(argument, server_path, "read"):
            return self._files.has(server_path)

    def contents(self, server_path: str) -> str:
        """Return in a sentence what a folder contains, for messages."""
        try:
            entries = self._files.entries(server_path, _LISTED + 1)
        except Exception:
            return "Its folder does not exist or cannot be read."
        return contents_of("Its folder", sorted(entry.name for entry in entries), _LISTED)

    def write_bytes(self, argument: str, server_path: str, content: bytes) -> None:
        """Write a file, with its folders where they are missing. A reader sees the old file or the new one.

        :raises StorageError: it cannot be written
        """
        _check(server_path)
        with _converted(argument, server_path, "written"):
            self._files.write(server_path, content)

    def create_folder(self, argument: str, server_path: str, files: Sequence[NewFile]) -> bool:
        """Write a folder with all its files; return False, and write nothing, where it exists already.

        On a file system it appears at once. An object store has no folders: its files appear in the order given, so
        the folder is complete, and counts as existing, when the last one is there.

        :param files: at least one
        :raises StorageError: it cannot be written
        """
        _check(server_path)
        with _converted(argument, server_path, "written"):
            return self._files.create_folder(server_path, files)

    def save_folder(self, argument: str, saving: Saving) -> Outcome:
        """Copy a folder with a manifest, so that readers see all of it or nothing, see `storage.saving`.

        :raises ConfigurationError: the target exists, and must not be replaced
        :raises StorageError: the source does not exist, or a file cannot be read or written
        """
        for path in (saving.source, saving.target):
            _check(path)
        try:
            with _converted(argument, saving.target, "saved", FileNotFoundError, TakenError):
                return save_folder(self._files, saving)
        except FileNotFoundError as error:
            if self.list_folder(argument, saving.source, limit=1) is not None:
                raise StorageError(f"{argument}: {saving.target} cannot be saved: {error}") from error
            raise FileNotReadyError(
                f"{argument}: {saving.source} does not exist (Airflow reads it at {self.path(saving.source)}). "
                f"{self.contents(saving.source.rsplit('/', 1)[0])}"
            ) from None
        except TakenError as error:
            raise ConfigurationError(f"if_exists={saving.if_exists!r}: {error}.") from None

    def remove(self, argument: str, server_path: str) -> None:
        """Remove a file, or a folder with what is in it. Nothing happens where there is none.

        :raises StorageError: it cannot be removed
        """
        _check(server_path)
        try:
            with _converted(argument, server_path, "removed", FileNotFoundError):
                self._files.remove(server_path)
        except FileNotFoundError:
            return


def read_anywhere(argument: str, address: str, limit: int) -> bytes:
    """Read a file of this worker, or at any address that Airflow's object storage supports. Links are followed.

    The parameters, but for the address, are those of `Storage.read_bytes`, and so are the errors.
    """
    from airflow.sdk import ObjectStoragePath

    try:
        with _converted(argument, address, "read", FileNotFoundError):
            path = ObjectStoragePath(address)
            return read_regular(path.path, limit) if _is_local(path) else read_object(path, limit)
    except FileNotFoundError:
        raise StorageError(f"{argument}: {address} does not exist.") from None


def _check(server_path: str) -> None:
    if not is_server_path(server_path) or ".." in server_path.split("/"):
        raise ConfigurationError(f"{server_path!r} is not below /projects, /datasets or /models, or contains '..'.")


@contextmanager
def _converted(argument: str, where: str, done: str, *passed: type[Exception]) -> Iterator[None]:
    """Raise StorageError for every error, since every kind of storage has its own, but those that are `passed`."""
    try:
        yield
    except passed:
        raise
    except BitaHubError:
        raise
    except Exception as error:
        raise StorageError(f"{argument}: {where} cannot be {done}: {error}") from error


def _is_local(path: ObjectStoragePath) -> bool:
    return path.protocol in ("", "file", "local")
