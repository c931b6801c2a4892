"""What running jobs and running servings have in common: their files on disk and their tasks in the event loop."""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from airflow_bitahub.emulator.mounts.shared_storage import SharedStorage
from airflow_bitahub.emulator.mounts.workdir import BindMount, Workdir, normalize_mount_path
from airflow_bitahub.emulator.origins import Origins
from airflow_bitahub.emulator.run.images import Image, Images
from airflow_bitahub.emulator.run.memory import MemoryLimits
from airflow_bitahub.emulator.run.processes import tail
from airflow_bitahub.emulator.scripts import Scripts
from airflow_bitahub.emulator.state.errors import InvalidRequest, NotWritten
from airflow_bitahub.emulator.state.records import JobKey, ServingKey
from airflow_bitahub.emulator.state.state import State
from airflow_bitahub.exceptions import BitaHubError

log = logging.getLogger(__name__)

KeyT = TypeVar("KeyT", JobKey, ServingKey)
ResultT = TypeVar("ResultT")

_WRITING_PAUSE = 0.5  # seconds between two tries to write a record
_MAX_COUNT = 2**31 - 1
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class RunContext(NamedTuple):
    """What jobs and servings need to run.

    :param workdir_type: the kind of `Workdir` that programs run in
    :param origins: the names by which servings may be addressed
    :param home: the folder for logs and traces
    :param grace: seconds between SIGTERM and SIGKILL
    """

    state: State
    storage: SharedStorage
    images: Images
    workdir_type: type[Workdir]
    scripts: Scripts
    memory: MemoryLimits
    origins: Origins
    home: Path
    grace: float


class Runs(ABC, Generic[KeyT, ResultT]):
    """Runs jobs or servings, with two asyncio tasks for each. Its methods must be called in the event loop.

    One task does the work, and is cancelled when that is to stop. The other one waits for its end and records it. While
    a record cannot be written, work that needs it waits, work that is to stop stops, and what has ended is recorded
    later.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._state, self._storage, self._images = context.state, context.storage, context.images
        self.tasks: dict[KeyT, asyncio.Task[None]] = {}
        self._work: dict[KeyT, asyncio.Task[ResultT]] = {}
        self._stopping: set[KeyT] = set()
        self._is_closing = False

    @abstractmethod
    def log_of(self, key: KeyT) -> Path:
        """Return the file that holds what a job or serving printed."""

    @abstractmethod
    def _record_stop(self, key: KeyT) -> bool:
        """Record that a job or serving was asked to stop. Return False if it is already stopping or has ended."""

    @abstractmethod
    def _record_end(self, key: KeyT, failure: str) -> None:
        """Record how a job or serving ended whose work is done.

        :param failure: why the work gave no result; "" if it gave one
        """

    @abstractmethod
    def _release(self, key: KeyT) -> None:
        """Free what a job or serving has used whose work is done."""

    def stop(self, key: KeyT) -> None:
        """Stop a job or serving; do nothing if it has ended.

        :raises NotFound: there is none
        :raises NotWritten: the request to stop could not be recorded; it is obeyed all the same
        """
        try:
            is_new = self._record_stop(key)
        except NotWritten as error:
            self._cancel(key)
            raise NotWritten(f"{key} is being stopped, but {error}") from error
        if is_new:
            self._cancel(key)

    def close(self) -> None:
        """Stop all jobs or servings, and record their ends only if that is possible now."""
        self._is_closing = True
        for key in list(self.tasks):
            self._try_to_write(partial(self.stop, key))

    def _trace_of(self, key: KeyT, part: str) -> Path:
        """Return the path that the files of a part begin with, by which another emulator finds the part again."""
        return self.log_of(key).parent / "traces" / part

    def _start_task(self, key: KeyT, work: Coroutine[Any, Any, ResultT]) -> None:
        """Start the work of a job or serving."""
        self._work[key] = asyncio.create_task(work)
        self.tasks[key] = asyncio.create_task(self._follow(key, self._work[key]))

    def _cancel(self, key: KeyT) -> None:
        """Cancel the work of a job or serving, once: the next time would interrupt its orderly end."""
        if key in self._work and key not in self._stopping:
            self._stopping.add(key)
            self._work[key].cancel()

    async def _follow(self, key: KeyT, work: asyncio.Task[ResultT]) -> None:
        await asyncio.wait([work])
        error = None if work.cancelled() else work.exception()
        failure = failure_message(error) if work.cancelled() or error else ""

        def record() -> None:
            if key in self._stopping:
                self._record_stop(key)  # unless that is recorded already
            self._record_end(key, failure)

        try:
            try:
                is_recorded = self._try_to_write(record)
            finally:
                # Release capacity only now. Otherwise more jobs than allowed could be recorded as running.
                self._release(key)
            while not is_recorded and not self._is_closing:
                await asyncio.sleep(_WRITING_PAUSE)
                is_recorded = self._try_to_write(record)
        finally:
            del self.tasks[key], self._work[key]
            self._stopping.discard(key)

    async def _write(self, change: Callable[[], object]) -> None:
        """Change a record as a part of the work, and try again while that cannot be written."""
        while not self._try_to_write(change):
            await asyncio.sleep(_WRITING_PAUSE)

    def _try_to_write(self, change: Callable[[], object]) -> bool:
        """Change a record, and return whether that could be written; the store reports it in the log otherwise."""
        try:
            change()
        except NotWritten:
            return False
        return True

    async def _sleep(self, seconds: float) -> None:
        """Wait `seconds` by the emulator's clock, which a test may drive."""
        end = self._state.now() + seconds * 1000
        while self._state.now() < end:
            await asyncio.sleep(0.005)


def image_mounts(image: Image) -> dict[str, BindMount]:
    """Return the files that an image contains, by container path."""
    return {normalize_mount_path(path): BindMount(source) for path, source in image.files.items()}


def create_log(file: Path) -> None:
    """Create an empty log file, which only its owner can read. Raises NotWritten when that is not possible."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
    except OSError as error:
        raise NotWritten(f"cannot create the log {file}: {error.strerror}") from error


def build_message(image: str) -> str:
    """Return the message for a job or serving that waits until the environment of its image is built."""
    return f"building the Python environment for image {image!r}; this happens once and may take minutes"


def log_excerpt(file: Path) -> str:
    """Return the last lines of a log, as the end of a sentence; "" if the log is empty."""
    lines = tail(file, 5, max_bytes=2000).rstrip()
    return f"; its log ends with:\n{lines}" if lines else ""


def failure_message(error: BaseException | None) -> str:
    """Return why work has failed, as a message for the user; None: it was cancelled."""
    if error is None or isinstance(error, asyncio.CancelledError):
        return "the emulator ended"
    if not isinstance(error, BitaHubError):
        log.error("the emulator failed to run it", exc_info=error)
        return f"the emulator could not run it: {error}"
    return str(error)


def check_label(field: str, value: str) -> None:
    """Raise InvalidRequest for a value that could not be the name of a folder, or of a Kubernetes object."""
    if not _LABEL.fullmatch(value):
        raise InvalidRequest(f"{field}: {value!r} is not made of at most 63 letters, digits, '-', '_' and '.'")


def check_count(field: str, value: int) -> None:
    """Raise InvalidRequest for a number that is too large for Kubernetes, and for calculations with it."""
    if value > _MAX_COUNT:
        raise InvalidRequest(f"{field}: is more than {_MAX_COUNT}")


def check_text(field: str, value: str) -> None:
    """Raise InvalidRequest for a text that could not be an argument of a program."""
    if "\0" in value:
        raise InvalidRequest(f"{field}: contains a null character")
