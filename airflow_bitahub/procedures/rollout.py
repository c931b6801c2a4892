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
    RateLimitError,
    ServingFailedError,
    ServingRefusedError,
    TransportError,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.servings import end_serving

# Seconds by which the platform's clock may be behind ours, and which a creation may take.
_CLOCK_SKEW, _LONGEST_CREATION = 60, 600


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

    def owns(self, created_at: float | None) -> bool:
        """Return whether the serving created at that time is ours."""
        return bool(self.digest) and (created_at == self.created_at or self._is_being_created(created_at))

    def describes(self, created_at: float | None) -> bool:
        """Return whether the serving created at that time is ours and has this record's specification."""
        if self.since is None:
            return bool(self.digest) and created_at == self.created_at
        return self._is_being_created(created_at)

    def replaces(self, created_at: float | None) -> bool:
        """Return whether another serving is being created in place of the one created at that time."""
        return self.since is not None and self.created_at == created_at

    def _is_being_created(self, created_at: float | None) -> bool:
        if self.since is None:
            return False
        if created_at is None:
            return True  # the platform reports no times
        # A lost answer to our own creation must not turn a stranger's serving, created at another time, into ours.
        return created_at != self.created_at and -_CLOCK_SKEW <= created_at - self.since <= _LONGEST_CREATION


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
    found = yield from retry.find(query, retry.GRACE_PERIOD if is_unsettled else 0, clock)
    if load() != record:
        raise _overtaken(spec.name)
    if found is not None:
        if record is None or not record.owns(found.created_at):
            raise ServingRefusedError(
                f"A serving named {spec.name!r} (version {spec.version!r}) exists that this Airflow did not create, so "
                f"it is left alone. Choose another serving_name, or remove it on the platform.",
                spec.name,
            )
        is_same = record.digest == spec_digest and record.describes(found.created_at)
        if is_same and not found.status.is_ending:
            own = ServingRecord(spec_digest, found.created_at, ready=record.ready and not is_unsettled)
            save(own)
            return found, None if own.ready else own
        was_being_replaced = is_unsettled and not record.describes(found.created_at)  # by an earlier try
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
        may_exist = not is_new
        for attempt in range(1, retry.SUBMISSION_ATTEMPTS + 1):
            is_accepted = False
            try:
                yield from create_serving(self.spec)
                is_accepted = True
            except ConflictError as error:
                if is_new and attempt == 1:
                    raise self._give_up() from error
            except RateLimitError:
                if not may_exist:
                    self._forget()
                raise
            except (APIError, TransportError) as error:
                may_resend = retry.is_worth_resending(error)
                may_exist = may_exist or retry.may_have_taken_effect(error)
                if (yield from retry.find(query, retry.grace_after(error), self.clock)) is None:
                    if may_resend and attempt < retry.SUBMISSION_ATTEMPTS:
                        continue
                    if not (may_resend and may_exist):
                        self._forget()
                    raise
            break
        serving = yield from retry.find(query, retry.GRACE_PERIOD, self.clock)
        if serving is None:
            raise ServingFailedError(
                f"The platform accepted serving {self.spec.name!r} but does not show it. Try again later.",
                self.spec.name,
            )
        # Some platforms may report the time of creation only later.
        since = self.intent.since if serving.created_at is None else None
        own = ServingRecord(self.intent.digest, serving.created_at, since)
        if self._is_replaced(serving) or not (is_accepted or self.intent.describes(serving.created_at)):
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
        return record.describes(serving.created_at) and record.digest != self.intent.digest

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
