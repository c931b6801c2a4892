"""Where a program runs: a folder of its own, and its mounts.

There are two kinds. Where bubblewrap works, a program sees its mounts at their real paths and little else
(`sandbox.Sandbox`). Elsewhere links lead to them, and its container paths are mapped onto those (`links.LinkFolder`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from posixpath import normpath
from types import TracebackType
from typing import NamedTuple

from airflow_bitahub.emulator.state.errors import Invalid


class Folder(NamedTuple):
    """A folder, or file, that a program sees; `is_writable` is kept to only where bubblewrap works."""

    place: Path
    is_writable: bool = False


class Entrance(NamedTuple):
    """How a program gets into its room.

    `wrapper` is the command line that its own is appended to, started with this environment and these open files.
    """

    wrapper: tuple[str, ...]
    environment: Mapping[str, str]
    files: tuple[int, ...]


def clean(mount_path: str) -> str:
    """Give a container path in its plain form, ``/code`` for ``/code/``.

    :raises Invalid: nothing can be mounted there
    """
    plain = normpath("/" + mount_path.lstrip("/"))
    if not mount_path.startswith("/") or plain == "/" or "\0" in mount_path or ".." in mount_path.split("/"):
        raise Invalid(f"nothing can be mounted at {mount_path!r}: it is not an absolute path below /")
    return plain


class Room(ABC):
    """The folder a job or serving runs in, as a context manager: made on entry, removed on exit.

    It is short and free of spaces, whatever the storage is called.

    :param folders: what is seen, by its container path
    :param python: the interpreter that ``python`` and ``python3`` shall be
    """

    def __init__(self, folders: Mapping[str, Folder], python: Path) -> None:
        self._folders = folders
        self._python = python

    def __enter__(self) -> Room:
        self.path = Path(tempfile.mkdtemp(prefix="bh-", dir=_short_place()))
        try:
            self.scratch = self.path / ".scratch"
            self.bin = self.path / ".bin"
            (self.scratch / "tmp").mkdir(parents=True)
            self.bin.mkdir()
            # A script, not a link: through a link an environment's interpreter would not find its environment.
            for name in ("python", "python3"):
                shim = self.bin / name
                shim.write_text(f'#!/bin/sh\nexec {shlex.quote(str(self._python))} "$@"\n')
                shim.chmod(0o755)
            self._fill()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # removes links, never what they lead to

    @abstractmethod
    def _fill(self) -> None:
        """Make the mounts seen."""

    @abstractmethod
    def map(self, text: str) -> str:
        """Give a text with every container path replaced by the one the program has to use for it."""

    def environment(self) -> dict[str, str]:
        """Give the environment every program starts with: nothing of the emulator's own is in it."""
        return self._environment(str(self.bin), str(self.scratch), str(self.scratch / "tmp"))

    @contextlib.contextmanager
    def entrance(self, told: Mapping[str, str]) -> Iterator[Entrance]:
        """Give how a program gets in.

        :param told: environment variables for it alone
        """
        yield Entrance((), {**self.environment(), **told}, ())

    def _environment(self, programs: str, home: str, temporary: str) -> dict[str, str]:
        system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {
            "PATH": f"{programs}:{self._python.parent}:{system}",
            "HOME": home,
            "TMPDIR": temporary,
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",  # so that the log can be read while the job runs
        }

    def note(self, trace: Path) -> None:
        """Write down where the folder is, for somebody who has to remove it in this process's stead."""
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.with_name(f"{trace.name}.folder").write_text(str(self.path))

    @staticmethod
    def remove_noted(trace: Path) -> None:
        """Remove a folder that was noted there, if any."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(trace.with_name(f"{trace.name}.folder").read_text(), ignore_errors=True)


def _short_place() -> str:
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108  mkdtemp makes it safe there
