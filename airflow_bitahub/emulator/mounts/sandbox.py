"""Mounts at their real paths by bubblewrap, which gives a program its own file system without root or a container.

Besides its mounts the program sees the system's programs, its interpreter, and its own home and ``/tmp``. It sees
nothing else of the storage, the emulator's home or the user's files. Only the network is the machine's.
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

from airflow_bitahub.emulator.mounts.symlinks import SymlinkWorkdir
from airflow_bitahub.emulator.mounts.workdir import LaunchOptions, Workdir
from airflow_bitahub.exceptions import ConfigurationError

MOUNT_MODES = ("auto", "bubblewrap", "links")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/sys", "/nix")
_HOME, _TMP, _BIN = "/root", "/tmp", "/.bitahub/bin"  # noqa: S108  these are paths inside the sandbox
_PRINT_PREFIXES = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix]))"


def choose_workdir(mounts: str) -> tuple[type[Workdir], str]:
    """Return the kind of workdir to use, and how programs see their mounts in it, in words for the log.

    :param mounts: ``bubblewrap``, ``links``, or ``auto`` for bubblewrap where it works
    :raises ConfigurationError: another word, or bubblewrap does not work here
    """
    if mounts not in MOUNT_MODES:
        raise ConfigurationError(f"mounts is {mounts!r}; choose one of {', '.join(MOUNT_MODES)}.")
    problem = "" if mounts == "links" else bubblewrap_problem()
    if mounts == "bubblewrap" and problem:
        raise ConfigurationError(f"Mounts by bubblewrap are not possible here: {problem}.")
    if mounts == "links" or problem:
        return SymlinkWorkdir, f"through links ({problem or 'as configured'})"
    return SandboxWorkdir, "at their real paths, by bubblewrap"


def bubblewrap_problem() -> str:
    """Return why bubblewrap does not work here; "" if it works."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    try:
        done = subprocess.run(
            [*_base_command(), "--", "/bin/true"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"bwrap ended with exit code {done.returncode}"


class SandboxWorkdir(Workdir):
    """A workdir with its own file system. Inputs are read-only, and no program started in it can outlive it."""

    def _set_up_mounts(self) -> None:
        home = self.scratch / "home"
        home.mkdir()
        options = [
            *("--bind", str(home), _HOME, "--bind", str(self.scratch / "tmp"), _TMP),
            *("--ro-bind", str(self.bin), _BIN),
        ]
        for folder in _interpreter_folders(self._python):
            options += ["--ro-bind", folder, folder]
        for mount_path, mount in sorted(self._mounts.items()):  # an outer mount before those inside it
            options += ["--bind" if mount.is_writable else "--ro-bind", str(mount.source), mount_path]
        self._command = (*_base_command(), *options, "--chdir", _HOME, "--")

    def map_paths(self, text: str) -> str:
        """Return the text unchanged: container paths are real here."""
        return text

    @contextmanager
    def launch_options(self, variables: Mapping[str, str]) -> Iterator[LaunchOptions]:
        """Yield how to start a program here.

        The variables are passed in a file. So they affect neither bubblewrap itself nor appear on its command line.
        """
        bubblewrap, *arguments = self._command
        with tempfile.TemporaryFile() as file:
            for name, value in variables.items():
                file.write(b"--setenv\0" + os.fsencode(name) + b"\0" + os.fsencode(value) + b"\0")
            file.seek(0)
            number = file.fileno()
            yield LaunchOptions((bubblewrap, "--args", str(number), *arguments), self.environment(), (number,))

    def environment(self) -> dict[str, str]:
        """Return the environment that every program starts with; it contains nothing of the emulator's own."""
        return self._environment(_BIN, _HOME, _TMP)


def _base_command() -> list[str]:
    """Return the bubblewrap command line without the mounts of a particular program."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL"]
    for folder in map(Path, _SYSTEM):
        if folder.is_symlink():
            command += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            command += ["--ro-bind", str(folder), str(folder)]
    names = Path("/etc/resolv.conf").resolve()
    if not _is_mounted(names) and names.is_file():
        command += ["--ro-bind", str(names), str(names)]
    return [*command, "--proc", "/proc", "--dev", "/dev"]


@functools.cache
def _interpreter_folders(python: Path) -> list[str]:
    """Return the folders that an interpreter needs: those of its environment and of its base installation."""
    done = subprocess.run([python, "-I", "-c", _PRINT_PREFIXES], capture_output=True, text=True, timeout=60, check=True)
    found = {*map(Path, json.loads(done.stdout)), python.resolve().parents[1]}
    return sorted(str(folder) for folder in found if not _is_mounted(folder))


def _is_mounted(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _SYSTEM)
