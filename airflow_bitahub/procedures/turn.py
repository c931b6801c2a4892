"""Whose turn it is: of several tasks that change one serving, one goes first and the others wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from airflow_bitahub.api.protocol import Procedure, Sleep
from airflow_bitahub.api.servings import Serving
from airflow_bitahub.exceptions import (
    ConfigurationError,
    ServingFailedError,
    ServingOvertakenError,
    ServingRefusedError,
    ServingTimeoutError,
)
from airflow_bitahub.procedures import retry
from airflow_bitahub.procedures.deployments import LONGEST_CLAIM, Owner, Rollout
from airflow_bitahub.procedures.repair import repair
from airflow_bitahub.procedures.servings import end_serving
from airflow_bitahub.procedures.site import Site

# Seconds to wait after storing a note. Two tasks may store one at the same time; after this, both see which one stayed.
SETTLING = 2
_INTERVAL = 5  # seconds between two looks


class Unrecorded(NamedTuple):
    """A serving that is not on record.

    :param creator: the task that has begun to create it
    :param is_left: whether that task will not put it on record any more
    """

    serving: Serving
    creator: Owner
    is_left: bool


def _sleep(seconds: float) -> Procedure[None]:
    yield Sleep(seconds)


@dataclass
class Turn:
    """One task's turn to change a serving.

    :param is_active: returns whether a task instance will go on with its deployment
    :param owner: the task instance that deploys; None: this task does not deploy, so it owns no deployment
    :param deadline: until when to wait, in seconds since the epoch; None: no limit
    :param pause: sleeps for so many seconds. It may raise something to wait again later
    """

    site: Site
    is_active: Callable[[Owner], bool]
    owner: Owner | None = None
    deadline: float | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    clock: Callable[[], float] = time.time
    pause: Callable[[float], Procedure[None]] = _sleep

    def wait(self) -> Procedure[Rollout | None]:
        """Wait until no other task deploys the serving, and return a deployment that was left; None: there is none.

        A serving that a task began to create and left, before it was on record, is removed.

        :raises ServingRefusedError: the name belongs to a serving that this Airflow did not create; for a task that
            deploys, also the candidate's name
        :raises ServingTimeoutError: another task still deploys at the deadline
        """
        said = ""
        while True:
            rollout = self.site.load().rollout
            if rollout is not None and (rollout.owner == self.owner or not self.is_alive(rollout)):
                return rollout
            if rollout is not None:
                reason = f"{rollout.owner} is deploying it"
            else:
                try:
                    unrecorded = yield from self.find_unrecorded()
                except ServingRefusedError:
                    if self.site.is_current():
                        raise
                    continue  # it was put on record meanwhile
                if unrecorded is None:
                    return None
                if unrecorded.is_left:
                    yield from self.remove(unrecorded)
                    continue
                reason = f"{unrecorded.creator} has just begun to deploy it"
            now = self.clock()
            if self.deadline is not None and now >= self.deadline:
                raise ServingTimeoutError(f"Serving {self.site.name!r} was not free in time: {reason}.", self.site.name)
            if reason != said:
                self.site.log(f"Waiting: {reason}")
                said = reason
            yield from self.pause(retry.sleep_seconds(_INTERVAL, now, self.deadline))

    def end(self, left: Rollout) -> Procedure[None]:
        """End a deployment that was left, see `repair`.

        :raises ConfigurationError: a secret value is missing that is needed to restore the old version
        :raises ServingFailedError: the same, for a task that does not deploy and so has no argument for the value
        """
        try:
            end = yield from repair(self.site, self.secrets)
        except ServingOvertakenError:  # another task does the same
            yield Sleep(SETTLING)
        except ConfigurationError as error:
            if self.owner is not None:
                raise
            raise ServingFailedError(
                f"{left.owner} has left its deployment of serving {self.site.name!r} unfinished. Deploy the serving "
                f"again, which ends it; this cannot: {error}",
                self.site.name,
            ) from error
        else:
            self.site.log(f"Ended what {left.owner} had left of its deployment of the {left.version}: {end}")

    def is_alive(self, rollout: Rollout) -> bool:
        """Return whether the task of a deployment will go on with it."""
        return self.clock() < rollout.until and self.is_active(rollout.owner)

    def find_unrecorded(self) -> Procedure[Unrecorded | None]:
        """Return a serving that a task has begun to create, and that is not on record yet; None: there is none.

        :raises ServingRefusedError: see `wait`
        """
        for found in ((yield from self.site.find_candidate()), (yield from self.site.find())):
            now = self.clock()
            is_public = found is not None and found.name == self.site.name
            if found is None or (is_public and self.site.record.owns(found, now)):
                continue
            intent = self.site.records.load_intent()
            if intent is None or not intent.explains(found, now):
                if is_public or self.owner is not None:
                    raise self.site.refusal(found)
                continue  # a stranger's serving that happens to have the name of a candidate
            has_lost = self.site.lost_at is not None  # then the intent may be this task's, and the serving another's
            is_left = intent.owner == self.owner and not has_lost
            started = max(intent.since, self.site.lost_at or 0)
            is_alive = not is_left and now < started + LONGEST_CLAIM and self.is_active(intent.owner)
            return Unrecorded(found, intent.owner, not is_alive)
        return None

    def remove(self, unrecorded: Unrecorded) -> Procedure[None]:
        """Remove a serving that was left before it was on record."""
        found = unrecorded.serving
        self.site.log(f"Removing serving {found.name!r}, which {unrecorded.creator} has begun to create and left")
        yield from end_serving(found, self.site.version, timeout=self.site.timeout, clock=self.clock)
