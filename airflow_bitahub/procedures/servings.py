"""Waiting for a serving, stopping it, and removing it."""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.api.servings import Serving, delete_serving, get_serving, probe_serving, stop_serving
from airflow_bitahub.exceptions import (
    BitaHubError,
    NotFoundError,
    ServingAliveError,
    ServingFailedError,
    ServingTimeoutError,
    TransportError,
)
from airflow_bitahub.procedures import retry


def wait_for_serving(
    name: str,
    version: str,
    *,
    poll_interval: float,
    readiness_path: str = "/",
    created_at: float | None = None,
    deadline: float | None = None,
    grace: float | None = retry.GRACE_PERIOD,
    is_known: bool = False,
    on_change: Callable[[Serving], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Procedure[Serving]:
    """Wait until the platform reports RUNNING *and* the served program answers, and return the serving.

    Either of the two may come first.

    :param poll_interval: seconds between two queries
    :param readiness_path: where the program is asked; see `probe_serving`
    :param created_at: which of several servings that had this name one after the other is meant; None: any
    :param deadline: when to stop waiting, in seconds since the epoch; None: no limit
    :param grace: seconds for which "not found" counts as a delay; None: always
    :param is_known: the serving is known to exist, so that the platform's refusal of the first query says nothing
        either
    :param on_change: called with the serving whenever its raw state has changed
    :raises ServingFailedError: the serving failed, was stopped, or was replaced by another
    :raises ServingTimeoutError: the serving was not ready at the deadline
    :raises BitaHubError: the platform was unreachable for too long, or refused the query
    """
    raw_state: str | None = None
    outage = retry.Outage(grace)
    last_seen = "was never seen"
    while True:
        try:
            serving = yield from get_serving(name, version)
        except BitaHubError as error:
            if not retry.is_query_failure(
                error, seen_before=is_known or raw_state is not None
            ) or outage.record_failure(error, clock()):
                raise
        else:
            outage.record_success()
            if serving.raw_state != raw_state:
                raw_state, last_seen = serving.raw_state, str(serving)
                if on_change is not None:
                    on_change(serving)
            if created_at is not None and serving.created_at != created_at:
                raise ServingFailedError(f"Serving {name!r} was replaced by another deployment while it started.", name)
            if serving.status.is_terminal:
                raise ServingFailedError(f"The {serving}. Its log on the platform shows why.", name)
            if serving.status is ServingStatus.RUNNING and (yield from _answers(serving, readiness_path)):
                return serving
        now = clock()
        if deadline is not None and now >= deadline:
            raise ServingTimeoutError(
                f"Serving {name!r} was not ready in time (RUNNING, and answering at {readiness_path!r}); when last "
                f"seen, {last_seen}.",
                name,
            )
        yield Sleep(retry.sleep_seconds(poll_interval, now, deadline))


def stop_own_serving(
    name: str,
    version: str,
    is_own: Callable[[float | None], bool],
    *,
    grace: float = 0,
    clock: Callable[[], float] = time.time,
) -> Procedure[bool]:
    """Stop a serving, unless another one has taken its place. Return whether there was one to stop.

    :param is_own: returns, for a time of creation, whether the serving created then is the one to stop
    :param grace: seconds to wait for a serving whose creation may still be on its way
    """
    found = yield from retry.find(get_serving(name, version), grace, clock)
    if found is None or found.status.is_ending or not is_own(found.created_at):
        return False
    yield from stop_serving(name, version)
    return True


def end_serving(
    serving: Serving, version: str, *, timeout: float = 120, clock: Callable[[], float] = time.time
) -> Procedure[None]:
    """Remove a serving, and wait until the platform no longer has it or has another in its place.

    :raises ServingAliveError: it is still there after `timeout` seconds
    """
    start, name = clock(), serving.name
    is_removed = False
    while True:
        try:
            found = yield from get_serving(name, version)
            if found.created_at != serving.created_at:
                return
            if not is_removed:
                yield from delete_serving(name, version)
                is_removed = True
        except NotFoundError:
            return
        except BitaHubError as error:
            if not retry.leaves_outcome_open(error):
                raise
            # The removal may have taken effect. The next query shows whether it did.
            if clock() - start >= timeout:
                raise ServingAliveError(f"Serving {name!r} could not be removed: {error}", name) from error
        if clock() - start >= timeout:
            raise ServingAliveError(f"Serving {name!r} is still there {timeout:.0f} s after its removal.", name)
        yield Sleep(1)


def _answers(serving: Serving, path: str) -> Procedure[bool]:
    if not serving.url:
        return False
    try:
        return (yield from probe_serving(serving, path))
    except TransportError:
        return False
