"""Deploying a version of a serving without losing the one that works.

The new version is tried beside the old one, under the candidate's name. Only when it has answered rightly there does it
get the public name, and only when it has answered rightly there, too, does the old version become history. Otherwise
the old version gets the public name back.

Creating a name is atomic on the platform, so the candidate's name is also the lock: one task at a time deploys a
serving. Each step is on record before it is taken. So whoever comes next, after the worker was killed at any moment,
goes on where it ended: the next try of the same task with the same version, or `repair` for everyone else.
A deferral is nothing else than a death that was planned: `deploy` is called again when the wait is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.api.servings import Serving, ServingSpec, get_serving, get_serving_log, probe_serving
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    RateLimitError,
    ServingAliveError,
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
from airflow_bitahub.procedures.checks import check_serving
from airflow_bitahub.procedures.deployments import (
    Deployment,
    Rollout,
    Step,
    Version,
    candidate_name,
)
from airflow_bitahub.procedures.plan import Deployed, Plan, Waiting, wait_for
from airflow_bitahub.procedures.repair import clear, put_back
from airflow_bitahub.procedures.servings import LONGEST_SILENCE
from airflow_bitahub.procedures.site import Site
from airflow_bitahub.procedures.turn import SETTLING, Turn
from airflow_bitahub.texts import lines_of, shorten

_LOG_LINES = 20
_LOG_LINE_LIMIT = 500  # characters of one of them
# Seconds after which an update in place counts as complete where the platform does not list replicas.
_LONGEST_UNSEEN_UPDATE = 60


@dataclass
class Deployer:
    """Deploys one version under one name.

    :param plan_for: returns the plan, by the record of the serving when it is this task's turn
    :param wait: waits for a serving. It may raise something, to be called again later with the same plan
    :param is_resumed: this task has deployed before in the same try
    :param look: raises where a plan cannot work; called only before its first serving is created
    :ivar taken_since: since when the platform says that the name, or the candidate's, is taken
    """

    plan_for: Callable[[Deployment], Plan]
    site: Site
    turn: Turn
    wait: Callable[[Plan, Waiting], Procedure[Serving]] | None = None
    is_resumed: bool = False
    look: Callable[[Plan], None] = lambda plan: None  # noqa: ARG005
    clock: Callable[[], float] = time.time
    plan: Plan = field(init=False)
    taken_since: float | None = field(default=None, init=False)

    def deploy(self) -> Procedure[Deployed]:
        """Deploy the version, and return how it serves.

        :raises ServingError: it does not serve; the text says what serves instead
        :raises StateUnknownError: queries failed for too long; the next try goes on
        """
        while True:
            left = yield from self.turn.wait()
            self.plan = self.plan_for(self.site.record)
            if left is not None and left.owner == self.plan.owner:
                if left.version.digest == self.plan.version.digest:
                    return (yield from self._go_on())
                if self.is_resumed:
                    raise ConfigurationError(
                        f"The arguments of the deployment of {self.site.name!r} are rendered differently each time the "
                        f"task resumes. Use no template that depends on the current time."
                    )
            if left is not None:
                yield from self.turn.end(left)
            elif (deployed := (yield from self._begin())) is not None:
                return deployed

    # Beginning -------------------------------------------------------------------------------------------------

    def _begin(self) -> Procedure[Deployed | None]:
        """Begin a replacement; return None where it has begun, or where another task was faster."""
        plan, record = self.plan, self.site.record
        found = yield from self.site.find()
        current = record.current
        if found is not None and current is not None and not found.status.is_ending:
            is_same = current.digest == plan.version.digest
            # A version that failed and was left is watched again, where it is to be watched.
            if is_same and not (current.is_withdrawn and plan.bake_seconds):
                return (yield from self._keep(found, current))
            if plan.if_exists == "fail" and not is_same:
                raise ServingRefusedError(
                    f"Serving {plan.spec.name!r} (version {plan.spec.version!r}) exists with another specification, "
                    f"and if_exists='fail'. Remove it, choose another serving_name, or set if_exists='replace'.",
                    plan.spec.name,
                )
        can_restore = True
        if current is not None:
            self._raise_if_outdated(current)
            if missing := [name for name in current.withheld if name not in plan.secrets]:
                can_restore = False
                self.site.log(
                    f"The {current} needs the secret values {', '.join(missing)}, which this task does not know: it "
                    f"could not be created again, should the new version fail"
                )
        self.look(plan)
        rollout = Rollout(
            plan.owner,
            self.clock() + 4 * plan.launch_timeout + plan.candidate_timeout + plan.bake_seconds,
            plan.version,
            replaces=found is not None and current is not None,
            in_place=plan.strategy != "recreate" and plan.can_update,
            can_restore=can_restore,
            steps=[Step("candidate" if found is not None and plan.strategy == "candidate" else "switch", self.clock())],
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
            yield Sleep(SETTLING)
        return None

    def _claim(self, spec: ServingSpec, rollout: Rollout, record: Deployment) -> Procedure[None]:
        """Create a serving, and with it take the turn."""
        try:
            created = yield from self.site.claim(spec, self.plan.owner)
        except APIError as error:
            if rollout.has_candidate and retry.was_refused(error):
                text = f"{error} Nothing was changed: the {self._old} is still in its place."
                raise type(error)(error.status, error.code, text, error.request, error.retry_after) from error
            raise
        if created is None:
            yield from self._pause_for(spec)
            return
        rollout = replace(rollout, step_at=self.clock())
        if rollout.has_candidate:
            record = replace(record, rollout=replace(rollout, candidate_created_at=created.created_at))
        else:
            record = replace(record, created_at=created.created_at, since=None, exists=True, rollout=rollout)
        self.site.has_claimed(self.plan.owner, record)

    def _pause_for(self, spec: ServingSpec) -> Procedure[None]:
        """Pause after a name was taken: another task was faster, or what had the name is not gone completely.

        :raises ServingTimeoutError: it is still taken at the deadline
        """
        now = self.clock()
        self.taken_since = now if self.taken_since is None else self.taken_since
        if now >= (self.plan.turn_deadline or self.taken_since + self.plan.launch_timeout):
            raise ServingTimeoutError(
                f"Serving {self.site.name!r} was not deployed: the platform says that the name {spec.name!r} is taken, "
                f"but shows no serving of this name and version {spec.version!r}. Perhaps it exists with another "
                f"version, or is still being removed. Remove it on the platform, or choose another serving_name.",
                self.site.name,
            )
        yield from self.turn.pause(SETTLING)

    def _raise_if_outdated(self, current: Version) -> None:
        if current.is_withdrawn:  # it failed, and was left: whoever comes can only do better
            return
        dates = current.run_date, self.plan.version.run_date
        if self.plan.only_newer and dates[0] is not None and dates[1] is not None and dates[0] > dates[1]:
            raise ServingOutdatedError(
                f"The {current}, which serves as {self.site.name!r}, was deployed by {current.deployed_by}, a newer "
                f"run, so it is not replaced. To go back to an older version, use BitaHubRollbackServingOperator, or "
                f"set only_newer=False.",
                self.site.name,
            )

    def _keep(self, found: Serving, current: Version) -> Procedure[Deployed]:
        """Return the serving, which has this version already, once it answers rightly."""
        self.site.log(f"The {self.plan.version} serves already")
        # Not from now: a deferred task comes here again.
        deadline = self.plan.turn_deadline or self.clock() + self.plan.launch_timeout
        serving = yield from self._wait(Waiting(found.name, found.created_at, deadline))
        yield from self._check(serving)
        dates = [date for date in (current.run_date, self.plan.version.run_date) if date is not None]
        kept = replace(current, run_date=max(dates, default=None))  # this run may be the newest that has deployed it
        if kept.is_withdrawn:
            kept = replace(kept, deployed_at=self.clock(), is_withdrawn=False)
        if kept != current:
            self.site.save(self.site.record.with_version(kept))
        return Deployed(serving)

    # Going on --------------------------------------------------------------------------------------------------

    def _go_on(self) -> Procedure[Deployed]:
        """Take the steps that are left."""
        if self.site.rollout.phase == "candidate":
            yield from self._try_candidate()
        try:
            if self.site.rollout.phase == "switch":
                try:
                    yield from self._switch()
                except BitaHubError as error:
                    if not _concerns_the_version(error):
                        raise
                    yield from self._begin_to_restore(error)
            if self.site.rollout.phase == "restore":
                raise (yield from self._restore())
        except ServingRefusedError:  # someone else has taken the name
            yield from self.site.remove_candidate()
            self.site.end("failed", replace(self.site.record, exists=False, since=None))
            raise
        return (yield from self._tidy())

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
            if plan.checks:
                self.site.begin_step("check")
            yield from self._check(serving)
        except BitaHubError as error:
            if not _concerns_the_version(error):
                raise
            lines = yield from self._last_lines(self._candidate)
            yield from self.site.remove_candidate()
            self.site.end("rejected", self.site.record)
            raise self._failure(
                f"The {plan.version} was not deployed. Its candidate failed: {error}{lines}\nThe candidate was "
                f"removed. The {self._old} was not touched.",
                is_final=retry.is_final(error),
            ) from error
        self.site.log(
            f"The candidate answers{' rightly' if plan.checks else ''}. Giving it the name {plan.spec.name!r}"
        )
        self.site.begin_step("switch", phase="switch", step_at=self.clock())

    def _switch(self) -> Procedure[None]:
        """Give the public name to the new version, and see that it serves well there."""
        plan = self.plan
        if self.site.rollout.placed != "new":
            yield from self.site.put(lambda: plan.spec, "new")
            if self.site.rollout.was_updated and not (yield from self._answers()):
                self.site.note(away_since=self.clock())
        if self.site.rollout.ready_at is None:
            serving = yield from self._wait_for_public()
            if plan.checks or plan.bake_seconds:
                self.site.begin_step("verify")
            yield from self._check(serving)
            self.site.note(ready_at=self.clock())
        if plan.bake_seconds:
            until = (self.site.rollout.ready_at or self.clock()) + plan.bake_seconds
            yield from self._check((yield from self._wait_for_public(until)))
        record, old = self.site.record, self._old if self.site.rollout.replaces else None
        if old is not None and plan.withdraws:
            record = replace(record, versions=[replace(old, is_withdrawn=True), *record.versions[1:]])
        record = record.with_version(replace(plan.version, deployed_at=self.clock(), is_withdrawn=False))
        steps = self.site.rollout.steps_with("tidy", self.clock())
        self.site.save(replace(record, rollout=replace(self.site.rollout, phase="tidy", previous=old, steps=steps)))

    def _tidy(self) -> Procedure[Deployed]:
        """Remove the candidate of a deployment that has succeeded."""
        yield from self.site.remove_candidate()
        rollout = self.site.rollout
        serving = yield from self.site.find()
        if serving is None:
            name = self.site.name
            raise ServingFailedError(f"The {self.plan.version} served as {name!r}, and was removed meanwhile.", name)
        self.site.end("reverted" if self.plan.withdraws else "deployed", self.site.record)
        away = f"; no version answered for {rollout.away_seconds:.1f} s" if rollout.previous else ""
        self.site.log(f"The {self.plan.version} serves as {serving.name!r}{away}")
        return Deployed(serving, rollout.previous, rollout.away_seconds)

    def _begin_to_restore(self, error: BitaHubError) -> Procedure[None]:
        """Record why the old version is to be restored."""
        lines = yield from self._last_lines(self.site.name)
        away = self.site.rollout.away_since
        if away is None and not (yield from self._answers()):
            away = self.clock()
        self.site.begin_step(
            "restore",
            phase="restore",
            reason=self._without_secrets(f"{error}{lines}"),
            is_final=retry.is_final(error),
            placing="",
            ready_at=None,
            away_since=away,
        )

    def _restore(self) -> Procedure[ServingError]:
        """Bring back what was there before, and return the error that is the reason."""
        rollout = self.site.rollout
        story = f"The {rollout.version} was not deployed: {rollout.reason}\n"
        is_left = rollout.replaces and not rollout.can_restore
        if is_left:
            story += f"The name was left as it is: the {self._old} needs secret values that this task does not know."
        elif rollout.replaces:
            self.site.log(f"Restoring the {self._old}: {rollout.reason}")
            if rollout.placed != "old":
                yield from put_back(self.site, self.plan.secrets)
            story += yield from self._see_old()
        else:
            yield from clear(self.site)
            story += "It was removed. Nothing serves under this name, as before."
        yield from self.site.remove_candidate()
        record = self.site.left_in_place((yield from self.site.find())) if is_left else self.site.record
        self.site.end("restored" if rollout.replaces and not is_left else "failed", record)
        return self._failure(story, is_final=rollout.is_final)

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
            return (yield from self.wait(self.plan, waiting))
        return (yield from wait_for(waiting, self.plan, self.clock))

    def _wait_for_public(self, until: float | None = None) -> Procedure[Serving]:
        """Wait until the public name answers, and record for how long it did not."""
        rollout, created_at = self.site.rollout, self.site.record.created_at
        deadline = rollout.step_at + self.plan.launch_timeout
        if until is not None:  # then silence ends the waiting, and not that queries fail, which says nothing
            deadline = until + LONGEST_SILENCE + retry.UNREACHABLE_TIMEOUT
        waiting = Waiting(self.site.name, created_at, deadline, until=until)
        if rollout.was_updated and rollout.ready_at is None:
            unseen = 0 if rollout.was_update_seen else min(_LONGEST_UNSEEN_UPDATE, self.plan.launch_timeout / 2)
            waiting = replace(waiting, is_update=True, unseen_until=rollout.step_at + unseen)
        serving = yield from self._wait(waiting)
        if self.site.record.created_at is None and serving.created_at is not None:
            self.site.save(replace(self.site.record, created_at=serving.created_at))
        if rollout.away_since is not None:
            seconds = rollout.away_seconds + self.clock() - rollout.away_since
            self.site.note(away_since=None, away_seconds=round(seconds, 1))
        return serving

    def _answers(self) -> Procedure[bool]:
        """Return whether a program answers under the public name now."""
        try:
            serving = yield from get_serving(self.site.name, self.site.version)
            return bool(serving.url) and (yield from probe_serving(serving, self.plan.readiness_path))
        except BitaHubError:
            return False

    def _check(self, serving: Serving) -> Procedure[None]:
        yield from check_serving(serving, self.plan.checks, say=self.site.log, clock=self.clock)

    def _last_lines(self, name: str) -> Procedure[str]:
        """Return the last lines of a serving's log, as a text to append; "" where it cannot be read."""
        try:
            log = yield from get_serving_log(name, self.site.version, tail_lines=_LOG_LINES)
            token = (yield from get_serving(name, self.site.version)).token
        except BitaHubError:
            return ""
        if token:  # programs may print the requests that they get
            log = log.replace(token, "***")
        shown = "\n".join(shorten(line, _LOG_LINE_LIMIT) for line in self._without_secrets(log.rstrip()).split("\n"))
        return f"\nThe last lines of its log:\n{shown}" if shown else ""

    def _without_secrets(self, text: str) -> str:
        """Return a text in which a program may have printed secret values, with stars in their place."""
        parts = [part for secret in self.plan.secrets.values() for part in (secret, *lines_of(secret)) if part]
        for value in sorted(parts, key=len, reverse=True):
            text = text.replace(value, "***")
        return text

    def _failure(self, text: str, *, is_final: bool) -> ServingError:
        return (ServingCheckError if is_final else ServingFailedError)(text, self.site.name)

    @property
    def _candidate(self) -> str:
        return candidate_name(self.site.name)

    @property
    def _old(self) -> Version:
        return self.site.record.versions[0]


def _concerns_the_version(error: BitaHubError) -> bool:
    """Return whether an error means that the version does not serve. Otherwise the next try goes on."""
    if isinstance(error, ServingOvertakenError | ServingRefusedError | ServingAliveError):
        return False
    if isinstance(error, APIError):
        return retry.was_refused(error) and not isinstance(error, RateLimitError | AuthenticationError)
    return isinstance(error, ServingError) and not isinstance(error, TransportError)
