"""Each waiting task has a procedure of its own, and none disturbs another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from tests.triggers.watch.stage import EPOCH, TASK, Deferred, Platform, event_of, names_of, now, simulate, trigger


def test_two_tasks_may_wait_for_the_same_job(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs), trigger("job-7"), trigger("job-7")) as deferred:
            await asyncio.sleep(30)
            deferred.tasks[20].cancel()
            await asyncio.sleep(30)
            platform.jobs["job-7"] = "SUCCEEDED"
            for number in (7, 21):
                assert (await deferred.tasks[number])["outcome"] == "finished"
            assert sum(task.done() for task in deferred.tasks) == 3

    simulate(main())


def test_event_waits_until_airflow_has_recorded_the_deferral(platform: Platform) -> None:
    async def reported_at(name: str) -> float:
        waiting = trigger(name, earliest_report=EPOCH + 7)
        waiting.task_instance = TASK
        assert (await event_of(waiting))["outcome"] == "finished"
        return now()

    async def main() -> None:
        platform.jobs = {"short": "SUCCEEDED", "long": "RUNNING"}
        short, long = asyncio.create_task(reported_at("short")), asyncio.create_task(reported_at("long"))
        await asyncio.sleep(60)
        platform.jobs["long"] = "SUCCEEDED"
        assert await short == pytest.approx(7)
        assert await long < 60 + 10 + 0.5

    simulate(main())


def test_deadline_and_unreachable_timeout_hold_on_a_silent_platform(
    platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch="single")

    def refuse(asked: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("silence", request=asked)

    async def main() -> None:
        platform.meet, platform.latency = refuse, 30
        patient = [trigger(name) for name in names_of(500)]
        hurried = [trigger(f"hurried-{number}", deadline=EPOCH + 300) for number in range(500)]
        async with Deferred(*patient, *hurried) as deferred:
            await asyncio.sleep(300 + 70)
            assert {(await task)["outcome"] for task in deferred.tasks[500:]} == {"timeout"}
            assert {event["outcome"] for event in await deferred.events()} == {"error", "timeout"}
            assert 900 <= now() < 900 + 100

    simulate(main())


def test_waiter_that_fails_does_not_disturb_the_others(platform: Platform, connect: Callable[..., None]) -> None:
    """Neither does a job that cannot be queried, although each attempt takes long."""
    connect(watch="single")

    def poisoned(asked: httpx.Request) -> httpx.Response | None:
        if asked.url.path.endswith("poison"):
            raise httpx.ReadTimeout("silence", request=asked)
        return httpx.Response(200, json={"data": None}) if asked.url.path.endswith("nonsense") else None

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        platform.meet = poisoned
        async with Deferred(trigger("poison"), trigger("nonsense"), *map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            deferred.tasks[2].cancel()
            await asyncio.sleep(1000)
            assert (await deferred.tasks[0])["outcome"] == "error"
            assert not any(task.done() for task in deferred.tasks[3:])
            asked = Counter(platform.by_name)
            assert min(asked[name] for name in names_of(20)[1:]) > 100
            assert asked["job-0"] < 10

    simulate(main())
