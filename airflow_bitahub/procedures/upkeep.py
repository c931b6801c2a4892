"""Stopping, starting, scaling and removing a serving that this Airflow has deployed. Each may be repeated.

None of them interferes with a deployment: each waits until no task deploys the serving, and ends what a task whose
worker died has left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.api.servings import Serving, scale_serving, start_serving
from airflow_bitahub.exceptions import ServingAliveError, ServingFailedError
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.servings import end_serving, stop_own_serving
from airflow_bitahub.procedures.site import find_serving
from airflow_bitahub.procedures.turn import Turn

_END_TIMEOUT = 120  # seconds until a serving that was asked to stop has ended
_INTERVAL = 1


def stop_deployed(turn: Turn) -> Procedure[Serving | None]:
    """Stop the serving, and return it once it has ended; None where it was removed before.

    :raises ServingAliveError: it has not ended in time
    """
    found = yield from _find_deployed(turn)
    if found is None:
        return None
    site = turn.site
    is_same = partial(_is_same, found)
    yield from stop_own_serving(site.name, site.version, is_same, timeout=_END_TIMEOUT, clock=turn.clock)
    return (yield from _wait_until(turn, found, lambda seen: seen.status.is_terminal, _END_TIMEOUT, "has not ended"))


def start_deployed(turn: Turn, on_start: Callable[[Serving], None]) -> Procedure[Serving]:
    """Start the serving where it was stopped or has failed, and return it. Whether it answers is not waited for.

    :param on_start: called before the start is sent, with the serving
    :raises ServingFailedError: it was removed
    :raises ServingAliveError: the platform does not start it
    """
    found = yield from _require_deployed(turn)
    if found.status is ServingStatus.STOPPING:
        found = yield from _wait_until(
            turn, found, lambda seen: seen.status is not ServingStatus.STOPPING, _END_TIMEOUT, "has not ended"
        )
    if not found.status.is_ending:
        return found
    on_start(found)
    yield from start_serving(turn.site.name, turn.site.version)
    return (
        yield from _wait_until(
            turn, found, lambda seen: not seen.status.is_ending, retry.GRACE_PERIOD, "was not started"
        )
    )


def scale_deployed(turn: Turn, replicas: int) -> Procedure[Serving]:
    """Give the serving another number of replicas, and return it. Whether they all run is not waited for.

    The version on record gets the same number, so that a rollback restores as many. It stays the same version: another
    deployment of it leaves the serving as it is.

    :raises ServingFailedError: it was removed, was stopped, or the platform does not change the number
    """
    found = yield from _require_deployed(turn)
    site = turn.site
    if found.status.is_ending:
        raise ServingFailedError(f"The {found}. Start it first, with BitaHubStartServingOperator.", site.name)
    if found.replicas != replicas:
        site.on_save()
        yield from scale_serving(site.name, site.version, replicas)
        found = yield from _wait_until(
            turn, found, lambda seen: seen.replicas == replicas, retry.GRACE_PERIOD, f"has not {replicas} replicas"
        )
    current = site.record.current
    if current is not None and current.spec.get("replicas") != replicas:
        scaled = replace(current, spec={**current.spec, "replicas": replicas})
        site.save(replace(site.record, versions=[scaled, *site.record.versions[1:]]))
    return found


def delete_deployed(turn: Turn) -> Procedure[bool]:
    """Remove the serving and its candidate, and return whether there was a serving to remove.

    Its versions stay on record, but none of them counts as serving any more.

    :raises ServingAliveError: one of the two is still there
    """
    site = turn.site
    left = yield from turn.wait()
    if left is None:
        yield from _wait_for_creation(turn)
        left = yield from turn.wait()
    else:
        yield from site.remove_candidate()
    grace = retry.GRACE_PERIOD if site.record.since is not None else None
    found = yield from find_serving(site.name, site.version, turn.clock, grace=grace, is_ours=site.record.exists)
    if found is not None:
        if not site.record.owns(found, turn.clock()):
            raise site.refusal(found)
        site.log(f"Removing {found}")
        yield from end_serving(found, site.version, timeout=site.timeout, clock=turn.clock)
    if site.record.exists or left is not None:
        site.save(replace(site.record, exists=False, since=None, created_at=None, rollout=None))
    return found is not None


def _wait_for_creation(turn: Turn) -> Procedure[None]:
    """Wait for a serving whose creation was interrupted, and may still take effect."""
    intent = turn.site.records.load_intent()
    if intent is not None and intent.name:
        grace = max(0.0, min(intent.since - turn.clock() + retry.GRACE_PERIOD, retry.GRACE_PERIOD))
        yield from find_serving(intent.name, turn.site.version, turn.clock, grace=grace)


def _find_deployed(turn: Turn) -> Procedure[Serving | None]:
    """Return the serving, once no task deploys it; None where it was removed.

    :raises ServingFailedError: this Airflow never deployed it, or a deployment was left that cannot be ended here
    """
    while (left := (yield from turn.wait())) is not None:
        yield from turn.end(left)
    if not turn.site.record.versions:
        raise ServingFailedError(f"This Airflow has deployed no serving {turn.site.name!r}.", turn.site.name)
    return (yield from turn.site.find())


def _require_deployed(turn: Turn) -> Procedure[Serving]:
    found = yield from _find_deployed(turn)
    if found is None:
        name = turn.site.name
        raise ServingFailedError(f"Serving {name!r} is no longer on the platform. Deploy it again.", name)
    return found


def _wait_until(
    turn: Turn, serving: Serving, is_done: Callable[[Serving], bool], timeout: float, problem: str
) -> Procedure[Serving]:
    """Query a serving until something is true of it, and return it.

    :param problem: what to say if it is not true in time
    """
    start, site = turn.clock(), turn.site
    while True:
        found = yield from find_serving(site.name, site.version, turn.clock, is_ours=True)
        if found is None or not _is_same(serving, found.created_at):
            raise ServingFailedError(f"Serving {site.name!r} was removed or replaced meanwhile.", site.name)
        if is_done(found):
            return found
        if turn.clock() - start >= timeout:
            raise ServingAliveError(f"Serving {site.name!r} {problem} after {timeout:.0f} s: the {found}.", site.name)
        yield Sleep(_INTERVAL)


def _is_same(serving: Serving, created_at: float | None) -> bool:
    return created_at == serving.created_at
