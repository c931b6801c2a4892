"""What to deploy, and how; and how a deployment ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from airflow_bitahub.api.protocol import Procedure
from airflow_bitahub.api.servings import Serving, ServingSpec
from airflow_bitahub.procedures.checks import AnswerCheck, SampleCheck
from airflow_bitahub.procedures.deployments import Owner, Version
from airflow_bitahub.procedures.servings import wait_for_serving

Strategy = Literal["candidate", "in_place", "recreate"]


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
    :param withdraws: this goes back to an older version, so that the version that serves now counts as bad
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
    withdraws: bool = False


@dataclass(frozen=True)
class Waiting:
    """A wait for a serving, see `wait_for_serving`."""

    name: str
    created_at: float | None
    deadline: float
    pending_deadline: float | None = None
    until: float | None = None
    is_update: bool = False
    unseen_until: float | None = None


@dataclass(frozen=True)
class Deployed:
    """The end of a deployment.

    :param previous: the version that served before; None: there was none, or it is the same
    :param away_seconds: for how long no version answered at the public name
    """

    serving: Serving
    previous: Version | None = None
    away_seconds: float = 0.0


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
        unseen_until=waiting.unseen_until,
        is_known=True,
        clock=clock,
    )
