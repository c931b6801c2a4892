"""What must be true after a round. No I/O: it compares the ledger, Airflow's states and the strikes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.chaos.plan import CONNECTION, MACHINE, PLATFORM, WORKERS
from tests.chaos.strikes import Act
from tests.chaos.tasks import Job, Task

_MARKS = ("mark failed", "mark success", "delete run")
# A strike so many seconds before or after the end of a task may be the reason why its job was not stopped: Airflow
# takes that long to notice (see the heartbeat settings in world.py), and stopped parts start again only later.
_BEFORE, _AFTER = 40, 20


@dataclass(frozen=True)
class Outcome:
    """How a task instance ended.

    :param state: Airflow's; None: its run was deleted
    :param record: what the operator wrote down, or None
    :param result: its XCom, or None
    :param content: of the file its job wrote, or None
    """

    state: str | None
    try_number: int = 0
    max_tries: int = 0
    record: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    content: str | None = None


@dataclass(frozen=True)
class Orphan:
    """A job that is alive although no task waits for it, for a reason that docs/en/concepts.md names."""

    job: str
    why: str


def violations(outcomes: Mapping[Task, Outcome], jobs: Sequence[Job], acts: Sequence[Act]) -> Iterator[str]:
    """Return every broken promise of a round except those about orphans."""
    by_owner = _by_owner(jobs)
    known = {task.owner for task in outcomes}
    yield from (f"{owner}: its jobs belong to no task instance" for owner in by_owner.keys() - known)
    for task, outcome in outcomes.items():
        own = by_owner.get(task.owner, [])
        done = [act for act in acts if task in act.tasks]
        for problem in (*_one_at_a_time(own), *_attempts(own), *_result(task, outcome, own, done)):
            yield f"{task} ({outcome.state}): {problem}"


def orphans(outcomes: Mapping[Task, Outcome], jobs: Sequence[Job], acts: Sequence[Act]) -> Iterator[Orphan | str]:
    """Return every job that outlives its task instance: an Orphan if its reason is documented, else a sentence."""
    owners = {task.owner: task for task in outcomes}
    for job in jobs:
        task = owners.get(job.owner)
        if not job.is_alive or task is None:
            continue
        why = _excuse(task, acts)
        yield Orphan(job.name, why) if why else f"{task} ({outcomes[task].state}): nobody waits for {job.name}"


def servings(outcomes: Mapping[Task, Outcome], states: Mapping[str, str], acts: Sequence[Act]) -> Iterator[str]:
    """Return every serving that is lost although its task succeeded, or that runs on although its task failed.

    :param states: the state of every serving that exists, by name
    """
    for task, outcome in outcomes.items():
        if not task.serving:
            continue
        state = states.get(task.serving)
        # An emulator that is drained stops its servings.
        is_drained = state == "STOPPED" and any(act.kind == "SIGTERM emulator" for act in acts)
        if outcome.state == "success" and outcome.result is not None and state != "RUNNING" and not is_drained:
            yield f"{task} succeeded, and its serving is {state}"
        # A serving that was ready stays, whatever becomes of a later generation of its task.
        was_ready = any(
            act.kind == "clear" and act.tasks[task]["state"] == "success" for act in acts if task in act.tasks
        )
        if outcome.state == "failed" and state in ("WAITING", "RUNNING") and not (was_ready or _excuse(task, acts)):
            yield f"{task} failed, and its serving is {state}"


def shared(
    deployments: Mapping[str, Mapping[str, Any]],
    states: Mapping[str, str],
    answers: Mapping[str, str],
    acts: Sequence[Act],
) -> Iterator[str]:
    """Return every serving deployed by several runs that does not serve as its record says.

    :param deployments: the records, by name
    :param states: the state of every serving that exists, by name
    :param answers: what the program of each answers
    """
    # An emulator that is drained stops its servings. Those that no task deploys afterwards stay so.
    was_drained = any(act.kind == "SIGTERM emulator" for act in acts)
    yield from (f"the candidate {name} was left ({state})" for name, state in states.items() if name.endswith("-next"))
    for name, record in deployments.items():
        if record["rollout"] is not None:
            yield f"{name}: its deployment has no end: {record['rollout']}"
        elif record["exists"]:
            version = record["versions"][0]["spec"]["envs"].get("VERSION")
            is_stopped = was_drained and states.get(name) == "STOPPED"
            if version is not None and answers.get(name) != version and not is_stopped:
                yield f"{name} is {states.get(name)} and answers {answers.get(name)!r}; on record is {version!r}"


def _by_owner(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    found: dict[str, list[Job]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: job.created):
        found[job.owner].append(job)
    return found


def _one_at_a_time(jobs: Sequence[Job]) -> Iterator[str]:
    """Check that each job of a task begins only after the job before has ended."""
    for earlier, later in pairwise(jobs):
        if earlier.is_alive or earlier.ended > later.created:
            yield f"{earlier.name} was still alive when {later.name} was submitted"


def _attempts(jobs: Sequence[Job]) -> Iterator[str]:
    """Check that attempts count from 1, and that a next one follows only a job that failed or was stopped."""
    by_token: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_token[job.token].append(job)
    for token, attempts in by_token.items():
        if [job.attempt for job in attempts] != list(range(1, len(attempts) + 1)):
            yield f"the attempts of {token} are {[job.attempt for job in attempts]}"
        yield from (f"{job.name} was {job.state} and yet followed" for job in attempts[:-1] if job.state == "SUCCEEDED")


def _result(task: Task, outcome: Outcome, jobs: Sequence[Job], acts: Sequence[Act]) -> Iterator[str]:
    cleared = max((act.time for act in acts if act.kind == "clear"), default=0.0)
    marks = [act for act in acts if act.kind in _MARKS and act.time > cleared]
    since = max((act.time for act in acts if _was_cleared(act, task, outcome)), default=0.0)
    if outcome.state == "success":
        if outcome.result is None:
            if not any(act.kind == "mark success" for act in marks):
                yield "it has no result"
            return
        if task.is_bad:
            yield "it deployed a version that does not work"
        elif task.submits:
            yield from _right_job(task, outcome, outcome.result, jobs, since)
    elif outcome.state in ("failed", "skipped"):
        stopped = bool(jobs) and jobs[-1].state == "STOPPED" and not jobs[-1].was_asked_to_stop
        used_up = outcome.try_number > outcome.max_tries or task.is_bad
        if not (marks or stopped or used_up):
            yield f"nobody failed it, on try {outcome.try_number} of {outcome.max_tries + 1}"
    elif outcome.state is not None:
        yield "it has not come to an end"


def _was_cleared(act: Act, task: Task, outcome: Outcome) -> bool:
    """Return whether Airflow treated a clear as one; if the worker is already dead, it treats it as a retry."""
    return act.kind == "clear" and outcome.max_tries > act.tasks[task]["max_tries"]


def _right_job(
    task: Task, outcome: Outcome, result: Mapping[str, Any], jobs: Sequence[Job], since: float
) -> Iterator[str]:
    name = result["job_name"]
    if outcome.record is None or outcome.record["job_name"] != name:
        yield f"the result is of {name}, the record of {outcome.record and outcome.record['job_name']}"
    job = next((job for job in jobs if job.name == name), None)
    if job is None:
        yield f"the result is of {name}, which is no job of its own"
        return
    if job.state != "SUCCEEDED":
        yield f"the result is of {name}, which is {job.state}"
    if job is not jobs[-1]:
        yield f"the result is of {name}, and {jobs[-1].name} came later"
    if job.created < since:
        yield f"the result is stale: {name} was submitted before the task was cleared"
    if outcome.content != f"{name} {task.run} {task.name} {task.map_index}\n":
        yield f"the output of {name} is {outcome.content!r}"


def _excuse(task: Task, acts: Sequence[Act]) -> str:
    """Return the reason that the documentation names for an orphan; "" if there is none."""
    marks = [act for act in acts if act.kind in _MARKS and task in act.tasks]
    before = marks[-1].tasks[task] if marks else {}
    if marks and marks[-1].calm:
        return ""
    if marks and before["state"] not in ("success", "failed"):
        if before["state"] == "running":
            who = "worker" if _harmed(_worker_of(task), acts, marks[-1].time) else ""
        elif before["state"] == "deferred":
            who = "triggerer" if not before["triggerer_job"] or _harmed(_triggerer, acts, marks[-1].time) else ""
        else:
            return f"marked while it waited for its next try ({before['state']})"
        who = who or ("platform" if _harmed(_platform, acts, marks[-1].time) else "")
        return f"marked while {before['state']}, with the {who} away" if who else ""
    if any(_worker_of(task)(act) for act in acts):
        return "its worker was killed on its last try"
    return "its last try failed while the platform was away" if any(map(_platform, acts)) else ""


def _harmed(by: Callable[[Act], bool], acts: Iterable[Act], around: float) -> bool:
    return any(by(act) and around - _BEFORE <= act.time <= around + _AFTER for act in acts)


def _worker_of(task: Task) -> Callable[[Act], bool]:
    return lambda act: (
        (act.kind in WORKERS and task in act.tasks)
        or act.kind in ("kill -9 scheduler and its workers", "SIGTERM scheduler", MACHINE)
    )


def _triggerer(act: Act) -> bool:
    return act.kind.endswith("triggerer") or act.kind == MACHINE


def _platform(act: Act) -> bool:
    return act.kind.endswith("emulator") or act.kind in PLATFORM or act.kind == CONNECTION
