"""What Airflow sends to StatsD: counted by name as it arrives."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import AbstractContextManager
from threading import Thread


class ReceivedMetrics(AbstractContextManager["ReceivedMetrics"]):
    """A receiver on a port of its own."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = Thread(target=self._receive, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _receive(self) -> None:
        while line := self._socket.recv(65536).decode():
            name, _, value = line.partition(":")
            number, _, kind = value.partition("|")
            self.counts[name] += int(float(number)) if kind == "c" else 1
