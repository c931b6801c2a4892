"""A client of a service, which asks it all the time."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import NamedTuple

import httpx

from airflow_bitahub.emulator.server import Emulator
from tests.emulator.conftest import SERVINGS


class Answer(NamedTuple):
    """What a client was answered. It is "" where no program answered."""

    time: float
    version: str


class AskingClient:
    """Asks the service under its public name five times a second, from `start` to `stop`."""

    def __init__(self, emulator: Emulator, serving_name: str) -> None:
        self.answers: list[Answer] = []
        self._emulator = emulator
        self._address = f"{emulator.url}{SERVINGS}/{serving_name}?version=v1"
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def stop(self) -> list[Answer]:
        """Ask no more, and return the answers."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join()
        return self.answers

    def _ask(self) -> None:
        headers = {"Authorization": f"Bearer {self._emulator.token}"}
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not self._has_ended.wait(0.2):
                version = ""
                with suppress(httpx.TransportError, LookupError, TypeError):  # TypeError: there is no such serving
                    found = client.get(self._address, headers=headers).json()["data"]
                    answer = client.get(found["hosts"])
                    version = answer.text if answer.status_code == 200 else ""
                self.answers.append(Answer(time.time(), version))
