"""One command in its own process group, which a later emulator can find again, and the end of a log file."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from airflow_bitahub.emulator.mounts.workdir import Workdir

LOST_EXIT_CODE = 137  # of a command whose end nothing recorded
_MARK = "BITAHUB_PROGRAM"  # a variable by which the processes of a command are found that have left its group

# The command gets its own shell, otherwise an `exec` or `exit` in it would skip the recording of its exit code.
_RECORDING_SCRIPT = 'echo $$ >"$0.pid"; "$@"; code=$?; echo $code >"$0.exit"; exit $code'


class ProcessGroup:
    """A running command and everything it starts, ended together.

    It is polled, without SIGCHLD or a thread for each: that works in any thread and on any Python, and costs little
    for the few commands that run at once.

    :param pid: the process id of the command, which is also the id of the group; None: there is no such group
    :param poll: returns the exit code, negative after a signal, or None while the command runs
    :param mark: what the variable `_MARK` contains in each of its processes
    """

    def __init__(self, pid: int | None, poll: Callable[[], int | None], mark: str) -> None:
        self.pid = pid
        self._poll = poll
        self._mark = f"{_MARK}={mark}".encode()
        self.has_ended = False

    async def wait(self) -> int:
        """Wait for the command and return its exit code: 128 + n after signal n, as in a shell.

        Processes that it left running in its group are killed, as they would be in a container.
        """
        pause = 0.005
        while (code := self._poll()) is None:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        self.kill()
        self.has_ended = True
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """Kill every process of the group, and those that have left it but still have its variables."""
        self._signal(signal.SIGKILL)
        for process in self._marked_processes():
            with contextlib.suppress(OSError):
                os.kill(int(process.name), signal.SIGKILL)

    def processes(self) -> set[Path]:
        """Return the folders in ``/proc`` of its processes, of those that have left the group, too."""
        members = {stat.parent for stat in process_files("stat") if _is_live_member(stat, self.pid)}
        return members.union(self._marked_processes())

    def _marked_processes(self) -> Iterator[Path]:
        for environ in process_files("environ"):
            with contextlib.suppress(OSError):
                if self._mark in environ.read_bytes().split(b"\0"):
                    yield environ.parent

    async def end(self, grace: float) -> None:
        """End the whole group with SIGTERM, and after `grace` seconds with SIGKILL. Do nothing if it has ended."""
        if self.has_ended:
            return
        had_begun = self._has_begun()
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        # The shell often ends before the program it started, so wait for the whole group.
        while (self._poll() is None or self._has_members()) and time.monotonic() < deadline:
            if not had_begun and (had_begun := self._has_begun()):
                self._signal(signal.SIGTERM)
            await asyncio.sleep(0.02)
        self.kill()
        deadline = time.monotonic() + 5  # a process that has left the group may hold the lock for ever
        while self._poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self.has_ended = True

    def _has_members(self) -> bool:
        """Return whether a process of the group is alive. In many containers no process reaps the dead orphans."""
        if not self._signal(0):
            return False
        processes = process_files("stat")
        return not processes or any(_is_live_member(stat, self.pid) for stat in processes)

    def _has_begun(self) -> bool:
        """Return whether the program runs, and not only bubblewrap, which then ignores SIGTERM."""
        members = [stat.parent for stat in process_files("stat") if _is_live_member(stat, self.pid)]
        is_sandboxed = any(_read(member / "comm") == "bwrap" for member in members)
        return not is_sandboxed or any(_is_sandboxed_program(member) for member in members)

    def _signal(self, number: int) -> bool:
        """Signal the group; return False if it does not exist. macOS answers EPERM for a group of dead processes."""
        if self.pid is None:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
            return True
        return False


def start_process(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, mark: str, pass_fds: Iterable[int] = ()
) -> ProcessGroup:
    """Start a command in its own process group.

    :param env: its whole environment, besides the mark
    :param mark: a text that no other command has
    :param log: the file to append its standard output and error to
    :param pass_fds: file descriptors that it inherits
    :raises OSError: it cannot be started
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**env, _MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    return ProcessGroup(process.pid, process.poll, mark)


class RecoverableCommand:
    """A shell command that another process can find again, together with its exit code.

    :param trace: the path that the command's files begin with: ``.lock`` is locked while the command runs, ``.pid``
        holds the id of its process group, and ``.exit`` its exit code
    """

    def __init__(self, trace: Path) -> None:
        self._trace = trace
        self._mark = hashlib.sha256(os.fsencode(trace)).hexdigest()

    def start(self, command: str, workdir: Workdir, variables: Mapping[str, str], log: Path) -> ProcessGroup:
        """Start it in a workdir.

        :param variables: environment variables, besides those that every program has
        :raises OSError: it cannot be started
        """
        self._trace.parent.mkdir(parents=True, exist_ok=True)
        for kind in ("lock", "pid", "exit"):
            self._file(kind).unlink(missing_ok=True)
        lock = os.open(self._file("lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            # The lock belongs to the open file, which the command inherits. So it lasts as long as the command.
            fcntl.flock(lock, fcntl.LOCK_EX)
            with workdir.launch_options(variables) as (wrapper, env, files):
                shell = ["/bin/sh", "-c", workdir.map_paths(command)]
                argv = ["/bin/sh", "-c", _RECORDING_SCRIPT, str(self._trace), *wrapper, *shell]
                return start_process(
                    argv, cwd=workdir.scratch, env=env, log=log, mark=self._mark, pass_fds=[lock, *files]
                )
        finally:
            os.close(lock)

    def find(self) -> ProcessGroup:
        """Return the group of a command that an earlier emulator started; it may have ended."""
        return ProcessGroup(self._read("pid") if self._is_alive() else None, self._exit_code, self._mark)

    def _exit_code(self) -> int | None:
        # The lock alone is not enough: a process that the command left behind in another session may hold it.
        code = self._read("exit")
        return code if code is not None else None if self._is_alive() else LOST_EXIT_CODE

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


def process_files(name: str) -> list[Path]:
    """Return the file of this name in ``/proc`` of each process; none where there is no ``/proc`` or no handle left."""
    try:
        return [folder / name for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    except OSError:
        return []


def _is_live_member(stat: Path, group: int | None) -> bool:
    """Return whether a process belongs to this group and is alive, according to its Linux ``stat`` file."""
    try:
        if os.getpgid(int(stat.parent.name)) != group:  # much faster than reading the file
            return False
        # the program's name, in parentheses, may contain anything
        state = stat.read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except (OSError, LookupError):
        return False
    return state not in "ZX"


def _is_sandboxed_program(process: Path) -> bool:
    """Return whether a process is in a sandbox. The first process there is bubblewrap's own."""
    own_ids = _read(process / "status").partition("NSpid:")[2].partition("\n")[0].split()
    return len(own_ids) > 1 and own_ids[-1] != "1"


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def tail(log: Path, lines: int, max_bytes: int = 1 << 20) -> str:
    """Return the last `lines` lines of a file, at most `max_bytes` of it; "" if there is no file."""
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


class LogPiece(NamedTuple):
    """A piece of a log that ends with the log's last whole character.

    :param start: its offset in the file, in bytes
    :param end: the offset after it
    :param skipped: the number of lines between the offset that was asked for and its beginning
    """

    text: str
    start: int
    end: int
    skipped: int


def read_log(log: Path, offset: int, lines: int, max_bytes: int = 1 << 20) -> LogPiece:
    """Return what a log has from an offset on: at most its last lines, and at most `max_bytes` of them.

    A log that is shorter than that has begun anew, and is read from its beginning.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = offset if offset <= size else 0
            file.seek(begin)
            skipped, start = 0, max(begin, size - max_bytes)
            while (position := file.tell()) < start:
                skipped += file.read(min(max_bytes, start - position)).count(b"\n")
            content = file.read(size - start)
    except FileNotFoundError:
        return LogPiece("", 0, 0, 0)
    with_end = content.split(b"\n")
    cut = len(with_end) - 1 - lines if with_end[-1] == b"" else len(with_end) - lines
    if cut > 0:
        skipped += cut
        start += sum(len(line) + 1 for line in with_end[:cut])
        content = b"\n".join(with_end[cut:])
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(content)
    unfinished = len(decoder.getstate()[0])  # bytes of a character whose other bytes are still to come
    return LogPiece(text, start, start + len(content) - unfinished, skipped)
