"""One name of a serving on the platform, and the record of what this Airflow has put there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.api.servings import (
    Serving,
    ServingSpec,
    create_serving,
    get_serving,
    update_serving,
)
from airflow_bitahub.exceptions import (
    APIError,
    BitaHubError,
    ConflictError,
    ServingAliveError,
    ServingFailedError,
    ServingOvertakenError,
    ServingRefusedError,
    TransportError,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.deployments import (
    LONGEST_CLAIM,
    Deployment,
    Intent,
    Owner,
    Records,
    Rollout,
    RolloutEnd,
    StepName,
    candidate_name,
    is_created_since,
    is_same_time,
    to_json,
)
from airflow_bitahub.procedures.servings import end_serving


def find_serving(
    name: str, version: str, clock: Callable[[], float], *, grace: float | None = None, is_ours: bool = False
) -> Procedure[Serving | None]:
    """Return a serving, or None where there is none.

    :param grace: seconds for which "not found" counts as a delay; None: as long as `is_ours` asks for
    :param is_ours: it is on record, so that failed queries say nothing about it, and neither does one "not found"
    """
    if grace is None:
        grace = retry.CONFIRM_ABSENCE if is_ours else 0
    query = get_serving(name, version)
    return (yield from retry.find(query, grace, clock, is_known=is_ours, may_exist=is_ours))


def create(
    spec: ServingSpec, since: float, clock: Callable[[], float], on_send: Callable[[], None], task_url: str = ""
) -> Procedure[Serving | None]:
    """Create a serving, and return it; None where another one has taken the name.

    Query it where the outcome is unknown.

    :param since: when the creation was recorded
    :param on_send: called before each request to create it
    :param task_url: the page of the Airflow task that creates it
    """
    query = get_serving(spec.name, spec.version)
    may_exist, is_accepted, serving = False, False, None
    for attempt in range(1, retry.SUBMISSION_ATTEMPTS + 1):
        on_send()
        try:
            yield from create_serving(spec, task_url)
            is_accepted = True
            break
        except (APIError, TransportError) as error:
            if isinstance(error, ConflictError) and retry.was_refused(error):
                if may_exist:
                    break
                return None
            may_exist = may_exist or retry.may_have_taken_effect(error)
            if may_exist:
                serving = yield from retry.find(query, retry.grace_after(error), clock)
            if serving is not None:
                break
            if not retry.is_worth_resending(error) or attempt == retry.SUBMISSION_ATTEMPTS:
                raise
    serving = serving or (yield from retry.find(query, retry.GRACE_PERIOD, clock, is_known=True))
    if serving is None:
        raise ServingFailedError(
            f"The platform accepted serving {spec.name!r} but does not show it. Try again later.", spec.name
        )
    return serving if is_accepted or is_created_since(serving.created_at, since, clock()) else None


def _as_text(record: Deployment) -> str:
    """Return what is stored of a record. JSON has no tuples, and its NaN, which a metric may be, is equal to itself."""
    return json.dumps(to_json(record))


@dataclass
class Site:
    """The public name of a serving, its candidate's name, and their record.

    :param timeout: seconds for which a removal may take
    :param may_recreate: False: there is no time to create a serving again after its removal, so none is removed for it
    :param on_save: called before anything is stored and before anything is created
    :param task_url: the page of the Airflow task that works here; "": none
    :param on_end: called when a replacement has ended and that is on record
    :ivar record: the record as last read or stored
    :ivar ended: the replacement that ended here last, as it was then
    :ivar lost_at: when another task created a serving of the name that this one wanted to create
    """

    name: str
    version: str
    records: Records
    log: Callable[[str], None]
    clock: Callable[[], float] = time.time
    timeout: float = 120
    may_recreate: bool = True
    on_save: Callable[[], None] = lambda: None
    task_url: str = ""
    on_end: Callable[[RolloutEnd], None] = lambda end: None  # noqa: ARG005
    record: Deployment = field(default_factory=Deployment)
    ended: Rollout | None = None
    lost_at: float | None = None

    def load(self) -> Deployment:
        """Read the record anew, and return it."""
        self.record = self.records.load() or Deployment()
        return self.record

    def save(self, record: Deployment) -> None:
        """Store the record.

        :raises ServingOvertakenError: another task has stored one since it was read
        """
        self.on_save()
        if not self.is_current():
            raise self._overtaken()
        self.records.save(record)
        if record.rollout is None and self.record.rollout is not None:
            self.ended = self.record.rollout
        self.record = record

    def end(self, end: RolloutEnd, record: Deployment) -> None:
        """Store the record without the replacement that was under way, which has ended like this."""
        self.save(replace(record, rollout=None))
        self.on_end(end)

    def _overtaken(self) -> ServingOvertakenError:
        return ServingOvertakenError(
            f"Another task has taken over the deployment of serving {self.name!r}. The next try queries what it did.",
            self.name,
        )

    def is_current(self) -> bool:
        """Return whether nobody has stored another record since it was read."""
        stored = self.records.load() or Deployment()
        return stored == self.record or _as_text(stored) == _as_text(self.record)

    def note(self, **changes: Any) -> None:
        """Change entries of the replacement that is under way."""
        self.save(replace(self.record, rollout=replace(self.rollout, **changes)))

    def begin_step(self, name: StepName, **changes: Any) -> None:
        """Record that a step of the replacement begins, with other changes."""
        self.note(steps=self.rollout.steps_with(name, self.clock()), **changes)

    @property
    def rollout(self) -> Rollout:
        """The replacement that is under way. Raises RuntimeError if there is none."""
        if self.record.rollout is None:
            raise RuntimeError(f"no deployment of {self.name!r} is under way")
        return self.record.rollout

    def find(self, grace: float | None = None) -> Procedure[Serving | None]:
        """Return the serving of the public name; None: there is none. See `find_serving`."""
        return find_serving(self.name, self.version, self.clock, grace=grace, is_ours=self.record.exists)

    def find_candidate(self) -> Procedure[Serving | None]:
        """Return the serving of the candidate's name; None: there is none."""
        is_ours = self.record.rollout is not None and self.record.rollout.has_candidate
        return find_serving(candidate_name(self.name), self.version, self.clock, is_ours=is_ours)

    def remove_candidate(self) -> Procedure[None]:
        """Remove the candidate of the replacement that is under way, if there is one."""
        rollout = self.record.rollout
        if rollout is None or not rollout.has_candidate:
            return
        found = yield from self.find_candidate()
        if found is not None and is_same_time(found.created_at, rollout.candidate_created_at):
            yield from end_serving(found, self.version, timeout=self.timeout, clock=self.clock)

    def claim(self, spec: ServingSpec, owner: Owner) -> Procedure[Serving | None]:
        """Create a serving whose name nobody has, and with it take the turn; None where another task was faster."""
        self.on_save()
        since = self.clock()
        self.records.save_intent(Intent(owner, spec.name, since))
        try:
            created = yield from create(spec, since, self.clock, self.on_save, self.task_url)
        except BitaHubError as error:
            if not retry.may_have_taken_effect(error):
                self._creates_nothing(owner)
            raise
        if created is None:
            self.lost_at = self.clock()
            self._creates_nothing(owner)
        return created

    def has_claimed(self, owner: Owner, record: Deployment) -> None:
        """Store the record of what `claim` has created. Nothing is being created any more."""
        self.save(record)
        self._creates_nothing(owner)

    def _creates_nothing(self, owner: Owner) -> None:
        intent = self.records.load_intent()
        if intent is not None and intent.owner == owner:
            self.records.save_intent(replace(intent, name=""))

    def put(self, spec: Callable[[], ServingSpec], placed: Literal["new", "old"]) -> Procedure[None]:
        """Give the public name to a specification: in place where the replacement says so, else by a new serving.

        :param spec: returns the specification, where it is needed
        :param placed: which version of the replacement it is
        :raises ServingRefusedError: a serving has the name that is not ours
        :raises ServingAliveError: what had the name is still not gone after `timeout` seconds
        """
        taken_since: float | None = None
        was_removed = False
        while True:
            # After a refused creation, a wrong "not found" does no harm: the next creation is refused, too.
            found = yield from self.find(None if taken_since is None and self.may_recreate else 0)
            rollout, now = self.rollout, self.clock()
            if found is not None and not self.record.owns(found, now):
                raise self.refusal(found)
            is_successor = found is not None and self.record.is_successor(found, now)
            if found is not None and not found.status.is_ending:
                is_there = rollout.placing == placed if is_successor else rollout.placed == placed
                is_untouched = not (is_successor or rollout.placed or was_removed or self.record.since is not None)
                is_updated = rollout.in_place and not is_successor
                if is_there or (placed == "old" and is_untouched and not is_updated):
                    return self._has_placed(found, placed)
                if is_updated and (yield from self._update(spec(), is_untouched=placed == "old" and is_untouched)):
                    changing = yield from self.find()
                    was_seen = changing is not None and bool(changing.busy_pods)
                    return self._has_placed(found, placed, was_updated=True, was_update_seen=was_seen)
            if found is not None and not self.may_recreate:
                raise ServingAliveError(
                    f"There is no time to put the old version of serving {self.name!r} in its place again.", self.name
                )
            wanted, earlier = spec(), self.record.since
            self.save(
                replace(
                    self.record,
                    since=now,
                    rollout=replace(
                        self.rollout,
                        placing=placed,
                        away_since=rollout.away_since or (now if rollout.replaces else None),
                    ),
                )
            )
            if found is not None:
                yield from end_serving(found, self.version, timeout=self.timeout, clock=self.clock)
                was_removed = True
            created = yield from create(wanted, now, self.clock, self.on_save, self.task_url)
            if created is not None:
                return self._has_placed(created, placed)
            # Another creation took the name: an earlier one of ours, whose answer was lost, or a stranger's. Or what
            # was removed is no longer shown, but not gone completely.
            other = yield from self.find(grace=0)
            if other is not None and not (
                (other.created_at is not None and other.created_at == self.record.created_at)  # it had been denied
                or (earlier is not None and is_created_since(other.created_at, earlier, self.clock()))
            ):
                raise self.refusal(other)
            # This creation had no effect, so what appears from now on is not its serving.
            self.save(replace(self.record, since=earlier, rollout=replace(self.rollout, placing=rollout.placing)))
            now = self.clock()
            taken_since = now if taken_since is None else taken_since
            if now - taken_since >= self.timeout:
                raise ServingAliveError(
                    f"The name {self.name!r} is still taken {self.timeout:.0f} s after the serving that had it was "
                    f"gone. The next try goes on.",
                    self.name,
                )
            yield Sleep(1)

    def _update(self, spec: ServingSpec, *, is_untouched: bool) -> Procedure[bool]:
        """Replace the specification in place, and return whether that is done; False: it has to be created again.

        :param is_untouched: the serving has this specification already, unless an update was lost
        """
        if not self.is_current():
            raise self._overtaken()
        try:
            yield from update_serving(spec, self.task_url)
        except APIError as error:
            if not retry.was_refused(error):
                raise
            if is_untouched:
                return True
            if self.rollout.placed != "new":
                raise
            self.note(in_place=False)
            return False
        return True

    def left_in_place(self, found: Serving | None) -> Deployment:
        """Return the record for the case that the public name is left as it is, after the new version has failed.

        :param found: what has the name now
        """
        now = self.clock()
        is_successor = found is not None and self.record.is_successor(found, now)
        if self.rollout.placed != "new" and not is_successor:
            return self.record
        record = self.record.with_version(replace(self.rollout.version, is_withdrawn=True))
        return replace(record, created_at=found.created_at, since=None) if found and is_successor else record

    def creation_of(self, owner: Owner) -> Intent | None:
        """Return the creation that a task instance has begun and that is not yet on record; None: there is none."""
        intent = self.records.load_intent()
        if intent is None or intent.owner != owner or not intent.name or self.lost_at is not None:
            return None
        return intent if self.clock() < intent.since + LONGEST_CLAIM else None

    def refusal(self, found: Serving) -> ServingRefusedError:
        """Return the error for a serving that is not ours."""
        if found.name != self.name:
            return ServingRefusedError(
                f"A serving named {found.name!r} (version {self.version!r}) exists, so it is left alone. The name is "
                f"needed to try a new version of {self.name!r}. Remove the serving, or choose another serving_name.",
                found.name,
            )
        return ServingRefusedError(
            f"A serving named {found.name!r} (version {self.version!r}) exists that this Airflow did not create, so it "
            f"is left alone. Choose another serving_name, or remove it on the platform.",
            found.name,
        )

    def _has_placed(
        self,
        found: Serving,
        placed: Literal["new", "old"],
        *,
        was_updated: bool = False,
        was_update_seen: bool = False,
    ) -> None:
        """Record which version has the public name now."""
        rollout = replace(
            self.rollout,
            placed=placed,
            placing="",
            was_updated=was_updated,
            was_update_seen=was_update_seen,
            step_at=self.clock(),
            ready_at=None,
        )
        self.save(replace(self.record, created_at=found.created_at, since=None, exists=True, rollout=rollout))
