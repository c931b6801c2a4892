"""Which port a program listens on, where programs share this machine's network, and how it is reached."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from airflow_bitahub.emulator.listener import LOOPBACK
from airflow_bitahub.emulator.mounts.relay import INSIDE
from airflow_bitahub.emulator.mounts.workdir import network_in
from airflow_bitahub.emulator.run.gateway import Backend
from airflow_bitahub.emulator.run.processes import ProcessGroup

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENS = "0A"


def backend_in(workdir: Path) -> Backend | None:
    """Return how a program in a network of its own is reached; None: it does not listen yet."""
    try:
        # The program can put a link to another socket of this machine there.
        handle = os.open(network_in(workdir) / INSIDE, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    if stat.S_ISSOCK(os.fstat(handle).st_mode):
        return Backend(handle=handle)
    os.close(handle)
    return None


def backend_of(group: ProcessGroup, ports: Sequence[int]) -> Backend | None:
    """Return how a program is reached that listens on one of these ports; None: it does not listen yet.

    Another program may listen on the same port, so a socket only counts if a process of the group has it. Where that
    cannot be seen, only the first port counts, which must be one that was free.
    """
    if not _can_see_sockets():
        found = [port for port in ports[:1] if _accepts(port)]
    else:
        listening = _ports_of(group.processes())
        found = [port for port in ports if port in listening]
    return next((Backend(port=port) for port in found), None)


def listens(group: ProcessGroup, port: int) -> bool:
    """Return whether a program listens on a port; False where that cannot be seen."""
    return port in _ports_of(group.processes())


def is_taken(port: int) -> bool:
    """Return whether nothing else can listen on a port."""
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError:
        return True
    return False


@functools.cache
def _can_see_sockets() -> bool:
    """Return whether ``/proc`` shows which process has which socket."""
    with socket.create_server((LOOPBACK, 0)) as own:
        return own.getsockname()[1] in _ports_of([Path("/proc/self")])


def _ports_of(processes: Iterable[Path]) -> set[int]:
    """Return the ports on which processes listen. The processes are folders in ``/proc``."""
    sockets = {name for process in processes for name in _sockets_of(process)}
    if not sockets:  # as while a program starts; reading the tables takes the kernel milliseconds
        return set()
    return {port for port, name in _listening_sockets() if name in sockets}


def _sockets_of(process: Path) -> Iterator[str]:
    """Yield the sockets of a process, as its links in ``/proc/*/fd`` name them."""
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                name = str(link.readlink())
                if name.startswith("socket:"):
                    yield name


def _listening_sockets() -> Iterator[tuple[int, str]]:
    """Yield the port and the name of each socket that listens."""
    for table in _TABLES:
        with contextlib.suppress(OSError):
            for line in map(str.split, table.read_text().splitlines()):
                if line[3] == _LISTENS:
                    yield int(line[1].rpartition(":")[2], 16), f"socket:[{line[9]}]"


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=0.1).close()
    except OSError:
        return False
    return True
