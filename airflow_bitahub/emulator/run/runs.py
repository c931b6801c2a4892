"""What running jobs and running servings have in common: their places on disk, their tasks in the event loop."""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from airflow_bitahub.emulator.mounts.shared_storage import Storage
from airflow_bitahub.emulator.mounts.workdir import Folder, Room, clean
from airflow_bitahub.emulator.run.images import Image, Images
from airflow_bitahub.emulator.run.processes import tail
from airflow_bitahub.emulator.scripts import Scripts
from airflow_bitahub.emulator.state.errors import Invalid
from airflow_bitahub.emulator.state.state import JobKey, ServingKey, State
from airflow_bitahub.exceptions import BitaHubError

log = logging.getLogger(__name__)

K = TypeVar("K", JobKey, ServingKey)
T = TypeVar("T")

_MOST = 2**31 - 1
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Workshop(NamedTuple):
    """What everything runs with.

    `make_room` is the kind of `Room` that programs run in. `home` holds logs and traces. `grace` is the seconds between
    SIGTERM and SIGKILL.
    """

    state: State
    storage: Storage
    images: Images
    make_room: type[Room]
    scripts: Scripts
    home: Path
    grace: float


class Runs(ABC, Generic[K, T]):
    """One asyncio task per job or serving. Its methods are called in the event loop."""

    def __init__(self, workshop: Workshop) -> None:
        self._state, self._storage, self._images, self._make_room, self._scripts, self._home, self._grace = workshop
        self.tasks: dict[K, asyncio.Task[T]] = {}

    @abstractmethod
    def log_of(self, key: K) -> Path:
        """Give the file that holds what a job or serving printed."""

    @abstractmethod
    def over(self, key: K, task: asyncio.Task[T]) -> None:
        """Note what has become of a job or serving whose task is done, however it came to its end."""

    def trace_of(self, key: K, part: str) -> Path:
        """Give how the names of the files begin by which a part of a job or serving is found again."""
        return self.log_of(key).parent / "traces" / part

    def begin(self, key: K, work: Coroutine[Any, Any, T]) -> None:
        """Let a job or serving run."""

        def finish(task: asyncio.Task[T]) -> None:
            del self.tasks[key]
            self.over(key, task)

        task = self.tasks[key] = asyncio.create_task(work)
        task.add_done_callback(finish)

    async def pass_time(self, seconds: float) -> None:
        """Let so much time pass by the emulator's clock, which a test may drive."""
        end = self._state.now() + seconds * 1000
        while self._state.now() < end:
            await asyncio.sleep(0.005)


def files_of(image: Image) -> dict[str, Folder]:
    """Give what an image would contain: container path -> file or folder."""
    return {clean(path): Folder(source) for path, source in image.files.items()}


def new_log(file: Path) -> None:
    """Begin a log."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")


def building(image: str) -> str:
    """Say what a job or serving waits for whose image was never used before."""
    return f"building the Python environment that stands for image {image!r}; this happens once and may take minutes"


def ending(file: Path) -> str:
    """Give the last words of a log as the end of a sentence."""
    words = tail(file, 5, max_bytes=2000).rstrip()
    return f"; its log ends with:\n{words}" if words else ""


def why(task: asyncio.Task[Any]) -> str:
    """Say why a task brought no result."""
    error = None if task.cancelled() else task.exception()
    if error is None:
        return "the emulator ended"
    if not isinstance(error, BitaHubError):
        log.error("could not run it", exc_info=error)
        return f"the emulator could not run it: {error}"
    return str(error)


def check_label(field: str, value: str) -> None:
    """Refuse what could not be the name of a folder, or of a Kubernetes object."""
    if not _LABEL.fullmatch(value):
        raise Invalid(f"{field}: {value!r} is not made of at most 63 letters, digits, '-', '_' and '.'")


def check_count(field: str, value: int) -> None:
    """Refuse what Kubernetes could not count up to. What is calculated from it could not be told either."""
    if value > _MOST:
        raise Invalid(f"{field}: is more than {_MOST}")


def check_text(field: str, value: str) -> None:
    """Refuse what could not be an argument of a program."""
    if "\0" in value:
        raise Invalid(f"{field}: contains a null character")
