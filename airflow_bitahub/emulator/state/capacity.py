"""Decides which jobs may run now: what the emulator has, what running jobs use of it, and what waiting jobs need."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.exceptions import ConfigurationError

CORES, MEMORY, SLOTS = "cores", "MB of memory", "job slot"  # these words appear in messages


def parse_accelerators(text: str) -> dict[str, int]:
    """Return the number of devices per type from text such as ``gtx-1080-ti=2,rtx-3090=1``.

    :raises ConfigurationError: the text has another form
    """
    found = {}
    for part in text.split(","):
        kind, sign, number = part.strip().partition("=")
        if not (kind and sign and number.isdecimal()):
            raise ConfigurationError(f"{text!r} is not a list of accelerators such as 'gtx-1080-ti=2,rtx-3090=1'.")
        found[kind] = int(number)
    return found


def demand(spec: JobSpec) -> Counter[str]:
    """Return what a job uses while it runs, all replicas together."""
    needed = Counter({SLOTS: 1})
    for role in spec.task_roles:
        needed[CORES] += role.cpu * role.task_number
        needed[MEMORY] += role.memory_mb * role.task_number
        if role.acc_device is not None:
            needed[role.acc_device.device_type] += role.acc_device.requests * role.task_number
    return needed


class Resource(NamedTuple):
    """How much there is of a resource, and how much of it running jobs use; `total` is None where it is unlimited."""

    kind: str
    used: int
    total: int | None


class Overview(NamedTuple):
    """What is used at one moment, the keys of running jobs, and those of waiting jobs by queue, first come first."""

    resources: list[Resource]
    running: list[Hashable]
    queues: dict[str, list[Hashable]]


class _WaitingJob(NamedTuple):
    queue: str
    demand: Counter[str]
    admitted: asyncio.Future[None]


class Capacity:
    """Admits jobs, first come first served in each queue. Its methods must be called in the event loop.

    A job that does not fit holds up the jobs behind it in its queue, otherwise small jobs could overtake it for ever.
    It does not hold up other queues.

    :param slots: how many jobs may run at once
    :param accelerators: number of devices per type; None: unlimited, of any type
    :param cores: None: unlimited
    :param memory_mb: None: unlimited
    """

    def __init__(
        self,
        slots: int,
        *,
        accelerators: Mapping[str, int] | None = None,
        cores: int | None = None,
        memory_mb: int | None = None,
    ) -> None:
        limits = {SLOTS: slots, CORES: cores, MEMORY: memory_mb}
        self._total = {kind: limit for kind, limit in limits.items() if limit is not None} | dict(accelerators or {})
        self._limits_accelerators = accelerators is not None
        self._used: dict[Hashable, Counter[str]] = {}
        self._waiting: dict[Hashable, _WaitingJob] = {}

    def shortage(self, spec: JobSpec) -> str:
        """Return why a job can never run, in words for the user; "" if it can."""
        return self._compare(demand(spec), self._total, "{} in total")

    def current_shortage(self, spec: JobSpec) -> str:
        """Return why a job has to wait now, in words for the user; "" if it need not."""
        ahead = sum(waiting.queue == spec.queue for waiting in self._waiting.values())
        behind = f"behind {ahead} in queue {spec.queue!r}" if ahead else ""
        return "; ".join(filter(None, (self._compare(demand(spec), self._free(), "{} free"), behind)))

    def overview(self) -> Overview:
        """Return what is used now, and which jobs run and wait."""
        used = sum(self._used.values(), Counter[str]())
        kinds = dict.fromkeys((SLOTS, CORES, MEMORY, *self._total, *used))
        queues: dict[str, list[Hashable]] = {}
        for key, waiting in self._waiting.items():
            if not waiting.admitted.done():
                queues.setdefault(waiting.queue, []).append(key)
        resources = [Resource(kind, used[kind], self._total.get(kind)) for kind in kinds]
        return Overview(resources, list(self._used), queues)

    async def acquire(self, key: Hashable, spec: JobSpec) -> None:
        """Wait until a job may run, and reserve what it needs."""
        waiting = _WaitingJob(spec.queue, demand(spec), asyncio.get_running_loop().create_future())
        self._waiting[key] = waiting
        self._admit()
        try:
            await waiting.admitted
        finally:
            self._waiting.pop(key, None)
            self._admit()  # if this wait was cancelled, the next job of the queue may run now

    def occupy(self, key: Hashable, spec: JobSpec) -> None:
        """Reserve what a job needs that runs already, even if that is more than is free."""
        self._used[key] = demand(spec)

    def release(self, key: Hashable) -> None:
        """Free what is reserved for a job, if anything."""
        if self._used.pop(key, None) is not None:
            self._admit()

    def _admit(self) -> None:
        blocked_queues = set()
        for key, waiting in list(self._waiting.items()):
            if waiting.admitted.done() or waiting.queue in blocked_queues:
                continue
            if self._compare(waiting.demand, self._free(), ""):
                blocked_queues.add(waiting.queue)
            else:
                self._used[key] = waiting.demand
                waiting.admitted.set_result(None)

    def _free(self) -> Mapping[str, int]:
        used = sum(self._used.values(), Counter[str]())
        return {kind: total - used[kind] for kind, total in self._total.items()}

    def _compare(self, needed: Counter[str], available: Mapping[str, int], template: str) -> str:
        return "; ".join(
            f"{number} {kind} requested, {template.format(max(0, available.get(kind, 0)))}"
            for kind, number in needed.items()
            if (kind in self._total or self._is_unknown_accelerator(kind)) and number > available.get(kind, 0)
        )

    def _is_unknown_accelerator(self, kind: str) -> bool:
        return self._limits_accelerators and kind not in (SLOTS, CORES, MEMORY)
