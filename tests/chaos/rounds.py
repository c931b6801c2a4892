"""A round: start runs, strike, bring everything back up, let it settle, check."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from string import ascii_lowercase
from typing import Any

import httpx

from airflow_bitahub.demo.airflow import AirflowError
from airflow_bitahub.demo.platform import server_folder
from tests.chaos import checks
from tests.chaos.checks import Orphan, Outcome
from tests.chaos.clients import Clients
from tests.chaos.plan import draw_round
from tests.chaos.strikes import Act, Striker
from tests.chaos.tasks import OVER, Job, Task, tasks_of
from tests.chaos.world import AIRFLOW, NEIGHBOUR, ChaosError, World

_TO_BEGIN = 5  # seconds that a running triggerer may take to start a trigger that is assigned to it


@dataclass
class Report:
    """What a round did, and what it found."""

    number: int
    acts: list[Act] = field(default_factory=list)
    missed: int = 0
    outcomes: dict[Task, Outcome] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counted = Counter(outcome.state or "deleted" for outcome in self.outcomes.values())
        states = ", ".join(f"{number} {state}" for state, number in sorted(counted.items()))
        lines = [
            f"Round {self.number}: {len(self.acts)} faults; {self.missed} more had nothing to strike",
            *(f"  {clock(act.time)}  {act.kind}: {act.victim}{' (in calm)' * act.calm}" for act in self.acts),
            f"  {len(self.outcomes)} task instances ({states}), {len(self.jobs)} jobs",
            *(f"  orphan {orphan.job}: {orphan.why}" for orphan in self.orphans),
            *(f"  BROKEN {violation}" for violation in self.violations),
        ]
        return "\n".join(lines)


def clock(moment: float) -> str:
    """Return the time of day."""
    return time.strftime("%H:%M:%S", time.localtime(moment))


def play(world: World, seed: int, number: int, size: int, runs: int, pace: float = 1) -> Report:
    """Play one round, and check it.

    :param size: so many strikes are drawn
    :param runs: so many DAG runs at once
    :param pace: factor to the time between two strikes, and to that for which jobs run
    """
    struck = [f"r{number}{letter}" for letter in ascii_lowercase[:runs]]
    names = [*([f"{NEIGHBOUR}{number}"] if world.neighbour else []), *struck]
    for run in names:
        world.call("POST", "/dagRuns", {"logical_date": None, "dag_run_id": run, "conf": {"pace": pace}}, run=run)
    until(world, "jobs are submitted", lambda: len(world.jobs(struck)) >= 5 * runs)
    striker = Striker(world, struck)
    clients = Clients(world)
    clients.start()
    striker.perform(draw_round(seed, number, size, pace))
    recover(world)
    calm_since = time.time()
    until(world, "every short task has ended", lambda: not _unfinished(world, names, endless=False))
    settled = {task: outcome for task, outcome in _outcomes(world, names).items() if not task.is_endless}
    reaped = _end_the_endless(world, striker, names, calm_since)
    until(world, "every task has ended", lambda: not _unfinished(world, names, endless=True))
    world.remove_leftovers()
    report = Report(number, sorted(striker.acts, key=lambda act: act.time), striker.missed)
    # Tasks that ended before their run was deleted are checked, too.
    deleted = {task: Outcome(None) for run in names for task in tasks_of(run)}
    report.outcomes = deleted | settled | _outcomes(world, names)
    clients.stop()
    _check(world, names, report, clients)
    report.violations += [f"{name} was reaped although a task waits for it" for name in reaped]
    world.remove_servings()
    return report


def recover(world: World) -> None:
    """Start what is down."""
    for name in (*AIRFLOW, "emulator"):
        if not world.is_up(name):
            world.start(name)


def until(world: World, what: str, condition: Callable[[], Any], seconds: float = 300) -> None:
    """Wait until a condition is true. Restart what ends meanwhile, as systemd or Kubernetes do.

    :raises ChaosError: the condition is still false after so many seconds
    """
    deadline = time.monotonic() + seconds
    while True:
        recover(world)
        with suppress(AirflowError, httpx.HTTPError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise ChaosError(f"it did not happen within {seconds:.0f} s: {what}")
        time.sleep(1)


def _unfinished(world: World, runs: Sequence[str], *, endless: bool) -> list[Task]:
    return [
        task
        for run in runs
        for task, ti in world.look(run).items()
        if ti["state"] not in OVER and (endless or not task.is_endless)
    ]


def _end_the_endless(world: World, striker: Striker, runs: Sequence[str], calm_since: float) -> set[str]:
    """Clear, mark and delete the endless tasks while nothing else goes wrong: here every job must be stopped.

    Return the jobs that the reaper stopped before that, although a task waited for them.
    """
    left = _await_endless(world, runs, calm_since)
    owners = {task.owner for task in left}
    awaited = {
        job.name for job in world.jobs(runs) if job.owner in owners and job.is_alive and not job.was_asked_to_stop
    }
    world.reap()
    reaped = {job.name for job in world.jobs(runs) if job.name in awaited and job.was_asked_to_stop}
    calm_since = time.time()
    for task in left[::3]:
        striker.by_a_person("clear", task, calm=True)
    for number, task in enumerate(_await_endless(world, runs, calm_since)):
        if task.run == runs[-1] and len(runs) > 1:
            striker.by_a_person("delete run", task, calm=True)
            break
        striker.by_a_person(("mark failed", "mark success")[number % 2], task, calm=True)
    return reaped


def _await_endless(world: World, runs: Sequence[str], since: float) -> list[Task]:
    """Wait until a task waits for each endless job again. Return the task instances, in order."""
    found: list[Task] = []
    begun: dict[tuple[Task, int], float] = {}

    def is_watched(task: Task, ti: dict[str, Any], jobs: dict[str, Job]) -> bool:
        if ti["state"] == "running":
            return task.owner in jobs and jobs[task.owner].looks(since) >= 3
        # A triggerer may query the list instead of single jobs, so what counts is that the triggerer runs.
        if ti["state"] != "deferred" or not ti["triggerer_job"]:
            return False
        if datetime.fromisoformat(ti["triggerer_job"]["latest_heartbeat"]).timestamp() < since:
            return False
        return time.time() - begun.setdefault((task, ti["trigger"]["id"]), time.time()) > _TO_BEGIN

    def all_are_watched() -> bool:
        jobs = {job.owner: job for job in world.jobs(runs)}
        seen = {task: ti for run in runs for task, ti in world.look(run).items() if ti["state"] not in OVER}
        found[:] = sorted(seen)
        watched = [
            is_watched(task, ti, jobs) for task, ti in seen.items()
        ]  # not a generator: each call records when the trigger began
        return all(watched)

    until(world, "a task waits for every endless job", all_are_watched)
    return found


def _outcomes(world: World, runs: Sequence[str]) -> dict[Task, Outcome]:
    return {task: _outcome(world, task, ti) for run in runs for task, ti in world.look(run).items()}


def _check(world: World, runs: Sequence[str], report: Report, clients: Clients) -> None:
    # A job that is being stopped may take a moment; a forgotten one will still be alive.
    start = time.monotonic()
    while True:
        report.jobs = world.jobs(runs)
        left = list(checks.orphans(report.outcomes, report.jobs, report.acts))
        excused = all(isinstance(item, Orphan) for item in left)
        if not left or time.monotonic() > start + (10 if excused else 60):
            break
        time.sleep(0.5)
    report.orphans = [item for item in left if isinstance(item, Orphan)]
    report.violations = [item for item in left if isinstance(item, str)]
    if left:
        world.reap()
    report.violations += [f"{job.name}: it is alive after the reaper ran" for job in world.jobs(runs) if job.is_alive]
    report.violations += checks.violations(report.outcomes, report.jobs, report.acts)
    report.violations += checks.servings(report.outcomes, world.servings(), report.acts)
    report.violations += checks.shared(
        world.deployments(), world.servings(), world.answers(), [*world.acts, *report.acts]
    )
    world.acts += report.acts
    report.violations += clients.complaints(report.acts)
    report.violations += world.leaks()


def _outcome(world: World, task: Task, ti: dict[str, Any]) -> Outcome:
    path = f"/dagRuns/{task.run}/taskInstances/{task.name}"
    record = _value(world, task, f"{path}/state-store/bitahub_job?map_index={task.map_index}")
    result = _value(world, task, f"{path}/xcomEntries/return_value?deserialize=true&map_index={task.map_index}")
    content = None
    if isinstance(result, dict) and task.submits:
        file = server_folder(world.storage, result["output_path"]) / "result.txt"
        content = file.read_text() if file.exists() else None
    return Outcome(ti["state"], ti["try_number"], ti["max_tries"], record, result, content)


def _value(world: World, task: Task, path: str) -> Any:
    try:
        return world.call("GET", path, run=task.run)["value"]
    except AirflowError as error:
        if "HTTP 404" in str(error):
            return None
        raise
