"""Ends programs that use more memory than their job or serving asked for, as the platform does."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from airflow_bitahub.emulator.run.processes import ProcessGroup, process_files

_PERIOD = 1.0  # seconds between two looks at all programs
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MB = 1 << 20


class _Limit(NamedTuple):
    group: ProcessGroup
    megabytes: int
    log: Path


class _Process(NamedTuple):
    parent: int
    group: int
    resident: int  # bytes


class MemoryLimits:
    """Watches the memory of programs, where there is ``/proc``. A program may use more than its limit for a moment."""

    def __init__(self) -> None:
        self._limits: list[_Limit] = []

    def add(self, group: ProcessGroup, megabytes: int, log: Path) -> None:
        """Watch a program until it ends.

        :param log: gets a line that says why the program was killed
        """
        self._limits.append(_Limit(group, megabytes, log))

    async def watch(self) -> None:
        """Kill what uses too much, for ever."""
        while True:
            await asyncio.sleep(_PERIOD)
            self._limits = [limit for limit in self._limits if limit.group.pid and not limit.group.has_ended]
            processes = _processes() if self._limits else {}
            for limit in self._limits:
                self._enforce(limit, processes)

    @staticmethod
    def _enforce(limit: _Limit, processes: Mapping[int, _Process]) -> None:
        members = _members(limit.group.pid or 0, processes)
        if sum(processes[pid].resident for pid in members) <= limit.megabytes * _MB:
            return
        # Processes share memory, which is counted once for each above. The exact figure takes longer to read.
        used = sum(map(_proportional_bytes, members))
        if used > limit.megabytes * _MB:
            with contextlib.suppress(OSError), limit.log.open("a") as log:
                log.write(f"\nKilled: it used {used // _MB} MB of memory, and it may use {limit.megabytes} MB.\n")
            limit.group.kill()


def _processes() -> dict[int, _Process]:
    found = {}
    for stat in process_files("stat"):
        with contextlib.suppress(OSError, ValueError):
            # the program's name, in parentheses, may contain anything
            fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
            found[int(stat.parent.name)] = _Process(int(fields[1]), int(fields[2]), int(fields[21]) * _PAGE)
    return found


def _members(leader: int, processes: Mapping[int, _Process]) -> set[int]:
    """Return the processes of a group and their descendants, which may have left the group."""
    members = {pid for pid, process in processes.items() if process.group == leader}
    while more := {pid for pid, process in processes.items() if process.parent in members} - members:
        members |= more
    return members


def _proportional_bytes(pid: int) -> int:
    """Return a process' memory, with its share of what it shares with others; 0 if it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0]) * 1024
    return 0
