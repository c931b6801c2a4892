"""`ensure_serving`: one serving of a specification under a name, known again from one DAG run to the next."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from airflow_bitahub.api.protocol import Procedure
from airflow_bitahub.api.servings import Serving, ServingSpec, create_serving, get_serving
from airflow_bitahub.exceptions import (
    APIError,
    ConflictError,
    ServingFailedError,
    ServingRefusedError,
    TransportError,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.servings import end_serving

# Seconds by which the platform's clock may be behind ours, and which a creation may take.
_CLOCK_SKEW, _LONGEST_CREATION = 60, 600
# Seconds after the begin of a creation in which a serving that appears is ours, whatever the platform's clock says:
# long enough for the next try after a worker was lost.
_NEXT_TRY = 3600


@dataclass(frozen=True)
class ServingRecord:
    """What this deployment of Airflow remembers of a serving that it created.

    The platform reports neither the model nor the image of a serving, so this is how it is known again.

    :param digest: a digest of the specification that was created last, or is being created; "": no serving is ours
    :param created_at: the platform's time of creation of the serving that is certainly ours; None: there is none
    :param since: when we began to create another one, by our clock; None: no creation is on its way
    :param ready: whether it was seen to answer. Until then, a task that waits for it stops it when the task fails
    """

    digest: str
    created_at: float | None = None
    since: float | None = None
    ready: bool = False

    def owns(self, created_at: float | None, now: float) -> bool:
        """Return whether the serving found now, which was created at that time, is ours."""
        return bool(self.digest) and (created_at == self.created_at or self._is_being_created(created_at, now))

    def describes(self, created_at: float | None, now: float) -> bool:
        """Return whether the serving found now is ours, and has this record's specification."""
        if self.since is None:
            return bool(self.digest) and created_at == self.created_at
        return self._is_being_created(created_at, now)

    def replaces(self, created_at: float | None) -> bool:
        """Return whether another serving is being created in place of the one created at that time."""
        return self.since is not None and self.created_at == created_at

    def _is_being_created(self, created_at: float | None, now: float) -> bool:
        if self.since is None:
            return False
        if created_at is None:
            return True  # the platform reports no times
        if created_at == self.created_at:
            return False
        # There was no other serving of this name when we began, and the first one created takes the name. So one that
        # appears soon is ours, also where the platform's clock is wrong. A lost answer to our own creation must not
        # turn a stranger's serving, created much later, into ours; about that, only the platform's clock can tell.
        if now - self.since <= _NEXT_TRY:
            return True
        return -_CLOCK_SKEW <= created_at - self.since <= _LONGEST_CREATION


def digest(spec: ServingSpec) -> str:
    """Return a short text that differs for different specifications."""
    return hashlib.sha256(json.dumps(spec.body(), sort_keys=True).encode()).hexdigest()[:16]


def ensure_serving(
    spec: ServingSpec,
    *,
    load: Callable[[], ServingRecord | None],
    save: Callable[[ServingRecord], None],
    if_exists: Literal["replace", "fail"] = "replace",
    clock: Callable[[], float] = time.time,
) -> Procedure[tuple[Serving, ServingRecord | None]]:
    """Return a serving with this specification: our own where it exists already, else a new one.

    The second value is its record if this task is to stop the serving should the task fail: it was created for this
    task, or was never ready. Otherwise it is None.

    :param load: returns the record that was last saved for this name; None: there is none
    :param save: saves a record; called before anything is sent
    :param if_exists: what to do with our own serving of the same name and another specification
    :raises ServingRefusedError: a serving of this name exists that is not ours, or that must not be replaced
    :raises ServingFailedError: someone else created one at the same moment
    """
    record, spec_digest = load(), digest(spec)
    is_unsettled = record is not None and record.since is not None
    query = get_serving(spec.name, spec.version)
    is_ours = record is not None and bool(record.digest)
    grace = retry.GRACE_PERIOD if is_unsettled else 0
    found = yield from retry.find(query, grace, clock, is_known=is_ours and not is_unsettled, may_exist=is_ours)
    if load() != record:
        raise _overtaken(spec.name)
    if found is not None:
        if record is None or not record.owns(found.created_at, clock()):
            raise ServingRefusedError(
                f"A serving named {spec.name!r} (version {spec.version!r}) exists that this Airflow did not create, so "
                f"it is left alone. Choose another serving_name, or remove it on the platform.",
                spec.name,
            )
        is_same = record.digest == spec_digest and record.describes(found.created_at, clock())
        if is_same and not found.status.is_ending:
            own = ServingRecord(spec_digest, found.created_at, ready=record.ready and not is_unsettled)
            save(own)
            return found, None if own.ready else own
        was_being_replaced = is_unsettled and not record.describes(found.created_at, clock())  # by an earlier try
        if if_exists == "fail" and not (is_same or was_being_replaced):
            raise ServingRefusedError(
                f"Serving {spec.name!r} (version {spec.version!r}) exists with another specification, and "
                f"if_exists='fail'. Remove it, choose another serving_name, or set if_exists='replace'.",
                spec.name,
            )
    intent = ServingRecord(spec_digest, found.created_at if found else None, since=clock())
    save(intent)
    if found is not None:
        yield from end_serving(found, spec.version, clock=clock)
    creation = _Creation(spec, intent, load, save, clock)
    return (yield from creation.post(is_new=not is_unsettled))


@dataclass(frozen=True)
class _Creation:
    """The part of `ensure_serving` that sends."""

    spec: ServingSpec
    intent: ServingRecord
    load: Callable[[], ServingRecord | None]
    save: Callable[[ServingRecord], None]
    clock: Callable[[], float]

    def post(self, *, is_new: bool) -> Procedure[tuple[Serving, ServingRecord]]:
        """Create the serving until the platform has it; query it where the outcome is unknown."""
        query = get_serving(self.spec.name, self.spec.version)
        may_exist, is_accepted, serving = not is_new, False, None
        for attempt in range(1, retry.SUBMISSION_ATTEMPTS + 1):
            try:
                yield from create_serving(self.spec)
                is_accepted = True
                break
            except (APIError, TransportError) as error:
                if isinstance(error, ConflictError) and retry.was_refused(error):
                    if may_exist:
                        break
                    raise self._give_up() from error
                may_exist = may_exist or retry.may_have_taken_effect(error)
                if may_exist:
                    serving = yield from retry.find(query, retry.grace_after(error), self.clock)
                if serving is not None:
                    break
                if not retry.is_worth_resending(error) or attempt == retry.SUBMISSION_ATTEMPTS:
                    if not may_exist:
                        self._forget()
                    raise
        serving = serving or (yield from retry.find(query, retry.GRACE_PERIOD, self.clock, is_known=True))
        if serving is None:
            raise ServingFailedError(
                f"The platform accepted serving {self.spec.name!r} but does not show it. Try again later.",
                self.spec.name,
            )
        # Some platforms may report the time of creation only later.
        since = self.intent.since if serving.created_at is None else None
        own = ServingRecord(self.intent.digest, serving.created_at, since)
        is_ours = is_accepted or self.intent.describes(serving.created_at, self.clock())
        if self._is_replaced(serving) or not is_ours:
            raise self._give_up()
        self.save(own)
        return serving, own

    def _is_replaced(self, serving: Serving) -> bool:
        """Return whether, by its record, another task has replaced or is about to replace what this one created.

        The record of a task that saw no more than this one did does not count: its creation will be refused, since the
        name is taken.
        """
        record = self.load()
        if record is None or record == self.intent:
            return False
        if record.since is not None:
            return record.created_at not in (None, self.intent.created_at)
        return record.describes(serving.created_at, self.clock()) and record.digest != self.intent.digest

    def _give_up(self) -> ServingFailedError:
        self._forget()
        return _overtaken(self.spec.name)

    def _forget(self) -> None:
        """Record that no serving is ours, unless another task has replaced our record meanwhile."""
        if self.load() == self.intent:
            self.save(ServingRecord(digest=""))


def _overtaken(name: str) -> ServingFailedError:
    return ServingFailedError(
        f"Serving {name!r} was created by someone else at the same moment. The next try checks again.", name
    )
