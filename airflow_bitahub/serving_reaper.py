"""The servings on record, and deployments whose tasks have ended. Works where Airflow's own commands run.

A deployment is *left* when its task instance has finished or no longer exists, or when it has taken longer than it can.
Its candidate then costs money for nothing, and the next deployment of the serving would end it first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NamedTuple

from airflow_bitahub.airflow_database import DatabaseRecords, is_active, read_keys
from airflow_bitahub.api.servings import Serving
from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.deployment_records import DEPLOYMENT_KEY, INTENT_KEY
from airflow_bitahub.procedures.deployments import Deployment, Rollout, Version, candidate_name
from airflow_bitahub.procedures.site import Site
from airflow_bitahub.procedures.turn import Turn, Unrecorded

_SHOWN_METRICS = 5


class RecordedServing(NamedTuple):
    """A serving that this Airflow deploys.

    :param found: what the platform has under its name; None: nothing
    :param candidate: what the platform has under its candidate's name
    :param is_left: whether the deployment on record was left
    :param unrecorded: a serving that a task has begun to create, and that is not on record
    :param problem: why the platform does not say all this; "": it does
    """

    site: Site
    found: Serving | None = None
    candidate: Serving | None = None
    is_left: bool = False
    unrecorded: Unrecorded | None = None
    problem: str = ""

    @property
    def title(self) -> str:
        """Its name and version."""
        return f"{self.site.name} {self.site.version}"

    @property
    def needs_reaping(self) -> bool:
        """Whether something was left of a deployment."""
        return self.is_left or (self.unrecorded is not None and self.unrecorded.is_left)

    @property
    def is_worth_showing(self) -> bool:
        """Whether anything of it serves, or a deployment is under way or was left."""
        record = self.site.record
        return bool(record.current or record.rollout or self.unrecorded or self.problem)

    def lines(self) -> Iterator[str]:
        """Return what a user should know about it, line by line."""
        record = self.site.record
        yield f"{self.title:45} {self.found.raw_state if self.found else 'not on the platform'}"
        if record.current is not None:
            serves = self.found is not None and not self.found.status.is_ending
            yield f"  {'serves' if serves else 'on record'}: {_described(record.current)}"
        if record.rollout is not None:
            rollout = record.rollout
            step = _step(record, rollout, self.site.name)
            end = "; this task has left it: reap ends it" if self.is_left else ""
            yield f"  under way: {step}, by {rollout.owner}{end}"
            if self.candidate is not None:
                yield f"  candidate: {self.candidate}"
        if self.unrecorded is not None:
            left = "left" if self.unrecorded.is_left else "is about to put on record"
            reap = ": reap removes it" if self.unrecorded.is_left else ""
            yield f"  not on record: {self.unrecorded.serving}, which {self.unrecorded.creator} {left}{reap}"
        if self.problem:
            yield f"  {self.problem}"


class Servings(NamedTuple):
    """All servings on record.

    :param elsewhere: the number of those on other platforms, which other connections lead to
    """

    recorded: list[RecordedServing]
    elsewhere: int

    def notes(self) -> Iterator[str]:
        """Return what a user should know about the list, in sentences."""
        if not any(serving.is_worth_showing for serving in self.recorded):
            yield "No serving that this Airflow has deployed is on record for this platform."
        if self.elsewhere:
            yield (
                f"Not shown: servings on record for other platforms, or for other addresses of this one: "
                f"{self.elsewhere}. Use --conn-id."
            )


def find_servings(hook: BitaHubHook) -> Servings:
    """Return all servings that this Airflow has on record.

    :raises ConfigurationError: Airflow's database could not be read
    """
    names: set[tuple[str, str]] = set()
    elsewhere: set[str] = set()
    for prefix in (DEPLOYMENT_KEY, INTENT_KEY):
        for key in read_keys(prefix):
            platform, _, rest = key.removeprefix(prefix).partition(".")
            name, _, version = rest.partition(".")
            if platform == hook.platform_id and version:
                names.add((name, version))
            else:
                elsewhere.add(f"{platform}.{rest}")
    return Servings([_look_at(hook, name, version) for name, version in sorted(names)], len(elsewhere))


def end_left(hook: BitaHubHook, serving: RecordedServing) -> str:
    """End what was left of a deployment, and return in words what was done.

    :raises BitaHubError: it could not be ended, or is no longer left
    """
    said: list[str] = []
    turn = _new_turn(hook, serving.site.name, serving.site.version, said)
    while (left := hook.run(turn.wait())) is not None:
        hook.run(turn.end(left))
    return ". ".join(said) or "nothing is left of it"


def _look_at(hook: BitaHubHook, name: str, version: str) -> RecordedServing:
    turn = _new_turn(hook, name, version, [])
    site, found, candidate, unrecorded = turn.site, None, None, None
    try:
        rollout = site.load().rollout
        found, candidate = hook.run(site.find(grace=0)), hook.run(site.find_candidate())
        if rollout is None and (found is not None or candidate is not None):
            unrecorded = hook.run(turn.find_unrecorded())
    except BitaHubError as error:
        return RecordedServing(site, found, candidate, problem=str(error))
    is_left = rollout is not None and not turn.is_alive(rollout)
    return RecordedServing(site, found, candidate, is_left, unrecorded)


def _new_turn(hook: BitaHubHook, name: str, version: str, said: list[str]) -> Turn:
    """Return a turn that does not wait."""
    site = Site(name, version, DatabaseRecords(hook, name, version), said.append)
    return Turn(site, is_active, deadline=time.time())


def _described(version: Version) -> str:
    parts = [str(version)]
    if version.deployed_at is not None:
        parts.append(f"since {datetime.fromtimestamp(version.deployed_at, timezone.utc):%Y-%m-%d %H:%M} UTC")
    if version.deployed_by:
        parts.append(f"by {version.deployed_by}")
    metrics = [f"{name} = {value!r}" for name, value in version.metrics.items() if isinstance(value, int | float)]
    return ", ".join([*parts, *metrics[:_SHOWN_METRICS]])


def _step(record: Deployment, rollout: Rollout, name: str) -> str:
    match rollout.phase:
        case "candidate":
            return f"the {rollout.version} is tried as {candidate_name(name)}"
        case "switch":
            return f"the {rollout.version} gets the name"
        case "tidy":
            return f"the {rollout.version} serves; only what the deployment left is still to be removed"
        case _:
            before = f"the {record.versions[0]} gets the name back" if rollout.replaces else "it is removed"
            return f"the {rollout.version} has failed, and {before}"
