"""Ports for programs that start later than their port is chosen."""

from __future__ import annotations

import os
import random
import socket
from itertools import count

LOOPBACK = "127.0.0.1"
# Below the ports that systems give to clients and to servers that ask for any port.
_FIRST, _PER_PROCESS, _PROCESSES = 12_000, 500, 40
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
_steps = count(random.randrange(_PER_PROCESS))  # another test run may use the same ports


def free_port() -> int:
    """Return a port that no program listens on and that no other process of this test run chooses."""
    while True:
        port = _FIRST + _worker * _PER_PROCESS + next(_steps) % _PER_PROCESS
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
