"""The list of jobs is used where it is the cheapest way; what it says about an end is checked by name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.triggers.watch.watcher import PAGE
from tests.triggers.watch.stage import JOBS, Deferred, Platform, event_of, names_of, now, simulate, trigger


def test_one_list_per_interval_answers_for_all_jobs(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(200), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(61)
        assert 6 <= len(platform.lists) <= 8  # the first interval is a random part of one
        assert platform.by_name == []

    simulate(main())


def test_finished_job_is_reported_as_its_own_record_shows_it(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(50), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            events = await deferred.events()
            assert now() < 60 + 10 + 0.5
        assert sorted(platform.by_name) == sorted(names_of(50))
        assert [event["outcome"] for event in events] == ["finished"] * 50
        assert [Job.model_validate(event["job"]).exit_code for event in events] == [0] * 50

    simulate(main())


def test_end_that_only_the_list_reports_is_not_believed(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(50), "RUNNING")
        entry = {"jobName": "job-7", "state": "FAILED"}
        platform.meet = lambda asked: platform.envelope({"items": [entry]}) if asked.url.path == JOBS else None
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            assert not any(task.done() for task in deferred.tasks)

    simulate(main())


def test_job_that_is_not_on_the_list_is_queried_by_name(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(50), "RUNNING")
        own = [*platform.jobs]

        def hide(asked: httpx.Request) -> httpx.Response | None:
            if asked.url.path != JOBS:
                return None
            return platform.envelope({"items": [platform.entry(name) for name in own[1:]]})

        platform.meet = hide
        async with Deferred(*map(trigger, own)) as deferred:
            await asyncio.sleep(60)
            assert set(platform.by_name) == {"job-0"}
            assert not any(task.done() for task in deferred.tasks)
            del platform.jobs["job-0"]
            await asyncio.sleep(60)
            assert (await deferred.tasks[0])["outcome"] == "lost"

    simulate(main())


def test_pages_are_read_until_all_jobs_are_found(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(2 * PAGE + 10), "RUNNING") | {"older": "SUCCEEDED"}
        async with Deferred(*map(trigger, names_of(2 * PAGE + 10))):
            await asyncio.sleep(5)
        assert len(platform.lists) == 3
        assert platform.by_name == []

    simulate(main())


def test_new_jobs_add_no_page_to_a_list_that_is_being_read(platform: Platform) -> None:
    async def main() -> None:
        platform.latency = 1
        platform.jobs = dict.fromkeys(names_of(2 * PAGE + 10), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(1.5)  # the first of three pages has been read
            newcomers = [f"new-{number}" for number in range(200)]
            platform.jobs = dict.fromkeys(newcomers, "RUNNING") | platform.jobs
            async with Deferred(*map(trigger, newcomers)):
                await asyncio.sleep(8)
        assert len(platform.lists) == 3 + 3  # and three for the new jobs
        assert platform.by_name == []

    simulate(main())


def test_list_without_pages_is_read_once(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(PAGE), "RUNNING")
        everybody = platform.envelope({"items": [platform.entry(name) for name in platform.jobs]}).content
        platform.meet = lambda asked: httpx.Response(200, content=everybody) if asked.url.path == JOBS else None
        hidden = [f"hidden-{number}" for number in range(PAGE)]
        platform.jobs |= dict.fromkeys(hidden, "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(2)
        assert len(platform.lists) == 2  # the second page was the same as the first
        assert sorted(platform.by_name) == sorted(hidden)

    simulate(main())


def test_job_that_only_a_later_page_shows_readably_is_queried_by_name(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(2 * PAGE), "RUNNING")

        def spoil(asked: httpx.Request) -> httpx.Response | None:
            if asked.url.path != JOBS or asked.url.params["page"] != "1":
                return None
            entries = [platform.entry(name) for name in names_of(PAGE - 1)]
            return platform.envelope({"items": [*entries, {"jobName": f"job-{2 * PAGE - 1}"}]})

        platform.meet = spoil
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(45)
        assert len(platform.lists) <= 2 * 6  # two pages per interval
        assert set(platform.by_name) == {f"job-{PAGE - 1}", f"job-{2 * PAGE - 1}"}

    simulate(main())


def test_list_full_of_other_jobs_is_not_used(platform: Platform) -> None:
    async def main() -> None:
        others = dict.fromkeys((f"other-{number}" for number in range(20_000)), "RUNNING")
        platform.jobs = others | dict.fromkeys(names_of(5), "RUNNING")
        async with Deferred(*map(trigger, names_of(5))):
            await asyncio.sleep(300)
        assert len(platform.lists) == 1
        assert len(platform.by_name) >= 5 * 29

    simulate(main())


def test_single_new_job_is_queried_immediately_and_by_name(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(100), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(60)
            platform.forget()
            platform.jobs["late"] = "SUCCEEDED"
            assert (await event_of(trigger("late")))["outcome"] == "finished"
            assert now() < 60.5
            assert (platform.lists, platform.by_name) == ([], ["late"])

    simulate(main())


@pytest.mark.parametrize(
    "refusal",
    [
        httpx.Response(404, text="there is no such address"),
        httpx.Response(403, json={"kind": "Status", "reason": "Forbidden", "code": 403}),
        httpx.Response(200, json={"status": {"code": 0, "msg": "success"}, "data": "nothing"}),
        httpx.Response(200, text='{"status": {"co'),
    ],
    ids=["no such address", "forbidden", "no list", "cut off"],
)
def test_platform_without_a_list_is_queried_by_name(refusal: httpx.Response, platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        body, status, kind = refusal.content, refusal.status_code, refusal.headers["content-type"]
        platform.meet = lambda asked: (
            httpx.Response(status, content=body, headers={"content-type": kind}) if asked.url.path == JOBS else None
        )
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(100)
            assert Counter(platform.by_name).keys() == platform.jobs.keys()
            assert min(Counter(platform.by_name).values()) >= 10
            assert len(platform.lists) <= 4  # the list is tried again after ever longer pauses
            platform.meet = lambda _: None
            await asyncio.sleep(300)
            platform.forget()
            await asyncio.sleep(100)
            assert len(platform.lists) >= 10
            assert platform.by_name == []
            assert not any(task.done() for task in deferred.tasks)

    simulate(main())


@pytest.mark.parametrize("watch", ["single", "collection"])
def test_connection_sets_how_jobs_are_queried(watch: str, platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch=watch)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(2), "RUNNING") | dict.fromkeys(map(str, range(200)), "FAILED")
        async with Deferred(*map(trigger, names_of(2))):
            await asyncio.sleep(30)
        assert bool(platform.lists) is (watch == "collection")
        assert bool(platform.by_name) is (watch == "single")
        assert len(platform.lists) <= 5  # one per interval

    simulate(main())
