"""Performs the planned strikes and records what each one hit."""

from __future__ import annotations

import heapq
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar

import httpx
import psutil

from airflow_bitahub.demo.airflow import AirflowError
from tests.chaos.faults import FAULTS
from tests.chaos.plan import CONNECTION, MACHINE, PARTS, PEOPLE, PLATFORM, WORKERS, Strike
from tests.chaos.tasks import OVER, Task
from tests.chaos.world import AIRFLOW, TRIGGERERS, World

T = TypeVar("T")


@dataclass(frozen=True)
class Act:
    """A strike that happened.

    :param time: just before it, seconds since the epoch
    :param victim: a description of what it hit
    :param tasks: the task instances it aimed at, if any, with what Airflow reported about them just before
    :param calm: nothing else was going wrong
    """

    time: float
    kind: str
    victim: str
    tasks: Mapping[Task, Mapping[str, Any]] = field(default_factory=dict)
    calm: bool = False


class Striker:
    """Performs the strikes of one round.

    :param runs: the round's DAG runs
    """

    def __init__(self, world: World, runs: Sequence[str]) -> None:
        self.acts: list[Act] = []
        self.missed = 0  # strikes that found no victim
        self._world = world
        self._runs = list(runs)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._away: set[str] = set()  # parts that are frozen, or about to be started again
        self._armed: list[tuple[float, str]] = []  # emulator faults in force, in the order of their addition

    def perform(self, strikes: Sequence[Strike]) -> None:
        """Perform each strike at its time, and restart everything afterwards."""
        start = time.monotonic()
        for strike in strikes:
            self._push(start + strike.at, partial(self._strike, strike))
        while self._later:
            due, _, what = heapq.heappop(self._later)
            time.sleep(max(0.0, due - time.monotonic()))
            what()
        self.harvest()
        with suppress(httpx.HTTPError):
            self._world.ask_emulator("DELETE", "/emulator/faults")

    def harvest(self) -> None:
        """Record which of the emulator's faults struck; the emulator forgets them when it ends."""
        try:
            armed = self._world.ask_emulator("GET", "/emulator/faults")
        except httpx.HTTPError:
            armed = []
        for (when, kind), fault in zip(self._armed, armed, strict=False):
            if fault["applied"]:
                self.acts.append(Act(when, kind, f"{fault['applied']} requests"))
            else:
                self.missed += 1
        self._armed.clear()

    def _push(self, due: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (due, next(self._order), what))

    def _strike(self, strike: Strike) -> None:
        perform_by_kind: dict[str, Callable[[Strike], bool]] = {
            **dict.fromkeys(PLATFORM, self._add_fault),
            **dict.fromkeys(PEOPLE, self._person),
            **dict.fromkeys(WORKERS, self._worker),
            **dict.fromkeys(PARTS, self._part),
            MACHINE: self._machine,
            CONNECTION: self._connection,
        }
        try:
            struck = perform_by_kind[strike.kind](strike)
        except AirflowError:
            struck = False  # Airflow's API is down
        self.missed += not struck

    def _add_fault(self, strike: Strike) -> bool:
        match, effect = FAULTS[strike.kind]
        try:
            self._world.ask_emulator("POST", "/emulator/faults", {"match": match, "effect": effect})
        except httpx.HTTPError:
            return False  # it was killed a moment ago
        self._armed.append((time.time(), strike.kind))
        return True

    # People ----------------------------------------------------------------------------------------------------

    def by_a_person(self, kind: str, task: Task, *, calm: bool = False) -> bool:
        """Clear or mark a task instance or delete its run, as people do in the UI. Return whether Airflow accepted it.

        :param calm: everything is up, so that whatever waits for the job can stop it
        """
        when, seen = time.time(), self._world.look(task.run)
        if task not in seen:
            return False
        aimed_at = seen if kind == "delete run" else {task: seen[task]}
        try:
            self._request(kind, task)
        except AirflowError as error:
            # HTTP 4xx: it is in that state already. After any other error, the change may have happened.
            if "HTTP 4" in str(error):
                return False
        self.acts.append(Act(when, kind, in_words(aimed_at), aimed_at, calm))
        return True

    def _request(self, kind: str, task: Task) -> None:
        run, send = f"/dagRuns/{task.run}", partial(self._world.call, run=task.run)
        if kind == "delete run":
            send("PATCH", run, {"state": "failed"})  # Airflow deletes no run that is running
            with suppress(AirflowError):
                send("DELETE", run)
        elif kind == "clear":
            which = [task.name, task.map_index] if task.map_index >= 0 else task.name
            body = {"dry_run": False, "only_failed": False, "task_ids": [which], "dag_run_id": task.run}
            send("POST", "/clearTaskInstances", body)
        else:
            path = f"{run}/taskInstances/{task.name}/{task.map_index}"
            send("PATCH", path, {"new_state": kind.removeprefix("mark ")})

    def _person(self, strike: Strike) -> bool:
        seen = {task: ti for run in self._runs for task, ti in self._world.look(run).items()}
        if strike.kind == "delete run":
            seen = {task: ti for task, ti in seen.items() if task.run == self._runs[-1]}
        elif strike.kind != "clear":
            seen = {task: ti for task, ti in seen.items() if ti["state"] not in OVER}
        return bool(seen) and self.by_a_person(strike.kind, _pick(sorted(seen), strike.choice))

    # Processes -------------------------------------------------------------------------------------------------

    def _worker(self, strike: Strike) -> bool:
        when = time.time()
        running = {ti["id"]: (task, ti) for run in self._runs for task, ti in self._world.look(run).items()}
        # If a task was started again, its old worker may still run.
        workers = [(process, running[ti]) for process, ti in self._world.workers() if ti in running]
        if not workers:
            return False
        worker, (task, ti) = _pick(workers, strike.choice)
        try:
            victims = [worker] if strike.kind != "kill -9 task process" else worker.children()
            if strike.kind == "kill -9 worker":
                victims += worker.children(recursive=True)
        except psutil.Error:
            return False
        number = signal.SIGTERM if strike.kind == "SIGTERM worker" else signal.SIGKILL
        for process in victims:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        self.acts.append(Act(when, strike.kind, in_words({task: ti}), {task: ti}))
        return True

    def _part(self, strike: Strike) -> bool:
        name = strike.kind.split()[-1]
        family = strike.kind == "kill -9 scheduler and its workers"
        names = TRIGGERERS if name == "triggerer" else ["scheduler" if family else name]
        up = [name for name in names if self._world.is_up(name) and name not in self._away]
        if not up:
            return False
        name = _pick(up, strike.choice)
        self.acts.append(Act(time.time(), strike.kind, f"{name}, back after {strike.lasts:.0f} s"))
        self._away.add(name)
        if name == "emulator":
            self.harvest()
        if strike.kind.startswith("SIGSTOP"):
            self._freeze(name, strike.lasts)
        elif strike.kind.startswith("SIGTERM"):
            self._world.processes[name].terminate()
            # Like Kubernetes: a drain that takes too long ends with SIGKILL.
            self._after(strike.lasts + 5, partial(self._restart, name, family=True))
        else:
            self._world.kill(name, family=family)
            self._after(strike.lasts, partial(self._restart, name, family=False))
        return True

    def _machine(self, strike: Strike) -> bool:
        if self._away.intersection(AIRFLOW):
            return False
        self.acts.append(Act(time.time(), strike.kind, f"back after {strike.lasts:.0f} s"))
        for name in AIRFLOW:
            self._away.add(name)
            self._world.kill(name, family=True)
            self._after(strike.lasts, partial(self._restart, name, family=False))
        return True

    def _connection(self, strike: Strike) -> bool:
        if CONNECTION in self._away:
            return False
        self._world.remove_connection()
        self.acts.append(Act(time.time(), strike.kind, f"back after {strike.lasts:.0f} s"))
        self._away.add(CONNECTION)
        self._after(strike.lasts, self._restore_connection)
        return True

    def _restore_connection(self) -> None:
        try:
            self._world.set_connection()
        except AirflowError:
            self._after(1, self._restore_connection)  # Airflow's API is down
        else:
            self._away.discard(CONNECTION)

    def _freeze(self, name: str, seconds: float) -> None:
        pids = self._world.members([self._world.processes[name].pid])
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

        def thaw() -> None:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._away.discard(name)

        self._after(seconds, thaw)

    def _restart(self, name: str, *, family: bool) -> None:
        if family or self._world.is_up(name):
            self._world.kill(name, family=family)
        if name == "emulator":
            self.missed += len(self._armed)  # added while the emulator was shutting down
            self._armed.clear()
        self._world.start(name)
        self._away.discard(name)

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self._push(time.monotonic() + seconds, what)


def in_words(tasks: Mapping[Task, Mapping[str, Any]]) -> str:
    """Return the names and states of task instances; for a whole run only their number."""
    if len(tasks) > 1:
        return f"{len(tasks)} tasks of {next(iter(tasks)).run}"
    return ", ".join(f"{task} ({ti['state']})" for task, ti in tasks.items())


def _pick(choices: Sequence[T], choice: float) -> T:
    return choices[int(choice * len(choices))]
