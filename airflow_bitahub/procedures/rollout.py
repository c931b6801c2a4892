"""Deploying a version of a serving without losing the one that works.

The new version is tried beside the old one, under the candidate's name. Only when it has answered rightly there does it
get the public name, and only when it has answered rightly there, too, does the old version become history. Otherwise
the old version gets the public name back.

Creating a name is atomic on the platform, so the candidate's name is also the lock: one task at a time deploys a
serving. Each step is on record before it is taken. So whoever comes next, after the worker was killed at any moment,
goes on where it ended: the next try of the same task with the same version, or `Site.repair` for everyone else.
A deferral is nothing else than a death that was planned: `deploy` is called again when the wait is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.api.servings import Serving, ServingSpec, get_serving_log
from airflow_bitahub.exceptions import (
    APIError,
    BitaHubError,
    ServingCheckError,
    ServingError,
    ServingFailedError,
    ServingOutdatedError,
    ServingOvertakenError,
    ServingRefusedError,
    ServingTimeoutError,
    TransportError,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.checks import AnswerCheck, SampleCheck, check_serving
from airflow_bitahub.procedures.deployments import (
    Deployment,
    Owner,
    Rollout,
    Version,
    candidate_name,
)
from airflow_bitahub.procedures.servings import end_serving, wait_for_serving
from airflow_bitahub.procedures.site import LONGEST_CLAIM, Site

Strategy = Literal["candidate", "in_place", "recreate"]

# Seconds after which a note in the record, which no creation guards, has outlasted others that were written with it.
_SETTLING = 2
_TURN_INTERVAL = 5  # seconds between two looks whether it is this task's turn
_LOG_LINES = 20


@dataclass(frozen=True)
class Plan:
    """What to deploy, and how.

    :param spec: the specification
    :param version: the same for the record
    :param secrets: the values of secret environment variables, also of the version that serves now
    :param owner: the task instance
    :param strategy: ``candidate``: try the new version beside the old one first; ``in_place``, ``recreate``: give it
        the public name at once, which costs no second serving
    :param can_update: the platform can replace the specification of a serving in place
    :param checks: what the new version is asked before it serves, and again when it does
    :param bake_seconds: how long the new version must serve well before the old one becomes history
    :param launch_timeout: seconds for the start of a serving, the candidate's and the one under the public name
    :param candidate_timeout: seconds for which the candidate may wait for a place
    :param turn_deadline: until when to wait for what this task did not create: for other deployments of the same name,
        and for a serving that has this version already. In seconds since the epoch
    :param poll_interval: seconds between two queries
    """

    spec: ServingSpec
    version: Version
    owner: Owner
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    strategy: Strategy = "candidate"
    can_update: bool = False
    if_exists: Literal["replace", "fail"] = "replace"
    only_newer: bool = True
    checks: Sequence[AnswerCheck | SampleCheck] = ()
    bake_seconds: float = 0
    readiness_path: str = "/"
    launch_timeout: float = 1800
    candidate_timeout: float = 600
    turn_deadline: float | None = None
    poll_interval: float = 5


@dataclass(frozen=True)
class Waiting:
    """A wait for a serving, see `wait_for_serving`."""

    name: str
    created_at: float | None
    deadline: float
    pending_deadline: float | None = None
    until: float | None = None
    is_update: bool = False


@dataclass(frozen=True)
class Deployed:
    """The end of a deployment.

    :param previous: the version that served before; None: there was none, or it is the same
    :param away_seconds: for how long no version answered at the public name
    """

    serving: Serving
    previous: Version | None = None
    away_seconds: float = 0.0


@dataclass
class Deployer:
    """Deploys one version under one name.

    :param is_active: returns whether a task instance will go on with its deployment
    :param wait: waits for a serving. It may raise something to be called again later, with the same plan
    """

    plan: Plan
    site: Site
    is_active: Callable[[Owner], bool]
    wait: Callable[[Waiting], Procedure[Serving]] | None = None
    clock: Callable[[], float] = time.time

    def deploy(self) -> Procedure[Deployed]:
        """Deploy the version, and return how it serves.

        :raises ServingError: it does not serve; the text says what serves instead
        :raises StateUnknownError: queries failed for too long; the next try goes on
        """
        said = ""
        while True:
            record = self.site.load()
            rollout = record.rollout
            if rollout is not None and self._is_own(rollout):
                return (yield from self._go_on())
            if rollout is not None and rollout.owner != self.plan.owner and self._is_alive(rollout):
                said = yield from self._wait_turn(said, f"{rollout.owner} is deploying it")
            elif rollout is not None:
                yield from self._repair(rollout)
            elif (yield from self._meets_unclaimed()):
                said = yield from self._wait_turn(said, "another task has just begun to deploy it")
            elif (deployed := (yield from self._begin())) is not None:
                return deployed

    # Whose turn it is ------------------------------------------------------------------------------------------

    def _is_own(self, rollout: Rollout) -> bool:
        return rollout.owner == self.plan.owner and rollout.version.digest == self.plan.version.digest

    def _is_alive(self, rollout: Rollout) -> bool:
        return self.clock() < rollout.until and self.is_active(rollout.owner)

    def _wait_turn(self, said: str, reason: str) -> Procedure[str]:
        """Wait a little, log the reason where it is new, and return it."""
        deadline, now = self.plan.turn_deadline, self.clock()
        if deadline is not None and now >= deadline:
            raise ServingTimeoutError(
                f"Serving {self.site.name!r} could not be deployed in time: {reason}.", self.site.name
            )
        if reason != said:
            self.site.log(f"Waiting: {reason}")
        yield Sleep(retry.sleep_seconds(_TURN_INTERVAL, now, deadline))
        return reason

    def _repair(self, rollout: Rollout) -> Procedure[None]:
        try:
            end = yield from self.site.repair(self.plan.secrets)
        except ServingOvertakenError:  # another task does the same
            yield Sleep(_SETTLING)
        else:
            self.site.log(f"Ended what {rollout.owner} had left of its deployment of the {rollout.version}: {end}")

    def _meets_unclaimed(self) -> Procedure[bool]:
        """Return whether there is a serving that a task has created and not yet recorded.

        :raises ServingRefusedError: there is one that this Airflow did not create
        """
        for found in ((yield from self.site.find_candidate()), (yield from self.site.find())):
            now = self.clock()
            if found is None or (found.name == self.site.name and self.site.record.owns(found, now)):
                continue
            intent = self.site.records.load_intent()
            if intent is None or not intent.explains(found, now):
                raise self.site.refusal(found)
            has_lost = self.site.lost_at is not None  # then the intent may be this task's, and the serving another's
            is_left = intent.owner == self.plan.owner and not has_lost
            started = max(intent.since, self.site.lost_at or 0)
            if not is_left and now < started + LONGEST_CLAIM and self.is_active(intent.owner):
                return True
            self.site.log(f"Removing serving {found.name!r}, which {intent.owner} has begun to create and left")
            yield from end_serving(found, self.site.version, timeout=self.site.timeout, clock=self.clock)
        return False

    # Beginning -------------------------------------------------------------------------------------------------

    def _begin(self) -> Procedure[Deployed | None]:
        """Begin a replacement; return None where it has begun, or where another task was faster."""
        plan, record = self.plan, self.site.record
        found = yield from self.site.find()
        current = record.current
        if found is not None and current is not None and not found.status.is_ending:
            if current.digest == plan.version.digest:
                return (yield from self._keep(found))
            if plan.if_exists == "fail":
                raise ServingRefusedError(
                    f"Serving {plan.spec.name!r} (version {plan.spec.version!r}) exists with another specification, "
                    f"and if_exists='fail'. Remove it, choose another serving_name, or set if_exists='replace'.",
                    plan.spec.name,
                )
        if found is not None and current is not None and not found.status.is_ending:
            self._raise_if_outdated(current)
        if found is not None and current is not None:
            current.to_spec(plan.secrets)  # it could not be restored otherwise
        rollout = Rollout(
            plan.owner,
            self.clock() + 4 * plan.launch_timeout + plan.candidate_timeout + plan.bake_seconds,
            plan.version,
            replaces=found is not None and current is not None,
            in_place=plan.strategy != "recreate" and plan.can_update,
        )
        if found is None:
            self.site.log(f"Nothing serves as {self.site.name!r} yet. Creating the {plan.version}")
            yield from self._claim(plan.spec, replace(rollout, phase="switch", placed="new"), record)
        elif plan.strategy == "candidate":
            self.site.log(f"The {current} serves. Trying the {plan.version} beside it, as {self._candidate!r}")
            spec = plan.spec.model_copy(update={"name": self._candidate, "replicas": 1})
            yield from self._claim(spec, replace(rollout, has_candidate=True), record)
        else:
            with suppress(ServingOvertakenError):  # then another task was faster
                self.site.save(replace(record, rollout=replace(rollout, phase="switch")))
                self.site.log(f"The {current} serves. Replacing it by the {plan.version}")
            yield Sleep(_SETTLING)
        return None

    def _claim(self, spec: ServingSpec, rollout: Rollout, record: Deployment) -> Procedure[None]:
        """Create a serving, and with it take the turn."""
        created = yield from self.site.claim(spec, self.plan.owner)
        if created is None:
            return
        rollout = replace(rollout, step_at=self.clock())
        if rollout.has_candidate:
            record = replace(record, rollout=replace(rollout, candidate_created_at=created.created_at))
        else:
            record = replace(record, created_at=created.created_at, since=None, exists=True, rollout=rollout)
        self.site.has_claimed(self.plan.owner, record)

    def _raise_if_outdated(self, current: Version) -> None:
        dates = current.run_date, self.plan.version.run_date
        if self.plan.only_newer and dates[0] is not None and dates[1] is not None and dates[0] > dates[1]:
            raise ServingOutdatedError(
                f"The {current}, which serves as {self.site.name!r}, was deployed by {current.deployed_by}, a newer "
                f"run, so it is not replaced. To go back to an older version, use BitaHubRollbackServingOperator, or "
                f"set only_newer=False.",
                self.site.name,
            )

    def _keep(self, found: Serving) -> Procedure[Deployed]:
        """Return the serving, which has this version already, once it answers rightly."""
        self.site.log(f"The {self.plan.version} serves already")
        # Not from now: a deferred task comes here again.
        deadline = self.plan.turn_deadline or self.clock() + self.plan.launch_timeout
        serving = yield from self._wait(Waiting(found.name, found.created_at, deadline))
        yield from self._check(serving)
        return Deployed(serving)

    # Going on --------------------------------------------------------------------------------------------------

    def _go_on(self) -> Procedure[Deployed]:
        """Take the steps that are left."""
        if self.site.rollout.phase == "candidate":
            yield from self._try_candidate()
        if self.site.rollout.phase == "switch":
            try:
                return (yield from self._switch())
            except BitaHubError as error:
                if not _concerns_the_version(error):
                    raise
                lines = yield from self._last_lines(self.site.name)
                self.site.note(
                    phase="restore", reason=f"{error}{lines}", is_final=retry.is_final(error), placing="", ready_at=None
                )
        return (yield from self._restore())

    def _try_candidate(self) -> Procedure[None]:
        rollout, plan = self.site.rollout, self.plan
        waiting = Waiting(
            self._candidate,
            rollout.candidate_created_at,
            rollout.step_at + plan.launch_timeout,
            pending_deadline=rollout.step_at + plan.candidate_timeout,
        )
        try:
            serving = yield from self._wait(waiting)
            yield from self._check(serving)
        except BitaHubError as error:
            if not _concerns_the_version(error):
                raise
            lines = yield from self._last_lines(self._candidate)
            yield from self.site.remove_candidate()
            self.site.save(replace(self.site.record, rollout=None))
            raise self._failure(
                f"The {plan.version} was not deployed. Its candidate failed: {error}{lines}\nThe candidate was "
                f"removed. The {self._old} serves as before.",
                is_final=retry.is_final(error),
            ) from error
        self.site.log(
            f"The candidate answers{' rightly' if plan.checks else ''}. Giving it the name {plan.spec.name!r}"
        )
        self.site.note(phase="switch", step_at=self.clock())

    def _switch(self) -> Procedure[Deployed]:
        plan = self.plan
        if self.site.rollout.placed != "new":
            yield from self.site.put(plan.spec, "new")
        serving = yield from self._wait_for_public()
        if self.site.rollout.ready_at is None:
            yield from self._check(serving)
            self.site.note(ready_at=self.clock())
        if plan.bake_seconds:
            until = (self.site.rollout.ready_at or self.clock()) + plan.bake_seconds
            serving = yield from self._wait_for_public(until)
            yield from self._check(serving)
        yield from self.site.remove_candidate()
        away, previous = self.site.rollout.away_seconds, self._old if self.site.rollout.replaces else None
        self.site.save(self.site.record.with_version(replace(plan.version, deployed_at=self.clock())))
        self.site.log(
            f"The {plan.version} serves as {serving.name!r}"
            + (f"; no version answered for {away:.1f} s" if previous is not None else "")
        )
        return Deployed(serving, previous, away)

    def _restore(self) -> Procedure[Deployed]:
        """Bring back what was there before, and raise the error that is the reason."""
        rollout = self.site.rollout
        story = f"The {rollout.version} was not deployed: {rollout.reason}\n"
        if rollout.replaces:
            self.site.log(f"Restoring the {self._old}: {rollout.reason}")
            if rollout.placed != "old":
                yield from self.site.put_back(self.plan.secrets)
            story += yield from self._see_old()
        else:
            yield from self.site.clear()
            story += "It was removed. Nothing serves under this name, as before."
        yield from self.site.remove_candidate()
        self.site.save(replace(self.site.record, rollout=None))
        raise self._failure(story, is_final=rollout.is_final)

    def _see_old(self) -> Procedure[str]:
        """Wait until the old version serves again, and return in words whether it does."""
        try:
            yield from self._wait_for_public()
        except BitaHubError as error:
            if not _concerns_the_version(error):
                raise
            return f"The {self._old} was restored, but it does not serve: {error}"
        return f"The {self._old} serves again; no version answered for {self.site.rollout.away_seconds:.1f} s."

    # Parts of the steps ----------------------------------------------------------------------------------------

    def _wait(self, waiting: Waiting) -> Procedure[Serving]:
        if self.wait is not None:
            return (yield from self.wait(waiting))
        return (yield from wait_for(waiting, self.plan, self.clock))

    def _wait_for_public(self, until: float | None = None) -> Procedure[Serving]:
        """Wait until the public name answers, and record for how long it did not."""
        rollout, created_at = self.site.rollout, self.site.record.created_at
        deadline = (until or rollout.step_at) + self.plan.launch_timeout
        is_update = rollout.in_place and rollout.replaces
        serving = yield from self._wait(Waiting(self.site.name, created_at, deadline, until=until, is_update=is_update))
        if rollout.away_since is not None:
            seconds = rollout.away_seconds + self.clock() - rollout.away_since
            self.site.note(away_since=None, away_seconds=round(seconds, 1))
        return serving

    def _check(self, serving: Serving) -> Procedure[None]:
        yield from check_serving(serving, self.plan.checks, say=self.site.log, clock=self.clock)

    def _last_lines(self, name: str) -> Procedure[str]:
        """Return the last lines of a serving's log, as a text to append; "" where it cannot be read."""
        try:
            log = yield from get_serving_log(name, self.site.version, tail_lines=_LOG_LINES)
        except BitaHubError:
            return ""
        return f"\nThe last lines of its log:\n{log.rstrip()}" if log.strip() else ""

    def _failure(self, text: str, *, is_final: bool) -> ServingError:
        return (ServingCheckError if is_final else ServingFailedError)(text, self.site.name)

    @property
    def _candidate(self) -> str:
        return candidate_name(self.site.name)

    @property
    def _old(self) -> Version:
        return self.site.record.versions[0]


def wait_for(waiting: Waiting, plan: Plan, clock: Callable[[], float] = time.time) -> Procedure[Serving]:
    """Wait for a serving, and return it. Raises as `wait_for_serving` does."""
    return wait_for_serving(
        waiting.name,
        plan.spec.version,
        poll_interval=plan.poll_interval,
        readiness_path=plan.readiness_path,
        created_at=waiting.created_at,
        deadline=waiting.deadline,
        pending_deadline=waiting.pending_deadline,
        until=waiting.until,
        is_update=waiting.is_update,
        is_known=True,
        clock=clock,
    )


def _concerns_the_version(error: BitaHubError) -> bool:
    """Return whether an error means that the version does not serve. Otherwise the next try goes on."""
    if isinstance(error, ServingOvertakenError | ServingRefusedError):
        return False
    if isinstance(error, APIError):
        return retry.was_refused(error)
    return isinstance(error, ServingError) and not isinstance(error, TransportError)
