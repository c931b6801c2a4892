"""One command in a process group of its own, and the end of what it printed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class ProcessGroup:
    """A running command and everything it starts, ended together.

    It is watched by looking, not by SIGCHLD or a thread each: that works in any thread and on any Python, and costs
    next to nothing for the few that run at once.

    :param argv: the command
    :param cwd: its working directory
    :param env: its whole environment
    :param log: both outputs are appended to this file
    :param pass_fds: open files it inherits
    :raises OSError: it cannot be started
    """

    def __init__(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, pass_fds: Iterable[int] = ()
    ) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        self._is_gone = False

    @property
    def pid(self) -> int:
        """The process id of the command, which is also the id of the group."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the command and give its exit code, 128 + n after signal n as in a shell.

        What it left running in its group is ended with it, as it would be in a container.
        """
        pause = 0.005
        while self._process.poll() is None:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        self._signal(signal.SIGKILL)
        self._is_gone = True
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    async def end(self, grace: float) -> None:
        """End the whole group: SIGTERM, and after `grace` seconds SIGKILL. Does nothing when it is over."""
        if self._is_gone:
            return
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        # The shell is often gone before the program it started: the grace is the group's.
        while (self._process.poll() is None or self._has_members()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._signal(signal.SIGKILL)
        while self._process.poll() is None:
            await asyncio.sleep(0.02)
        self._is_gone = True

    def _has_members(self) -> bool:
        """Tell whether anyone in the group lives. Where nobody buries orphans, as in many containers, the dead stay."""
        if not self._signal(0):
            return False
        processes = list(Path("/proc").glob("[0-9]*/stat"))
        return not processes or any(_is_member(stat, self._process.pid) for stat in processes)

    def _signal(self, number: int) -> bool:
        """Signal the group; False when there is none any more. macOS answers EPERM for a group of the dead."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False


def _is_member(stat: Path, group: int) -> bool:
    """Read Linux's account of a process: is it in this group, and not dead?"""
    try:
        # the program's name, in parentheses, may hold anything
        state, _, process_group = stat.read_text("utf-8", "replace").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(process_group) == group and state not in "ZX"


def tail(log: Path, lines: int, max_bytes: int = 1 << 20) -> str:
    """Give the last `lines` lines of a file, at most `max_bytes` of it; "" when there is none."""
    if lines <= 0:
        return ""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            text = file.read(max_bytes).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:])
