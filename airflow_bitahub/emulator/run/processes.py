"""One command in a process group of its own, found again by whoever comes later, and the end of what it printed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from airflow_bitahub.emulator.mounts.workdir import Room

LOST = 137  # the exit code of a command of which nobody saw the end

# The command gets a shell of its own, so that no `exec` or `exit` in it gets past the note of its exit code.
_TRACE = 'echo $$ >"$0.pid"; "$@"; code=$?; echo $code >"$0.exit"; exit $code'


class ProcessGroup:
    """A running command and everything it starts, ended together.

    It is watched by looking, not by SIGCHLD or a thread each: that works in any thread and on any Python, and costs
    next to nothing for the few that run at once.

    :param pid: the process id of the command, which is also the id of the group; None: there is no such group
    :param poll: gives the exit code, negative after a signal, or None while the command lives
    """

    def __init__(self, pid: int | None, poll: Callable[[], int | None]) -> None:
        self.pid = pid
        self._poll = poll
        self._is_gone = False

    async def wait(self) -> int:
        """Wait for the command and give its exit code, 128 + n after signal n as in a shell.

        What it left running in its group is ended with it, as it would be in a container.
        """
        pause = 0.005
        while (code := self._poll()) is None:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        self._signal(signal.SIGKILL)
        self._is_gone = True
        return code if code >= 0 else 128 - code

    async def end(self, grace: float) -> None:
        """End the whole group: SIGTERM, and after `grace` seconds SIGKILL. Does nothing when it is over."""
        if self._is_gone:
            return
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        # The shell is often gone before the program it started: the grace is the group's.
        while (self._poll() is None or self._has_members()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._signal(signal.SIGKILL)
        deadline = time.monotonic() + 5  # what has left the group may hold the lock for ever
        while self._poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._is_gone = True

    def _has_members(self) -> bool:
        """Tell whether anyone in the group lives. Where nobody buries orphans, as in many containers, the dead stay."""
        if not self._signal(0):
            return False
        processes = list(Path("/proc").glob("[0-9]*/stat"))
        return not processes or any(_is_member(stat, self.pid) for stat in processes)

    def _signal(self, number: int) -> bool:
        """Signal the group; False when there is none any more. macOS answers EPERM for a group of the dead."""
        if self.pid is None:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
            return True
        return False


def start(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, pass_fds: Iterable[int] = ()
) -> ProcessGroup:
    """Start a command in a process group of its own.

    :param env: its whole environment
    :param log: both outputs are appended to this file
    :param pass_fds: open files it inherits
    :raises OSError: it cannot be started
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    return ProcessGroup(process.pid, process.poll)


class TracedCommand:
    """A shell command that leaves a trace, by which another process can find it and what became of it.

    :param trace: how the names of the files begin that tell: ``.lock`` is locked while the command lives, ``.pid``
        holds the id of its group, and ``.exit`` its exit code
    """

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def start(self, command: str, room: Room, told: Mapping[str, str], log: Path) -> ProcessGroup:
        """Start it in a room. Raises OSError when that cannot be done.

        :param told: environment variables, besides those that every program has
        """
        self._trace.parent.mkdir(parents=True, exist_ok=True)
        for kind in ("lock", "pid", "exit"):
            self._file(kind).unlink(missing_ok=True)
        lock = os.open(self._file("lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            # It belongs to the open file, which the command inherits: so it lasts as long as the command.
            fcntl.flock(lock, fcntl.LOCK_EX)
            with room.entrance(told) as (wrapper, env, files):
                argv = ["/bin/sh", "-c", _TRACE, str(self._trace), *wrapper, "/bin/sh", "-c", room.map(command)]
                return start(argv, cwd=room.scratch, env=env, log=log, pass_fds=[lock, *files])
        finally:
            os.close(lock)

    def find(self) -> ProcessGroup:
        """Give the group of a command that another process has started; it may be over."""
        return ProcessGroup(self._read("pid") if self._is_alive() else None, self._exit_code)

    def _exit_code(self) -> int | None:
        # The lock alone does not tell: what the command has left behind in a session of its own may hold it.
        code = self._read("exit")
        return code if code is not None else None if self._is_alive() else LOST

    def _is_alive(self) -> bool:
        with contextlib.suppress(FileNotFoundError), self._file("lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def _read(self, kind: str) -> int | None:
        try:
            return int(self._file(kind).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _file(self, kind: str) -> Path:
        return self._trace.with_name(f"{self._trace.name}.{kind}")


def _is_member(stat: Path, group: int | None) -> bool:
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
