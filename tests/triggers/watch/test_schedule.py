"""Every job is queried once per interval, and the queries of many jobs are spread evenly."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import httpx
import pytest

from airflow_bitahub.triggers.watch import schedule
from airflow_bitahub.triggers.watch.watcher import CONNECTIONS
from tests.triggers.watch.stage import EPOCH, JOBS, Deferred, Platform, event_of, names_of, now, simulate, trigger


@pytest.mark.long
def test_jobs_answered_by_one_list_are_spread_when_the_list_fails(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(400), "RUNNING")
        async with Deferred(*(trigger(name, 20) for name in platform.jobs)):
            await asyncio.sleep(120)
            platform.meet = lambda asked: httpx.Response(404) if asked.url.path == JOBS else None
            await asyncio.sleep(60)
            platform.forget()
            await asyncio.sleep(40)
        per_second = Counter(int(at) for at, _ in platform.asked)
        assert max(per_second.values()) < 3 * (400 / 20)

    simulate(main())


def test_every_job_is_queried_once_per_interval(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="single")

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(100), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(10)
            platform.forget()
            await asyncio.sleep(100)
        assert set(Counter(platform.by_name).values()) <= {9, 10, 11}

    simulate(main())


def test_each_job_has_its_own_interval(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="single")

    async def main() -> None:
        platform.jobs = {"hasty": "RUNNING", "calm": "RUNNING"}
        async with Deferred(trigger("hasty", 1), trigger("calm", 60)):
            await asyncio.sleep(600)
        asked = Counter(platform.by_name)
        assert 598 <= asked["hasty"] <= 602
        assert 10 <= asked["calm"] <= 12

    simulate(main())


@pytest.mark.long
def test_restart_with_a_thousand_jobs_makes_no_burst(
    platform: Platform, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither at the start nor once per interval."""
    connect(watch="single", max_requests_per_second=200)
    monkeypatch.setattr("random.random", random.Random(1).random)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(1000), "RUNNING")
        async with Deferred(*(trigger(name, 20) for name in platform.jobs)):
            await asyncio.sleep(80)
        assert platform.peak <= CONNECTIONS
        assert {path for at, path in platform.asked if at < 20 + 2} >= {f"{JOBS}/{name}" for name in platform.jobs}
        per_second = Counter(int(at) for at, _ in platform.asked)
        assert max(per_second.values()) <= 200 * 1.06
        later = [per_second[second] for second in range(45, 80)]
        assert max(later) < 1.7 * (1000 / 20)

    simulate(main())


def test_long_job_is_queried_less_often_where_the_connection_says_so(
    platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch="single", longest_poll_interval=120)

    async def main() -> None:
        platform.jobs, platform.started = {"long": "RUNNING"}, {"long": 0}
        event = await event_of(trigger("long", deadline=EPOCH + 7000))
        assert (event["outcome"], round(now())) == ("timeout", 7000)
        asked = [at for at, _ in platform.asked]
        pauses = [after - before for before, after in pairwise(asked)]
        assert max(pauses[:15]) < 11
        assert 115 < max(pauses) < 121

    simulate(main())


def test_queries_due_within_a_tick_go_out_together(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="single")

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(500), "RUNNING")
        platform.latency = 0.001
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(20)
            platform.forget()
            await asyncio.sleep(10)
        assert 450 <= len(platform.asked) <= 550
        moments = {int(at / schedule.TICK) for at, _ in platform.asked}
        assert 150 <= len(moments) <= 10 / schedule.TICK + 1

    simulate(main())


def test_failed_query_is_repeated_before_it_counts(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = {"job": "RUNNING"}
        failures = iter([503, 502])
        platform.meet = lambda _: httpx.Response(status) if (status := next(failures, 0)) else None
        async with Deferred(trigger("job", 1000)):
            await asyncio.sleep(3)
        assert [at for at, _ in platform.asked] == pytest.approx([0, 0.5, 1.5], abs=3 * schedule.TICK)

    simulate(main())


@pytest.mark.usefixtures("platform")
def test_infinite_interval_is_an_error() -> None:
    event = simulate(event_of(trigger("unknown", math.inf)))  # after a failed query, the pause is the interval
    assert event["outcome"] == "error"
    assert "infinity" in event["message"]
