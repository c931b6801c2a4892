"""The records of servings, and how they change. Every change is a pure function: it returns a new record.

All times are milliseconds since the epoch; 0 means not yet. Methods take the current time as `now`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.servings import ServingSpec
from airflow_bitahub.emulator.state.metering import Usage
from airflow_bitahub.emulator.state.records import IllegalTransitionError, ServingKey

SERVING_TRANSITIONS: Mapping[ServingStatus, frozenset[ServingStatus]] = MappingProxyType(
    {
        ServingStatus.WAITING: frozenset({ServingStatus.RUNNING, ServingStatus.STOPPING, ServingStatus.FAILED}),
        ServingStatus.RUNNING: frozenset(
            {ServingStatus.WAITING, ServingStatus.STOPPING, ServingStatus.FAILED}  # WAITING: it restarts
        ),
        ServingStatus.STOPPING: frozenset({ServingStatus.STOPPED}),
        ServingStatus.STOPPED: frozenset({ServingStatus.WAITING}),  # it is started again
        ServingStatus.FAILED: frozenset({ServingStatus.WAITING}),
    }
)


@dataclass(frozen=True)
class Replica:
    """One of the programs that a serving runs in parallel.

    :param number: identifies it; numbers are never used again within a serving
    :param spec: what it runs; during an update not what the serving's own specification says
    :param status: STOPPING: the serving goes on without it, and it is removed once its program has ended
    :param port: the port it was told to listen on; 0 until it was started
    :param is_ready: whether its program listens
    :param message: what it waits for, or why it failed
    :param restarts: how often its program was restarted
    :param exit_code: of its program, when that last ended by itself; None: it has not
    """

    number: int
    spec: ServingSpec
    status: ServingStatus = ServingStatus.WAITING
    port: int = 0
    is_ready: bool = False
    message: str = ""
    restarts: int = 0
    exit_code: int | None = None

    @property
    def can_answer(self) -> bool:
        """Whether its program runs and listens."""
        return self.status is ServingStatus.RUNNING and self.is_ready

    def matches(self, spec: ServingSpec) -> bool:
        """Return whether it runs what a specification says, whatever the number of replicas is there."""
        return self.spec.model_copy(update={"replicas": spec.replicas}) == spec

    @property
    def _preference(self) -> tuple[bool, bool, bool]:
        """Sorts first those that a serving keeps if it has too many."""
        is_running, has_failed = self.status is ServingStatus.RUNNING, self.status is ServingStatus.FAILED
        return (not self.can_answer, not is_running, has_failed)


@dataclass(frozen=True)
class StoredServing:
    """A serving. It is RUNNING while at least one of its replicas is.

    :param token: its access token
    :param made: the number of replicas it has had so far, so also the number of the next one
    :param url: its address; "" until it was opened
    :param usage: what it had used at its last change
    :param task_url: the page of the Airflow task that gave it its specification; "": none
    """

    key: ServingKey
    spec: ServingSpec
    token: str = field(repr=False)
    created: int
    updated: int
    replicas: tuple[Replica, ...] = ()
    made: int = 0
    status: ServingStatus = ServingStatus.WAITING
    url: str = ""
    launched: int = 0
    finished: int = 0
    usage: Usage = field(default_factory=Usage)
    task_url: str = ""

    @classmethod
    def create(cls, key: ServingKey, spec: ServingSpec, token: str, now: int, task_url: str) -> StoredServing:
        """Return the record of a new serving, which waits."""
        return cls(key, spec, token, created=now, updated=now, task_url=task_url)._with_new_replicas(spec.replicas)

    @property
    def running(self) -> list[Replica]:
        """The replicas whose programs run; a program may not listen on its port yet."""
        return [replica for replica in self.replicas if replica.status is ServingStatus.RUNNING]

    @property
    def ending(self) -> list[Replica]:
        """The replicas that it goes on without once their programs have ended."""
        return [replica for replica in self.replicas if replica.status is ServingStatus.STOPPING]

    @property
    def unsettled(self) -> list[Replica]:
        """The replicas that do not simply run what the specification says; [] if it is served as it should be."""
        return [
            one
            for one in self.replicas
            if one.status is not ServingStatus.STOPPED and not (one.can_answer and one.matches(self.spec))
        ]

    @property
    def has_failed(self) -> bool:
        """Whether all replicas have failed."""
        return all(one.status is ServingStatus.FAILED for one in self.replicas) and bool(self.replicas)

    @property
    def can_stop(self) -> bool:
        """Whether it can be asked to stop: it has neither ended nor been asked before."""
        return ServingStatus.STOPPING in SERVING_TRANSITIONS.get(self.status, ())

    def usage_at(self, now: int) -> Usage:
        """Return what it has used until `now`, if it has not changed in between."""
        return self.usage.extended(now, [replica.spec.resource for replica in self.running])

    def change_replica(self, number: int, now: int, **changes: Any) -> StoredServing:
        """Return the serving with one replica changed. A replica that is ending or has been removed is ignored."""
        replicas = tuple(
            replace(one, **changes) if one.number == number and one.status is not ServingStatus.STOPPING else one
            for one in self.replicas
        )
        return replace(self, replicas=replicas)._with_status_of_replicas(now)

    def remove_replica(self, number: int, now: int) -> StoredServing:
        """Return the serving without one of its replicas, whose program has ended."""
        replicas = tuple(one for one in self.replicas if one.number != number)
        return replace(self, replicas=replicas)._with_status_of_replicas(now)

    def update(self, spec: ServingSpec, now: int, *, rolling: bool) -> StoredServing:
        """Return the serving with another specification, and the first step towards it; see `advance`.

        Replicas that failed are given up, so an update with the same specification tries again. A serving that has
        ended or is ending is not started.
        """
        if not self.can_stop:
            return replace(self, spec=spec, updated=now, replicas=())
        replicas = tuple(one for one in self.replicas if one.status is not ServingStatus.FAILED)
        if (spec, replicas) == (self.spec, self.replicas):
            return self
        return replace(self, spec=spec, updated=now, replicas=replicas).advance(now, rolling=rolling)

    def advance(self, now: int, *, rolling: bool) -> StoredServing:
        """Return the serving one step closer to what its specification says; itself if there is nothing to do.

        Replicas that run what it says stay, as many as it says.

        :param rolling: replicas that run something else end one after the other, each when a new one listens, and one
            more than specified may run meanwhile. Otherwise they all end first, and the new ones are to wait for that
        """
        number = self.spec.replicas
        staying = sorted(self.replicas, key=lambda one: one._preference)
        staying = [one for one in staying if one.status is not ServingStatus.STOPPING]
        new = [one for one in staying if one.matches(self.spec)][:number]
        old = [one for one in staying if not one.matches(self.spec) and one.status is not ServingStatus.FAILED]
        old = old[: number - sum(one.can_answer for one in new)] if rolling else []
        kept = {one.number for one in new + old}
        replicas = [
            one
            if one.number in kept or one.status is ServingStatus.STOPPING
            else replace(one, status=ServingStatus.STOPPING, message="")
            for one in self.replicas
            if one.number in kept or one.status is not ServingStatus.FAILED
        ]
        room = number + 1 - len(old) if old else number
        advanced = replace(self, replicas=tuple(replicas))._with_new_replicas(room - len(new))
        return self if advanced.replicas == self.replicas else advanced._with_status_of_replicas(now)

    def start(self, now: int) -> StoredServing:
        """Return the serving, which had ended, waiting to run again."""
        started = replace(self, replicas=(), finished=0)._with_new_replicas(self.spec.replicas)
        return started._change_status(ServingStatus.WAITING, now)

    def stop(self, now: int) -> StoredServing:
        """Return the serving stopping."""
        return self._change_status(ServingStatus.STOPPING, now)

    def finish(self, message: str, now: int) -> StoredServing:
        """Return the serving ended: STOPPED if it was asked to stop, otherwise FAILED.

        :param message: why the replicas failed that have not ended yet
        """
        if self.status is ServingStatus.STOPPING:
            ended = [replace(one, status=ServingStatus.STOPPED, message="") for one in self.replicas]
            return self._change_status(ServingStatus.STOPPED, now, finished=now, replicas=tuple(ended))
        ended = [
            one if one.status.is_terminal else replace(one, status=ServingStatus.FAILED, message=message)
            for one in self.replicas
        ]
        return self._change_status(ServingStatus.FAILED, now, finished=now, replicas=tuple(ended))

    def _with_new_replicas(self, number: int) -> StoredServing:
        made = self.made + max(0, number)
        new = tuple(Replica(one, self.spec) for one in range(self.made, made))
        return replace(self, replicas=self.replicas + new, made=made)

    def _with_status_of_replicas(self, now: int) -> StoredServing:
        """Return the serving with the status that follows from its replicas, unless it is stopping or has ended."""
        if self.status is ServingStatus.WAITING and self.running:
            # The platform floors this one time to the second, so it may be earlier than the creation.
            return self._change_status(ServingStatus.RUNNING, now, launched=now // 1000 * 1000)
        is_waiting = not self.running and any(one.status is ServingStatus.WAITING for one in self.replicas)
        if self.status is ServingStatus.RUNNING and is_waiting:
            return self._change_status(ServingStatus.WAITING, now)
        return self

    def _change_status(self, status: ServingStatus, now: int, **changes: Any) -> StoredServing:
        if status not in SERVING_TRANSITIONS.get(self.status, ()):
            raise IllegalTransitionError(f"{self.key} cannot go from {self.status} to {status}")
        return replace(self, status=status, updated=now, **changes)
