"""The code of a task's job: read once, and the same for all attempts until the task is cleared.

With a `storage_uri`, the files are uploaded to a folder of the project that is named after their digest. Without one, a
small archive of them travels inside the command, and Airflow's task state store keeps it for later attempts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators.code_folder import Code, read_code
from airflow_bitahub.operators.records import load_code, save_code
from airflow_bitahub.storage import paths

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.storage.storage import Storage

_START = f"cd {paths.CODE} || exit 1; "
_UNPACK = (
    'code_folder=$(mktemp -d) && printf %s {archive} | base64 -d | tar -xzf - -C "$code_folder" && cd "$code_folder" '
    "|| {{ echo 'The code could not be unpacked: does the image have mktemp, base64, tar and gzip?' >&2; exit 1; }}; "
)


class JobCode(ABC):
    """The code of one task instance's job.

    :param read: reads it as it is now
    """

    def __init__(self, read: Callable[[], Code]) -> None:
        self._read = read
        self._code: Code | None = None  # None: it had not to be read

    def pin(self, record: JobRecord) -> JobRecord:
        """Return the record with the digest of its code: the code that it has already, or that which is there now.

        :raises ConfigurationError: the code cannot be used; or it is gone, and what is there now differs
        """
        if record.code_digest and self._has(record.code_digest):
            return record
        code = self._read()
        if record.code_digest not in ("", code.digest):
            raise ConfigurationError(
                f"code: the code that this task began with is gone (digest {record.code_digest}), and {code.source} "
                f"has changed since. Clear the task to run what is there now."
            )
        self._take(code)
        self._code = code
        return replace(record, code_digest=code.digest)

    def deliver(self) -> None:
        """Put the code where jobs and later attempts find it, unless it is there. Raises StorageError on failure."""
        if self._code is not None:
            self._keep(self._code)

    @abstractmethod
    def server_path(self, digest: str) -> str | None:
        """Return the folder to mount at ``/code``; None where there is none."""

    @abstractmethod
    def command_start(self) -> str:
        """Return what a command has to begin with, so that it runs in the folder of the code."""

    @abstractmethod
    def _has(self, digest: str) -> bool:
        """Return whether the code of an earlier attempt can be used."""

    @abstractmethod
    def _take(self, code: Code) -> None:
        """Raise ConfigurationError if the code cannot be used."""

    @abstractmethod
    def _keep(self, code: Code) -> None:
        """Put the code where it belongs."""


class UploadedCode(JobCode):
    """Code in a folder of the platform's storage, which many jobs may share.

    :param folder: the server path of the project's code
    """

    def __init__(self, read: Callable[[], Code], storage: Storage, folder: str) -> None:
        super().__init__(read)
        self._storage = storage
        self._folder = folder

    def server_path(self, digest: str) -> str:
        """Return the folder to mount at ``/code``."""
        return f"{self._folder}-{digest}"

    def command_start(self) -> str:
        """Return the change to the folder."""
        return _START

    def _has(self, digest: str) -> bool:
        return self._storage.list_folder("code", self.server_path(digest), 1) is not None

    def _take(self, code: Code) -> None:
        pass

    def _keep(self, code: Code) -> None:
        self._storage.create_folder("code", self.server_path(code.digest), code.files)


class InlineCode(JobCode):
    """Code that travels inside the command.

    :param context: the task instance's, in whose state store the archive is kept
    """

    def __init__(self, read: Callable[[], Code], context: Context) -> None:
        super().__init__(read)
        self._context = context
        self._archive = ""

    def server_path(self, digest: str) -> None:  # noqa: ARG002
        """Return None."""
        return

    def command_start(self) -> str:
        """Return the unpacking, into a folder of its own: not every image lets its user create ``/code``."""
        return _UNPACK.format(archive=self._archive)

    def _has(self, digest: str) -> bool:
        self._archive = load_code(self._context, digest)
        return bool(self._archive)

    def _take(self, code: Code) -> None:
        self._archive = code.packed()

    def _keep(self, code: Code) -> None:
        save_code(self._context, code.digest, self._archive)


def code_of(path: str, base: str, context: Context, storage: Storage | None, folder: str) -> JobCode:
    """Return the code of a job.

    :param path: a folder or file of this worker
    :param base: the folder in which a relative path begins
    :param storage: the platform's; None: Airflow does not reach it
    :param folder: the server path of the project's code
    """

    def read() -> Code:
        return read_code(path, Path(base))

    return InlineCode(read, context) if storage is None else UploadedCode(read, storage, folder)
