"""Young jobs are queried more often, by name while they are few; a crowd of them costs no more than old jobs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from airflow_bitahub.triggers.watch.schedule import EARLY_RATE
from tests.triggers.watch.stage import Deferred, Platform, names_of, now, simulate, trigger


@pytest.mark.parametrize("length", [1.2, 5, 60, 300])
def test_an_end_is_noticed_after_a_tenth_of_the_jobs_length(platform: Platform, length: float) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(200), "RUNNING") | {"young": "RUNNING"}
        platform.started = {"young": 0}
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(length)
            platform.jobs["young"] = "SUCCEEDED"
            await deferred.tasks[-1]
            assert now() - length <= min(max(0.5, length / 10), 10) + 0.3
        assert set(platform.by_name) == {"young"}

    simulate(main())


def test_young_jobs_do_not_make_the_list_be_asked_for_at_their_pace(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(200), "RUNNING")
        platform.started = dict.fromkeys(names_of(20), 0.0)
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(61)
        assert 6 <= len(platform.lists) <= 8
        assert set(platform.by_name) == set(platform.started)

    simulate(main())


@pytest.mark.parametrize(("mode", "budget"), [("auto", 1000), ("single", 1000), ("auto", 10)])
def test_a_crowd_of_young_jobs_is_not_queried_at_its_own_pace(
    platform: Platform, connect: Callable[..., None], mode: str, budget: int
) -> None:
    connect(watch=mode, max_requests_per_second=budget)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(400), "RUNNING")
        platform.started = dict.fromkeys(platform.jobs, 0.0)
        async with Deferred(*(trigger(name, 20) for name in platform.jobs)):
            await asyncio.sleep(90)
        per_second = Counter(int(at) for at, _ in platform.asked if at > 25)
        each = 400 / 20 if mode == "single" else 0
        assert sum(per_second.values()) / 65 <= min(EARLY_RATE, budget / 2) + each + 1
        if mode == "single":
            assert all(later - before < 22 for before, later in pairwise(asked(platform, "job-300")))

    simulate(main())


def asked(platform: Platform, name: str) -> list[float]:
    return [at for at, path in platform.asked if path.endswith(f"/{name}")]
