"""Which jobs may run now: what this platform has, what the jobs that run have taken of it, and who waits for what."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.exceptions import ConfigurationError

CORES, MEMORY, PLACES = "cores", "MB of memory", "place to run"


def parse_accelerators(text: str) -> dict[str, int]:
    """Read ``gtx-1080-ti=2,rtx-3090=1``. Raises ConfigurationError when it is something else."""
    found = {}
    for part in text.split(","):
        kind, sign, number = part.strip().partition("=")
        if not (kind and sign and number.isdecimal()):
            raise ConfigurationError(f"{text!r} is not a list of accelerators such as 'gtx-1080-ti=2,rtx-3090=1'.")
        found[kind] = int(number)
    return found


def demand(spec: JobSpec) -> Counter[str]:
    """Give what a job takes while it runs, all replicas together."""
    taken = Counter({PLACES: 1})
    for role in spec.task_roles:
        taken[CORES] += role.cpu_number * role.task_number
        taken[MEMORY] += role.memory_mb * role.task_number
        if role.acc_device is not None:
            taken[role.acc_device.device_type] += role.acc_device.requests * role.task_number
    return taken


class _Waiting(NamedTuple):
    queue: str
    demand: Counter[str]
    turn: asyncio.Future[None]


class Capacity:
    """Lets jobs in, first come first served in each queue. Its methods are called in the event loop.

    A job that does not fit holds up those behind it in its queue, so that it is not overtaken for ever, but not those
    in other queues.

    :param places: so many jobs run at once
    :param accelerators: how many there are of each device type; None: as many as are asked for, of any type
    :param cores: None: as many as are asked for
    :param memory_mb: likewise
    """

    def __init__(
        self,
        places: int,
        *,
        accelerators: Mapping[str, int] | None = None,
        cores: int | None = None,
        memory_mb: int | None = None,
    ) -> None:
        limits = {PLACES: places, CORES: cores, MEMORY: memory_mb}
        self._total = {kind: limit for kind, limit in limits.items() if limit is not None} | dict(accelerators or {})
        self._knows_accelerators = accelerators is not None
        self._taken: dict[Hashable, Counter[str]] = {}
        self._waiting: dict[Hashable, _Waiting] = {}

    def lacks(self, spec: JobSpec) -> str:
        """Tell of what there is too little for a job ever to run, in words; "": it can."""
        return self._lacking(demand(spec), self._total, "there are {}")

    def missing_now(self, spec: JobSpec) -> str:
        """Tell what a job waits for, in words; "": nothing."""
        ahead = sum(waiting.queue == spec.queue for waiting in self._waiting.values())
        behind = f"behind {ahead} in queue {spec.queue!r}" if ahead else ""
        return "; ".join(filter(None, (self._lacking(demand(spec), self._free(), "{} free"), behind)))

    async def enter(self, key: Hashable, spec: JobSpec) -> None:
        """Wait until it is a job's turn, and take what it needs."""
        waiting = _Waiting(spec.queue, demand(spec), asyncio.get_running_loop().create_future())
        self._waiting[key] = waiting
        self._admit()
        try:
            await waiting.turn
        finally:
            self._waiting.pop(key, None)
            self._admit()  # had it been cancelled, somebody behind it may go

    def occupy(self, key: Hashable, spec: JobSpec) -> None:
        """Take what a job needs that already runs, whether it is there or not."""
        self._taken[key] = demand(spec)

    def leave(self, key: Hashable) -> None:
        """Give back what a job has taken, if anything."""
        if self._taken.pop(key, None) is not None:
            self._admit()

    def _admit(self) -> None:
        held_up = set()
        for key, waiting in list(self._waiting.items()):
            if waiting.turn.done() or waiting.queue in held_up:
                continue
            if self._lacking(waiting.demand, self._free(), ""):
                held_up.add(waiting.queue)
            else:
                self._taken[key] = waiting.demand
                waiting.turn.set_result(None)

    def _free(self) -> Mapping[str, int]:
        taken = sum(self._taken.values(), Counter[str]())
        return {kind: total - taken[kind] for kind, total in self._total.items()}

    def _lacking(self, wanted: Counter[str], available: Mapping[str, int], words: str) -> str:
        return "; ".join(
            f"{number} {kind} asked for, {words.format(max(0, available.get(kind, 0)))}"
            for kind, number in wanted.items()
            if (kind in self._total or self._is_unknown_accelerator(kind)) and number > available.get(kind, 0)
        )

    def _is_unknown_accelerator(self, kind: str) -> bool:
        return self._knows_accelerators and kind not in (PLACES, CORES, MEMORY)
