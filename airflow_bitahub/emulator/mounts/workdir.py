"""The folder that a job or serving runs in, with its mounts.

There are two kinds. Where bubblewrap works, a program sees its mounts at their real paths and little else of this
machine (`sandbox.SandboxWorkdir`). Elsewhere symbolic links stand for the mounts, and container paths in commands are
replaced by the paths of those links (`symlinks.SymlinkWorkdir`).
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

from airflow_bitahub.emulator.state.errors import InvalidRequest


class BindMount(NamedTuple):
    """A folder or file that a program sees; only bubblewrap enforces `is_writable`."""

    source: Path
    is_writable: bool = False


class LaunchOptions(NamedTuple):
    """How to start a program inside a workdir.

    :param wrapper: the command line to put in front of the program's own
    :param environment: the environment to start it with
    :param files: the file descriptors that it must inherit
    """

    wrapper: tuple[str, ...]
    environment: Mapping[str, str]
    files: tuple[int, ...]


def normalize_mount_path(mount_path: str) -> str:
    """Return a container path in its plain form: ``/code`` for ``/code/``.

    :raises InvalidRequest: nothing can be mounted there
    """
    plain = normpath("/" + mount_path.lstrip("/"))
    if not mount_path.startswith("/") or plain == "/" or "\0" in mount_path or ".." in mount_path.split("/"):
        raise InvalidRequest(f"nothing can be mounted at {mount_path!r}: it is not an absolute path below /")
    return plain


class Workdir(ABC):
    """A temporary folder for a job or serving, as a context manager: created on entry, removed on exit.

    Its path is short and contains no spaces, even if the path of the storage does.

    :param mounts: by container path
    :param python: the interpreter behind the commands ``python`` and ``python3``
    :param private_port: the port of a program that gets a network of its own, if there is a sandbox; `network_in` this
        folder are then the socket files that lead into it and out of it, see `relay`
    """

    def __init__(self, mounts: Mapping[str, BindMount], python: Path, private_port: int | None = None) -> None:
        self._mounts = mounts
        self._python = python
        self._private_port = private_port

    def __enter__(self) -> Workdir:
        self.path = Path(tempfile.mkdtemp(prefix="bh-", dir=_short_parent()))
        try:
            self.scratch = self.path / ".scratch"
            self.bin = self.path / ".bin"
            (self.scratch / "tmp").mkdir(parents=True)
            self.bin.mkdir()
            # A script, not a link: an interpreter started through a link would not find its virtual environment.
            for name in ("python", "python3"):
                shim = self.bin / name
                shim.write_text(f'#!/bin/sh\nexec {shlex.quote(str(self._python))} "$@"\n')
                shim.chmod(0o755)
            self._set_up_mounts()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # removes links, but not what they point to

    @abstractmethod
    def _set_up_mounts(self) -> None:
        """Make the mounts visible to programs."""

    @abstractmethod
    def map_paths(self, text: str) -> str:
        """Return a text with each container path replaced by the path that the program has to use instead."""

    def environment(self) -> dict[str, str]:
        """Return the environment that every program starts with; it contains nothing of the emulator's own."""
        return self._environment(str(self.bin), str(self.scratch), str(self.scratch / "tmp"))

    @contextlib.contextmanager
    def launch_options(self, variables: Mapping[str, str]) -> Iterator[LaunchOptions]:
        """Yield how to start a program here.

        :param variables: environment variables for this program only
        """
        yield LaunchOptions((), {**self.environment(), **variables}, ())

    def _environment(self, programs: str, home: str, temporary: str) -> dict[str, str]:
        system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {
            "PATH": f"{programs}:{self._python.parent}:{system}",
            "HOME": home,
            "TMPDIR": temporary,
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",  # otherwise the log could not be read while the job runs
        }

    def record_path(self, trace: Path) -> None:
        """Write this folder's path to disk. If the emulator is killed, the next one can then remove the folder."""
        trace.parent.mkdir(parents=True, exist_ok=True)
        _record_file(trace).write_text(str(self.path))

    @staticmethod
    def recorded(trace: Path) -> Path | None:
        """Return the folder whose path was recorded there, if any."""
        try:
            return Path(_record_file(trace).read_text())
        except FileNotFoundError:
            return None

    @staticmethod
    def remove_recorded(trace: Path) -> None:
        """Remove the folder whose path was recorded there, if any."""
        if folder := Workdir.recorded(trace):
            shutil.rmtree(folder, ignore_errors=True)


def network_in(workdir: Path) -> Path:
    """Return the folder of the socket files of a program with a network of its own; it does not exist otherwise."""
    return workdir / ".scratch" / "network"


def _record_file(trace: Path) -> Path:
    return trace.with_name(f"{trace.name}.folder")


def _short_parent() -> str:
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108  mkdtemp makes it safe there
