"""Clients of the servings that several runs deploy. They notice when none answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import httpx

from airflow_bitahub.demo.airflow import AirflowError
from tests.chaos.strikes import Act
from tests.chaos.world import SHARED_NAMES, World

# Seconds after a kill of the emulator in which its gateway may be away: until it is started again, and ready.
_BACK = 30


class Gap(NamedTuple):
    """A serving did not answer from one moment to another, in seconds since the epoch."""

    name: str
    begin: float
    end: float


class Clients:
    """Asks every serving that was deployed successfully, about twice a second."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._ask_all, daemon=True)
        self._addresses: dict[str, str] = {}
        self._established: set[str] = set()  # deployed successfully
        self._away: dict[str, float] = {}  # by name, since when
        self._gaps: list[Gap] = []
        self._questions = 0

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._has_ended.set()
        self._thread.join()
        now = time.time()
        self._gaps += [Gap(name, since, now) for name, since in self._away.items()]

    def complaints(self, acts: Sequence[Act]) -> Iterator[str]:
        """Return each moment in which a serving did not answer, except where the emulator was away.

        An emulator that is drained stops its servings: these answer again after the next deployment only.
        """
        kills = [act.time for act in acts if act.kind == "kill -9 emulator"]
        drains = [act.time for act in acts if act.kind == "SIGTERM emulator"]
        for gap in self._gaps:
            is_excused = any(gap.begin - _BACK <= at and gap.end <= at + 2 * _BACK for at in kills)
            if not is_excused and not any(at <= gap.end for at in drains):
                when = time.strftime("%H:%M:%S", time.localtime(gap.begin))
                yield f"{gap.name} did not answer for {gap.end - gap.begin:.1f} s from {when}"
        if not self._questions:
            yield "no serving was ever asked"

    def _ask_all(self) -> None:
        next_look = 0.0
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._has_ended.wait(0.4):
                if time.time() >= next_look:
                    next_look = time.time() + 5
                    self._look()
                for name in sorted(self._established):
                    self._ask(client, name)

    def _look(self) -> None:
        """Find out which servings there are, and where."""
        with suppress(AirflowError, httpx.HTTPError):
            self._addresses = self._world.addresses()
            for name, record in self._world.deployments().items():
                if record["exists"] and record["versions"]:
                    self._established.add(name)

    def _ask(self, client: httpx.Client, name: str) -> None:
        begin = time.time()
        answers = False
        if name.startswith(SHARED_NAMES) and name in self._addresses:
            with suppress(httpx.HTTPError):
                answers = client.get(self._addresses[name]).status_code == 200
        self._questions += 1
        if not answers:
            self._away.setdefault(name, begin)
            with suppress(httpx.HTTPError):
                self._addresses = self._world.addresses()
        elif (since := self._away.pop(name, None)) is not None:
            self._gaps.append(Gap(name, since, time.time()))
