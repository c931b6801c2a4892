"""What running jobs and running servings have in common: their files on disk and their tasks in the event loop."""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from airflow_bitahub.emulator.mounts.shared_storage import SharedStorage
from airflow_bitahub.emulator.mounts.workdir import BindMount, Workdir, normalize_mount_path
from airflow_bitahub.emulator.run.images import Image, Images
from airflow_bitahub.emulator.run.memory import MemoryLimits
from airflow_bitahub.emulator.run.processes import tail
from airflow_bitahub.emulator.scripts import Scripts
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.emulator.state.records import JobKey, ServingKey
from airflow_bitahub.emulator.state.state import State
from airflow_bitahub.exceptions import BitaHubError

log = logging.getLogger(__name__)

KeyT = TypeVar("KeyT", JobKey, ServingKey)
ResultT = TypeVar("ResultT")

_MAX_COUNT = 2**31 - 1
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class RunContext(NamedTuple):
    """What jobs and servings need to run.

    :param workdir_type: the kind of `Workdir` that programs run in
    :param home: the folder for logs and traces
    :param grace: seconds between SIGTERM and SIGKILL
    """

    state: State
    storage: SharedStorage
    images: Images
    workdir_type: type[Workdir]
    scripts: Scripts
    memory: MemoryLimits
    home: Path
    grace: float


class Runs(ABC, Generic[KeyT, ResultT]):
    """Runs jobs or servings, with one asyncio task for each. Its methods must be called in the event loop."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._state, self._storage, self._images = context.state, context.storage, context.images
        self.tasks: dict[KeyT, asyncio.Task[ResultT]] = {}

    @abstractmethod
    def log_of(self, key: KeyT) -> Path:
        """Return the file that holds what a job or serving printed."""

    @abstractmethod
    def _record_end(self, key: KeyT, task: asyncio.Task[ResultT]) -> None:
        """Record how a job or serving ended whose task is done."""

    def _trace_of(self, key: KeyT, part: str) -> Path:
        """Return the path that the files of a part begin with, by which another emulator finds the part again."""
        return self.log_of(key).parent / "traces" / part

    def _start_task(self, key: KeyT, work: Coroutine[Any, Any, ResultT]) -> None:
        """Start the task of a job or serving."""

        def finish(task: asyncio.Task[ResultT]) -> None:
            del self.tasks[key]
            self._record_end(key, task)

        task = self.tasks[key] = asyncio.create_task(work)
        task.add_done_callback(finish)

    async def _sleep(self, seconds: float) -> None:
        """Wait `seconds` by the emulator's clock, which a test may drive."""
        end = self._state.now() + seconds * 1000
        while self._state.now() < end:
            await asyncio.sleep(0.005)


def image_mounts(image: Image) -> dict[str, BindMount]:
    """Return the files that an image contains, by container path."""
    return {normalize_mount_path(path): BindMount(source) for path, source in image.files.items()}


def create_log(file: Path) -> None:
    """Create an empty log file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")


def build_message(image: str) -> str:
    """Return the message for a job or serving that waits until the environment of its image is built."""
    return f"building the Python environment for image {image!r}; this happens once and may take minutes"


def log_excerpt(file: Path) -> str:
    """Return the last lines of a log, as the end of a sentence; "" if the log is empty."""
    lines = tail(file, 5, max_bytes=2000).rstrip()
    return f"; its log ends with:\n{lines}" if lines else ""


def failure_message(task: asyncio.Task[Any]) -> str:
    """Return why a task was cancelled or has failed, as a message for the user."""
    error = None if task.cancelled() else task.exception()
    if error is None:
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
