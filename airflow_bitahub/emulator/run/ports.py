"""Which port a program listens on, where programs share this machine's network, and how it is reached."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import stat
from collections.abc import Sequence
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
        found = [port for port in ports if listens(group, port)]
    return next((Backend(port=port) for port in found), None)


def listens(group: ProcessGroup, port: int) -> bool:
    """Return whether a program listens on a port; False where that cannot be seen."""
    sockets = _listening_sockets(port)
    return bool(sockets) and any(_has_file(process, sockets) for process in group.processes())


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
        return _has_file(Path("/proc/self"), _listening_sockets(own.getsockname()[1]))


def _listening_sockets(port: int) -> set[str]:
    """Return the sockets that listen on a port, as the links in ``/proc/*/fd`` name them."""
    end, found = f":{port:04X}", set()
    for table in _TABLES:
        with contextlib.suppress(OSError):
            lines = map(str.split, table.read_text().splitlines())
            found |= {f"socket:[{line[9]}]" for line in lines if line[1].endswith(end) and line[3] == _LISTENS}
    return found


def _has_file(process: Path, names: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if str(link.readlink()) in names:
                    return True
    return False


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=0.1).close()
    except OSError:
        return False
    return True
