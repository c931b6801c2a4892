"""A program's mounts at their real paths, by bubblewrap: a file system of its own without being root or in a container.

Besides its mounts the program sees the system's programs, its interpreter, a home and a ``/tmp`` of its own, and
nothing of the storage, the emulator's home or the user's. Only the network is the machine's.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from airflow_bitahub.emulator.mounts.symlinks import LinkFolder
from airflow_bitahub.emulator.mounts.workdir import Entrance, Room
from airflow_bitahub.exceptions import ConfigurationError

MOUNTS = ("auto", "bubblewrap", "links")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/sys", "/nix")
_HOME, _TMP, _BIN = "/root", "/tmp", "/.bitahub/bin"  # noqa: S108  what the program calls so is its own
_TELL = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix]))"


def choose_room(mounts: str) -> tuple[type[Room], str]:
    """Give the kind of room for programs, and how they see their mounts there, in words.

    :param mounts: ``bubblewrap``, ``links``, or ``auto`` for bubblewrap where it works
    :raises ConfigurationError: it is none of these, or bubblewrap does not work
    """
    if mounts not in MOUNTS:
        raise ConfigurationError(f"mounts is {mounts!r}; known are {', '.join(MOUNTS)}.")
    problem = "" if mounts == "links" else why_not()
    if mounts == "bubblewrap" and problem:
        raise ConfigurationError(f"Mounts by bubblewrap are not possible here: {problem}.")
    if mounts == "links" or problem:
        return LinkFolder, f"through links ({problem or 'as asked for'})"
    return Sandbox, "at their real paths, by bubblewrap"


def why_not() -> str:
    """Say why bubblewrap does not work here; "" when it does."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    try:
        done = subprocess.run(
            [*_base(), "--", "/bin/true"], capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"bwrap ended with exit code {done.returncode}"


class Sandbox(Room):
    """A room with a file system of its own. Inputs are read-only, and what is started in it cannot outlive it."""

    def _fill(self) -> None:
        home = self.scratch / "home"
        home.mkdir()
        mounts = [
            *("--bind", str(home), _HOME, "--bind", str(self.scratch / "tmp"), _TMP),
            *("--ro-bind", str(self.bin), _BIN),
        ]
        for folder in _interpreter_folders(self._python):
            mounts += ["--ro-bind", folder, folder]
        for mount_path, seen in sorted(self._folders.items()):  # an outer one before those within it
            mounts += ["--bind" if seen.is_writable else "--ro-bind", str(seen.place), mount_path]
        self._arguments = (*_base(), *mounts, "--chdir", _HOME, "--")

    def map(self, text: str) -> str:
        """Give the text as it is: the container's paths are real."""
        return text

    @contextmanager
    def entrance(self, told: Mapping[str, str]) -> Iterator[Entrance]:
        """Give how a program gets in: what it is told reaches neither bubblewrap itself nor its command line."""
        bubblewrap, *arguments = self._arguments
        with tempfile.TemporaryFile() as file:
            for name, value in told.items():
                file.write(b"--setenv\0" + os.fsencode(name) + b"\0" + os.fsencode(value) + b"\0")
            file.seek(0)
            number = file.fileno()
            yield Entrance((bubblewrap, "--args", str(number), *arguments), self.environment(), (number,))

    def environment(self) -> dict[str, str]:
        """Give the environment every program starts with: nothing of the emulator's own is in it."""
        return self._environment(_BIN, _HOME, _TMP)


def _base() -> list[str]:
    """Give the command line up to the mounts of its own that a program has."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL"]
    for folder in map(Path, _SYSTEM):
        if folder.is_symlink():
            command += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            command += ["--ro-bind", str(folder), str(folder)]
    names = Path("/etc/resolv.conf").resolve()
    if not _is_seen(names) and names.is_file():
        command += ["--ro-bind", str(names), str(names)]
    return [*command, "--proc", "/proc", "--dev", "/dev"]


@functools.cache
def _interpreter_folders(python: Path) -> list[str]:
    """Give the folders an interpreter needs: its environment's and what that is based on."""
    told = subprocess.run([python, "-I", "-c", _TELL], capture_output=True, text=True, timeout=60, check=True)
    found = {*map(Path, json.loads(told.stdout)), python.resolve().parents[1]}
    return sorted(str(folder) for folder in found if not _is_seen(folder))


def _is_seen(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _SYSTEM)
