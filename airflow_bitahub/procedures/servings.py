"""Waiting for a serving, stopping it, and removing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.api.servings import Serving, delete_serving, get_serving, probe_serving, stop_serving
from airflow_bitahub.exceptions import (
    BitaHubError,
    NotFoundError,
    ServingAliveError,
    ServingFailedError,
    ServingTimeoutError,
    StateUnknownError,
    TransportError,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.deployments import is_same_time
from airflow_bitahub.procedures.pace import pause_at

# Seconds for which a serving that is watched may leave its readiness path unanswered.
LONGEST_SILENCE = 60.0


def wait_for_serving(
    name: str,
    version: str,
    *,
    poll_interval: float,
    readiness_path: str = "/",
    created_at: float | None = None,
    deadline: float | None = None,
    pending_deadline: float | None = None,
    until: float | None = None,
    is_update: bool = False,
    unseen_until: float | None = None,
    grace: float | None = retry.GRACE_PERIOD,
    is_known: bool = False,
    on_change: Callable[[Serving], None] | None = None,
    clock: Callable[[], float] = time.time,
) -> Procedure[Serving]:
    """Wait until the platform reports RUNNING *and* the served program answers, and return the serving.

    Either of the two may come first. The pause between two queries is a tenth of the time waited.

    :param poll_interval: the longest pause in seconds
    :param readiness_path: where the program is asked; see `probe_serving`
    :param created_at: which of several servings that had this name one after the other is meant; None: any
    :param deadline: when to stop waiting, in seconds since the epoch; None: no limit
    :param pending_deadline: likewise, for a serving that has not started yet, because it waits for a place
    :param until: when to return at the earliest. Until then, only a serving that fails, or that is silent for
        `LONGEST_SILENCE`, ends the waiting
    :param is_update: the specification, or the number of replicas, was changed in place. Then wait until the platform
        lists no replica any more that starts or ends (assumed: `podstatuses` lists these)
    :param unseen_until: until when an update does not count as complete unless such a replica was seen: where the
        platform never lists one, the old program may still be the one that answers
    :param grace: seconds for which "not found" counts as a delay; None: always
    :param is_known: the serving is known to exist: the platform's refusal of the first query says nothing either
    :param on_change: called with the serving whenever its raw state has changed
    :raises ServingFailedError: the serving failed, was stopped, was replaced by another, or is no longer there
    :raises ServingTimeoutError: the serving was not ready at the deadline
    :raises StateUnknownError: queries failed for longer than `retry.UNREACHABLE_TIMEOUT`
    :raises APIError: the platform refused the query of a serving that was never seen
    """
    start = clock()
    raw_state: str | None = None
    outage = retry.Outage(grace, is_known=is_known)
    last_seen, is_pending = "never", False
    progress = _Progress(is_update, unseen_until or 0, is_watched=until is not None)
    while True:
        pause = poll_interval
        try:
            serving = yield from get_serving(name, version)
        except BitaHubError as error:
            _tolerate(error, outage, name, last_seen, clock())
            is_pending = False  # it may have started meanwhile
        else:
            outage.record_success()
            if serving.raw_state != raw_state:
                raw_state, last_seen = serving.raw_state, str(serving)
                if on_change is not None:
                    on_change(serving)
            if not is_same_time(serving.created_at, created_at):
                raise ServingFailedError(f"Serving {name!r} was replaced by another deployment while it started.", name)
            if serving.status.is_terminal:
                raise ServingFailedError(f"The {serving}. Its log on the platform shows why.", name)
            is_pending = serving.status is ServingStatus.WAITING
            if progress.is_complete(serving, clock()) and (yield from _answers(serving, readiness_path)):
                if clock() >= (until or 0):
                    return serving
                progress.silent_since = None
            else:
                progress.raise_if_silent(name, readiness_path, clock())
            pause = pause_at(clock() - start, poll_interval)
        now = clock()
        if pending_deadline is not None and is_pending and now >= pending_deadline:
            raise ServingTimeoutError(
                f"Serving {name!r} waits for a place for too long (last seen: {last_seen}).", name
            )
        if deadline is not None and now >= deadline:
            raise ServingTimeoutError(
                f"Serving {name!r} was not ready in time (RUNNING, and answering at {readiness_path!r}); last "
                f"seen: {last_seen}.",
                name,
            )
        at_most = retry.sleep_seconds(poll_interval, now, deadline, until)
        yield Sleep(retry.sleep_seconds(pause, now, deadline, until), at_most)


@dataclass
class _Progress:
    """What was seen of a serving that is waited for. The parameters are those of `wait_for_serving`."""

    is_update: bool
    unseen_until: float
    is_watched: bool  # otherwise silence does not matter, since the program need not have started yet
    was_busy: bool = False
    silent_since: float | None = None  # the first look without an answer. What nobody has looked at is not silent

    def is_complete(self, serving: Serving, now: float) -> bool:
        """Return whether the program that answers is the one that is waited for."""
        if not self.is_update:
            return serving.status is ServingStatus.RUNNING
        if failed := next((pod for pod in serving.pods if pod.has_failed), None):
            raise ServingFailedError(f"The update of serving {serving.name!r} failed: {failed}.", serving.name)
        self.was_busy = self.was_busy or bool(serving.busy_pods)
        was_seen = self.was_busy or now >= self.unseen_until
        return serving.status is ServingStatus.RUNNING and was_seen and not serving.busy_pods

    def raise_if_silent(self, name: str, path: str, now: float) -> None:
        """Record that the program has not answered, and raise ServingFailedError if it has been silent for too long."""
        if not self.is_watched:
            return
        self.silent_since = now if self.silent_since is None else self.silent_since
        seconds = now - self.silent_since
        if seconds >= LONGEST_SILENCE:
            raise ServingFailedError(f"Serving {name!r} has not answered at {path!r} for {seconds:.0f} s.", name)


def stop_own_serving(
    name: str,
    version: str,
    is_own: Callable[[float | None], bool],
    *,
    timeout: float = 300,
    clock: Callable[[], float] = time.time,
) -> Procedure[bool]:
    """Stop a serving, unless another one has taken its place. Return whether there was one to stop.

    :param is_own: returns, for a time of creation, whether the serving created then is the one to stop
    :param timeout: seconds to go on where queries or the stop fail
    :raises ServingAliveError: they failed for so long
    """
    start, was_asked = clock(), False
    outage = retry.Outage.of_known(timeout)
    while True:
        try:
            found = yield from get_serving(name, version)
            outage.record_success()
            if found.status.is_ending or not is_own(found.created_at):
                return was_asked
            was_asked = True
            yield from stop_serving(name, version)
            return True
        except BitaHubError as error:
            if not retry.leaves_outcome_open(error):
                raise
            is_believed = outage.record_failure(error, clock())
            if isinstance(error, NotFoundError) and is_believed:
                return was_asked
            # The stop may have taken effect. The next query shows whether it did.
            if clock() - start >= timeout:
                raise ServingAliveError(f"Serving {name!r} could not be stopped: {error}", name) from error
        yield Sleep(1)


def end_serving(
    serving: Serving, version: str, *, timeout: float = 120, clock: Callable[[], float] = time.time
) -> Procedure[None]:
    """Remove a serving, and wait until the platform no longer has it or has another in its place.

    :raises ServingAliveError: it is still there after `timeout` seconds
    """
    start, name, is_removed = clock(), serving.name, False
    outage = retry.Outage.of_known(timeout)
    while True:
        try:
            found = yield from get_serving(name, version)
            outage.record_success()
            if not is_same_time(found.created_at, serving.created_at):
                return
            if not is_removed:
                yield from delete_serving(name, version)
                is_removed = True
        except BitaHubError as error:
            if not retry.leaves_outcome_open(error):
                raise
            # After our own removal, the first "not found" is what was waited for.
            is_believed = outage.record_failure(error, clock()) or is_removed
            if isinstance(error, NotFoundError) and is_believed:
                return
            # The removal may have taken effect. The next query shows whether it did.
            if clock() - start >= timeout:
                raise ServingAliveError(f"Serving {name!r} could not be removed: {error}", name) from error
        if clock() - start >= timeout:
            raise ServingAliveError(f"Serving {name!r} is still there {timeout:.0f} s after its removal.", name)
        yield Sleep(1)


def _tolerate(error: BitaHubError, outage: retry.Outage, name: str, last_seen: str, now: float) -> None:
    """Raise unless a failed query is to be tolerated: it says nothing about the serving."""
    if not retry.is_query_failure(error, seen_before=outage.is_known):
        raise error
    if not outage.record_failure(error, now):
        return
    if isinstance(error, NotFoundError):
        message = f"Serving {name!r} is not on the platform, or no longer; last seen: {last_seen}."
        raise ServingFailedError(message, name) from error
    raise StateUnknownError(
        f"Serving {name!r} could not be queried for {outage.seconds:.0f} s{outage}; last seen: {last_seen}."
    ) from error


def _answers(serving: Serving, path: str) -> Procedure[bool]:
    if not serving.url:
        return False
    try:
        return (yield from probe_serving(serving, path))
    except TransportError:
        return False
