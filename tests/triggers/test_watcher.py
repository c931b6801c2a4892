"""One watcher asks the platform for all triggers of an event loop, as seldom, as evenly and as patiently as it can.

Where time matters, it passes at once: on an event loop whose clock jumps to whatever happens next, with a platform
behind the HTTP library that takes as long as it is told to, by that clock.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import random
import selectors
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count, pairwise
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import Job, JobSpec, TaskRole, submit_job
from airflow_bitahub.api.procedures import PATIENCE, wait_for_job, wait_for_serving
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match, Records
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.triggers import lists, subscription, watcher
from airflow_bitahub.triggers.base import HANDOVER
from airflow_bitahub.triggers.job import BitaHubJobTrigger
from airflow_bitahub.triggers.watcher import CONNECTIONS, PAGE
from tests.conftest import IMAGE

_numbers = count(1)

T = TypeVar("T")
JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"
SECRET = "s3cret-token"
EPOCH = 1_700_000_000.0  # the loop's second 0
TASK: Any = SimpleNamespace(dag_id="tests", task_id="task", run_id="run", map_index=-1)
ROUNDS = 8  # of 500 subscriptions; a leak of one object each would show after the first


# An event loop on which no time is lost -----------------------------------------------------------------------------


class Jumping(selectors.DefaultSelector):
    """Waits for nothing but for threads: where the loop would wait, its clock is put forward instead."""

    now = 0.0
    threads = 0  # at work

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(None if self.threads and timeout else timeout and 0)
        if not events and timeout:
            self.now += timeout
        return events


class NoTime(asyncio.SelectorEventLoop):
    """An event loop that begins at its second 0 and loses no time."""

    def __init__(self) -> None:
        self.selector = Jumping()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    def run_in_executor(self, *arguments: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(*arguments)
        self.selector.threads += 1
        future.add_done_callback(self._one_less)
        return future

    def _one_less(self, _: object) -> None:
        self.selector.threads -= 1


def in_no_time(work: Coroutine[Any, Any, T]) -> T:
    """Run something on such a loop, and see to it that nothing of it is left."""
    loop = NoTime()
    try:
        result = loop.run_until_complete(work)
        assert not asyncio.all_tasks(loop)
        assert not subscription._watchers.get(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        return result
    finally:
        loop.close()


def now() -> float:
    return asyncio.get_running_loop().time()


# A platform that takes no time ------------------------------------------------------------------------------------


@dataclass
class Platform:
    """What answers in the platform's stead, and what it was asked.

    :param jobs: name -> the word for its state
    :param latency: seconds
    :param meet: gives an answer in its stead, or raises; None: the platform's own
    """

    jobs: dict[str, str] = field(default_factory=dict)
    latency: float = 0.02
    meet: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
    asked: list[tuple[float, str]] = field(default_factory=list)  # when, and the path
    tokens: list[str] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0

    async def answer(self, _: Any, request: httpx.Request) -> httpx.Response:
        self.asked.append((now(), request.url.path))
        self.tokens.append(request.headers.get("authorization", "").removeprefix("Bearer "))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            return self.meet(request) or self.say(request)
        finally:
            self.in_flight -= 1

    def say(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.removeprefix(JOBS).lstrip("/")
        if name:
            known = name in self.jobs
            data = self.entry(name) if known else None
            return self.envelope(data, 0 if known else 404, 200 if known else 404)
        page, limit = int(request.url.params["page"]), int(request.url.params["limit"])
        names = list(self.jobs)[(page - 1) * limit : page * limit]
        return self.envelope({"items": [self.entry(name) for name in names], "totalItems": len(self.jobs)})

    def entry(self, name: str) -> dict[str, Any]:
        word = self.jobs[name]
        return {"jobName": name, "state": word, "exitCode": 0 if word == "SUCCEEDED" else None}

    @staticmethod
    def envelope(data: Any, code: int = 0, status: int = 200, **headers: str) -> httpx.Response:
        said = {"status": {"code": code, "msg": "says the platform"}, "data": data}
        return httpx.Response(status, json=said, headers=headers)

    @property
    def lists(self) -> list[float]:
        return [at for at, path in self.asked if path == JOBS]

    @property
    def by_name(self) -> list[str]:
        return [path.removeprefix(JOBS + "/") for _, path in self.asked if path != JOBS]

    def forget(self) -> None:
        self.asked.clear()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the connection `bitahub_default` says from now on, given its extra."""

    def connect(host: str = "http://platform", password: str = SECRET, **extra: Any) -> None:
        connection = {"conn_type": "bitahub", "host": host, "password": password, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))

    connect()
    return connect


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, connect: Callable[..., None]) -> Platform:  # noqa: ARG001
    platform = Platform()

    async def answer(transport: Any, request: httpx.Request) -> httpx.Response:
        return await platform.answer(transport, request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    monkeypatch.setattr("airflow_bitahub.client.find_spec", lambda _: None)  # it goes by httpx alone
    for procedure in (wait_for_job, wait_for_serving):
        defaults: dict[str, Any] = procedure.__kwdefaults__ or {}
        monkeypatch.setitem(defaults, "clock", lambda: EPOCH + now())
    return platform


def trigger(name: str, poll_interval: float = 10, **arguments: Any) -> BitaHubJobTrigger:
    return BitaHubJobTrigger("bitahub_default", name, poll_interval, **arguments)


async def event_of(trigger: Any) -> dict[str, Any]:
    [event] = [event.payload async for event in trigger.run()]
    return dict(event)


def names_of(count: int) -> list[str]:
    return [f"job-{number}" for number in range(count)]


class Deferred:
    """So many triggers at work on one loop."""

    def __init__(self, *triggers: Any) -> None:
        self.tasks = [asyncio.create_task(event_of(trigger)) for trigger in triggers]

    async def __aenter__(self) -> Deferred:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def events(self) -> list[dict[str, Any]]:
        return await asyncio.gather(*self.tasks)


# Collection ---------------------------------------------------------------------------------------------------------


def test_one_list_per_interval_answers_for_everybody(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(200), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(61)
        assert 6 <= len(platform.lists) <= 8  # the first of them sooner, so that they are out of step with others
        assert platform.by_name == []

    in_no_time(main())


def test_end_is_reported_with_what_the_job_itself_tells(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(50), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            events = await deferred.events()
            assert now() < 60 + 10 + 0.5
        assert sorted(platform.by_name) == sorted(names_of(50))
        assert [event["outcome"] for event in events] == ["over"] * 50
        assert [Job.model_validate(event["job"]).exit_code for event in events] == [0] * 50

    in_no_time(main())


def test_end_that_only_the_list_tells_is_not_believed(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(50), "RUNNING")
        entry = {"jobName": "job-7", "state": "FAILED"}
        platform.meet = lambda asked: platform.envelope({"items": [entry]}) if asked.url.path == JOBS else None
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            assert not any(task.done() for task in deferred.tasks)

    in_no_time(main())


def test_job_that_is_not_on_the_list_is_asked_for_by_name(platform: Platform) -> None:
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

    in_no_time(main())


def test_pages_are_turned_until_everybody_is_found(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(2 * PAGE + 10), "RUNNING") | {"older": "SUCCEEDED"}
        async with Deferred(*map(trigger, names_of(2 * PAGE + 10))):
            await asyncio.sleep(5)
        assert len(platform.lists) == 3
        assert platform.by_name == []

    in_no_time(main())


def test_those_who_come_while_the_list_is_read_cost_it_no_page(platform: Platform) -> None:
    async def main() -> None:
        platform.latency = 1
        platform.jobs = dict.fromkeys(names_of(2 * PAGE + 10), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(1.5)  # the first of three pages has been read
            newcomers = [f"new-{number}" for number in range(200)]
            platform.jobs = dict.fromkeys(newcomers, "RUNNING") | platform.jobs
            async with Deferred(*map(trigger, newcomers)):
                await asyncio.sleep(8)
        assert len(platform.lists) == 3 + 3  # and three for them
        assert platform.by_name == []

    in_no_time(main())


def test_two_tasks_may_wait_for_the_same_job(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs), trigger("job-7"), trigger("job-7")) as deferred:
            await asyncio.sleep(30)
            deferred.tasks[20].cancel()
            await asyncio.sleep(30)
            platform.jobs["job-7"] = "SUCCEEDED"
            for number in (7, 21):
                assert (await deferred.tasks[number])["outcome"] == "over"
            assert sum(task.done() for task in deferred.tasks) == 3

    in_no_time(main())


def test_list_that_knows_no_pages_is_asked_for_once(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(PAGE), "RUNNING")
        everybody = platform.envelope({"items": [platform.entry(name) for name in platform.jobs]}).content
        platform.meet = lambda asked: httpx.Response(200, content=everybody) if asked.url.path == JOBS else None
        hidden = [f"hidden-{number}" for number in range(PAGE)]
        platform.jobs |= dict.fromkeys(hidden, "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(2)
        assert len(platform.lists) == 2  # the second was the first once more
        assert sorted(platform.by_name) == sorted(hidden)

    in_no_time(main())


def test_list_full_of_others_is_not_worth_its_bytes(platform: Platform) -> None:
    async def main() -> None:
        others = dict.fromkeys((f"other-{number}" for number in range(20_000)), "RUNNING")
        platform.jobs = others | dict.fromkeys(names_of(5), "RUNNING")
        async with Deferred(*map(trigger, names_of(5))):
            await asyncio.sleep(300)
        assert len(platform.lists) == 1
        assert len(platform.by_name) >= 5 * 29

    in_no_time(main())


def test_newcomer_is_asked_for_at_once_and_alone(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(100), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(60)
            platform.forget()
            platform.jobs["late"] = "SUCCEEDED"
            assert (await event_of(trigger("late")))["outcome"] == "over"
            assert now() < 60.5
            assert (platform.lists, platform.by_name) == ([], ["late"])

    in_no_time(main())


def test_report_waits_until_airflow_has_noted_that_the_task_was_deferred(platform: Platform) -> None:
    async def reported_at(name: str) -> float:
        waiting = trigger(name)
        waiting.task_instance = TASK
        assert (await event_of(waiting))["outcome"] == "over"
        return now()

    async def main() -> None:
        platform.jobs = {"short": "SUCCEEDED", "long": "RUNNING"}
        short, long = asyncio.create_task(reported_at("short")), asyncio.create_task(reported_at("long"))
        await asyncio.sleep(60)
        platform.jobs["long"] = "SUCCEEDED"
        assert await short == pytest.approx(HANDOVER)
        assert await long < 60 + 10 + 0.5

    in_no_time(main())


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
def test_platform_without_a_list_is_asked_by_name(refusal: httpx.Response, platform: Platform) -> None:
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
            assert len(platform.lists) <= 4  # tried again from time to time, ever more seldom
            platform.meet = lambda _: None
            await asyncio.sleep(300)
            platform.forget()
            await asyncio.sleep(100)
            assert len(platform.lists) >= 10
            assert platform.by_name == []
            assert not any(task.done() for task in deferred.tasks)

    in_no_time(main())


def test_those_who_heard_from_one_list_do_not_stay_in_step_without_it(platform: Platform) -> None:
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

    in_no_time(main())


@pytest.mark.parametrize("watch", ["single", "collection"])
def test_connection_may_say_how_to_ask(watch: str, platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch=watch)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(2), "RUNNING") | dict.fromkeys(map(str, range(200)), "FAILED")
        async with Deferred(*map(trigger, names_of(2))):
            await asyncio.sleep(30)
        assert bool(platform.lists) is (watch == "collection")
        assert bool(platform.by_name) is (watch == "single")
        assert len(platform.lists) <= 5  # one per interval

    in_no_time(main())


def test_connection_that_says_it_wrongly_is_reported(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="closely")
    event = in_no_time(event_of(trigger("job")))
    assert event["outcome"] == "trouble"
    assert "'closely'; known are auto, collection, single" in event["message"]
    assert event["is_final"]
    assert platform.asked == []


# Single -----------------------------------------------------------------------------------------------------------


def test_every_job_is_asked_for_every_interval(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="single")

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(100), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(10)
            platform.forget()
            await asyncio.sleep(100)
        assert set(Counter(platform.by_name).values()) <= {9, 10, 11}

    in_no_time(main())


def test_intervals_of_one_platform_may_differ(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="single")

    async def main() -> None:
        platform.jobs = {"hasty": "RUNNING", "calm": "RUNNING"}
        async with Deferred(trigger("hasty", 1), trigger("calm", 60)):
            await asyncio.sleep(600)
        asked = Counter(platform.by_name)
        assert 598 <= asked["hasty"] <= 602
        assert 10 <= asked["calm"] <= 12

    in_no_time(main())


def test_restart_with_thousands_makes_no_burst_then_or_later(
    platform: Platform, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that comes back with every interval."""
    connect(watch="single", max_requests_per_second=400)
    monkeypatch.setattr("random.random", random.Random(1).random)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(2000), "RUNNING")
        async with Deferred(*(trigger(name, 20) for name in platform.jobs)):
            await asyncio.sleep(80)
        assert platform.peak <= CONNECTIONS
        assert {path for at, path in platform.asked if at < 20 + 2} >= {f"{JOBS}/{name}" for name in platform.jobs}
        per_second = Counter(int(at) for at, _ in platform.asked)
        assert max(per_second.values()) <= 400 * 1.06
        later = [per_second[second] for second in range(45, 80)]
        assert max(later) < 1.7 * (2000 / 20)

    in_no_time(main())


def test_only_so_many_requests_are_in_flight(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="single")

    async def main() -> None:
        platform.latency = 5
        platform.jobs = dict.fromkeys(names_of(200), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(100)
        assert platform.peak == CONNECTIONS

    in_no_time(main())


def test_long_job_is_asked_for_less_often_where_that_is_wished_for(
    platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch="single", longest_poll_interval=120)

    async def main() -> None:
        platform.jobs = {"long": "RUNNING"}
        event = await event_of(trigger("long", deadline=EPOCH + 7000))
        assert (event["outcome"], round(now())) == ("timeout", 7000)
        asked = [at for at, _ in platform.asked]
        pauses = [after - before for before, after in pairwise(asked)]
        assert max(pauses[:15]) < 11
        assert 115 < max(pauses) < 121

    in_no_time(main())


# What goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watch", ["single", "collection"])
def test_pause_the_platform_asks_for_is_everybodys(
    watch: str, platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch=watch)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(100), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            platform.forget()
            platform.meet = lambda _: platform.envelope(None, 429, 429, **{"Retry-After": "45"})
            await asyncio.sleep(40)
            assert len(platform.asked) <= CONNECTIONS  # none, where one on its way was the first to hear it
            platform.meet = lambda _: None
            await asyncio.sleep(40)
            assert not [at for at, _ in platform.asked if 71 < at < 60 + 45]
            assert len(platform.asked) > CONNECTIONS or platform.lists
            assert not any(task.done() for task in deferred.tasks)

    in_no_time(main())


def test_those_who_are_due_one_after_the_other_are_asked_for_together(
    platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch="single")

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(1000), "RUNNING")
        platform.latency = 0.001
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(20)
            platform.forget()
            await asyncio.sleep(10)
        assert 900 <= len(platform.asked) <= 1100
        moments = {int(at / watcher.TICK) for at, _ in platform.asked}
        assert 150 <= len(moments) <= 10 / watcher.TICK + 1

    in_no_time(main())


def test_failed_query_is_repeated_before_it_counts(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = {"job": "RUNNING"}
        failures = iter([503, 502])
        platform.meet = lambda _: httpx.Response(status) if (status := next(failures, 0)) else None
        async with Deferred(trigger("job", 1000)):
            await asyncio.sleep(3)
        assert [at for at, _ in platform.asked] == pytest.approx([0, 0.5, 1.5], abs=3 * watcher.TICK)

    in_no_time(main())


def test_silent_platform_is_ridden_out_by_everybody_and_left_in_peace(
    platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch="single")

    def refuse(asked: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("silence", request=asked)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(1000), "RUNNING")
        platform.latency = 0.01
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            platform.forget()
            platform.meet, platform.latency = refuse, 30
            await asyncio.sleep(600)
            assert len(platform.asked) <= CONNECTIONS * 600 / 30 + CONNECTIONS
            assert not any(task.done() for task in deferred.tasks)
            platform.meet, platform.latency = (lambda _: None), 0.01
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            assert {event["outcome"] for event in await deferred.events()} == {"over"}
            assert now() < 660 + 30 + 10 + 2  # a last timeout, an interval, and the answers

    in_no_time(main())


def test_deadline_and_patience_hold_on_a_silent_platform(platform: Platform, connect: Callable[..., None]) -> None:
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
            assert {event["outcome"] for event in await deferred.events()} == {"trouble", "timeout"}
            assert 900 <= now() < 900 + 100

    in_no_time(main())


def test_subscriber_that_fails_harms_no_other(platform: Platform, connect: Callable[..., None]) -> None:
    """Nor does a job that cannot be asked for, though each attempt takes its time."""
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
            assert (await deferred.tasks[0])["outcome"] == "trouble"
            assert not any(task.done() for task in deferred.tasks[3:])
            asked = Counter(platform.by_name)
            assert min(asked[name] for name in names_of(20)[1:]) > 100
            assert asked["job-0"] < 10

    in_no_time(main())


def test_first_subscriber_may_go_before_the_connection_is_found(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_bitahub.hooks.bitahub import BitaHubHook

    look_up, looked_up = BitaHubHook.looked_up, []

    async def slow(*arguments: Any, **more: Any) -> BitaHubHook:
        looked_up.append(arguments)
        await asyncio.sleep(5)
        return await look_up(*arguments, **more)

    monkeypatch.setattr(BitaHubHook, "looked_up", slow)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(3), "SUCCEEDED")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(1)
            deferred.tasks[0].cancel()
            assert [(await task)["outcome"] for task in deferred.tasks[1:]] == ["over", "over"]
        assert len(looked_up) == 1

    in_no_time(main())


def test_connection_is_looked_up_once_and_again_when_it_is_refused(
    platform: Platform, connect: Callable[..., None]
) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            connect(password="new-token")
            await asyncio.sleep(60)
            assert set(platform.tokens) == {SECRET}
            platform.meet = lambda asked: (
                platform.envelope(None, 401, 401) if asked.headers["authorization"] != "Bearer new-token" else None
            )
            platform.forget()
            await asyncio.sleep(60)
            assert set(platform.tokens) == {SECRET, "new-token"}
            assert len(platform.asked) < 20
            assert not any(task.done() for task in deferred.tasks)

    in_no_time(main())


def test_connection_that_is_refused_for_longer_than_the_patience_is_trouble_for_everybody(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            platform.meet = lambda _: platform.envelope(None, 401, 401)
            events = await deferred.events()
            assert {event["outcome"] for event in events} == {"trouble"}
            assert "Check the token" in events[0]["message"]
            assert 60 + PATIENCE <= now() < 60 + PATIENCE + 20

    in_no_time(main())


@pytest.mark.parametrize("spoilt", ["gone", "misspelt"])
def test_connection_that_cannot_be_looked_up_again_is_ridden_out_like_the_refusal(
    spoilt: str, platform: Platform, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            if spoilt == "gone":
                monkeypatch.delenv("AIRFLOW_CONN_BITAHUB_DEFAULT")
            else:
                connect(watch="colection")
            platform.meet = lambda _: platform.envelope(None, 401, 401)
            await asyncio.sleep(120)
            assert not any(task.done() for task in deferred.tasks)
            connect()
            platform.meet = lambda _: None
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            assert {event["outcome"] for event in await deferred.events()} == {"over"}

    in_no_time(main())


def test_interval_that_is_none_leaves_nobody_waiting(platform: Platform) -> None:
    platform.jobs = {"job": "RUNNING"}
    event = in_no_time(event_of(trigger("job", math.inf)))
    assert event["outcome"] == "trouble"
    assert "infinity" in event["message"]


def test_defect_of_ours_leaves_nobody_waiting(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(watcher, "find_jobs", fail)
    platform.jobs = dict.fromkeys(names_of(5), "RUNNING")

    async def main() -> None:
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            assert {event["message"] for event in await deferred.events()} == {"ZeroDivisionError: a defect"}

    in_no_time(main())


# On the emulator --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One on which every job takes a moment, and no program really runs."""
    home = tmp_path_factory.mktemp("home")
    images = home / "images.toml"
    images.write_text(f'[[image]]\npattern = "*"\npython = {json.dumps(sys.executable)}\n')
    with Emulator(home, images=images) as emulator:
        emulator.scripts.add(ScriptedJob(run_seconds=0.5))
        yield emulator


@pytest.mark.parametrize(
    ("watch", "match", "effect"),
    [
        ("single", Match(method="GET", probability=0.4), {"before": "close"}),
        ("single", Match(method="GET", times=2), {"before": Answer(status=429, headers={"Retry-After": "0.2"})}),
        ("single", Match(method="GET"), {"records": Records(hide_for=0.3)}),
        ("auto", Match(method="GET", probability=0.4), {"after": Answer(status=504, body="<html>")}),
        ("auto", Match(method="GET", path="*/jobs", probability=0.5), {"after": Answer(body='{"status": {"co')}),
        ("auto", Match(method="GET", path="*/jobs"), {"records": Records(hide_for=1e9)}),
        ("auto", Match(method="GET", path="*/jobs"), {"records": Records(patch={"state": None, "jobStatus": None})}),
        ("auto", Match(method="GET", path="*/jobs", times=3), {"records": Records(patch={"state": "HIBERNATING"})}),
    ],
    ids=["closes", "busy", "late", "times out", "cut off", "hides all", "stateless", "unknown"],
)
def test_every_end_is_reported_whatever_the_platform_does_meanwhile(
    watch: str, match: Match, effect: dict[str, Any], emulator: Emulator, connect: Callable[..., None]
) -> None:
    connect(emulator.url, emulator.token, watch=watch)
    names = [f"job-{next(_numbers)}" for _ in range(6)]
    client = BitaHubClient(emulator.url, auth=BearerToken(emulator.token))
    for name in names:
        client.send(submit_job(JobSpec(job_name=name, task_roles=[TaskRole(image=IMAGE, command="true")])))
    client.close()
    fault = emulator.faults.add(Fault(match=match, effect=Effect(**effect)))

    async def main() -> None:
        async with Deferred(*(trigger(name, 0.1) for name in names)) as deferred:
            events = await deferred.events()
        assert [event["outcome"] for event in events] == ["over"] * 6, events
        assert {event["job"]["status"] for event in events} == {"SUCCEEDED"}

    asyncio.run(main())
    assert fault.applied
    emulator.faults.clear()


# Nothing is left behind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watch", ["single", "auto"])
def test_nothing_leaks_however_many_have_subscribed(
    watch: str, platform: Platform, connect: Callable[..., None]
) -> None:
    """Of which some end, some are cancelled, and some fail, while one goes on."""
    connect(watch=watch)
    platform.jobs = {"steady": "RUNNING"}
    number = iter(range(10**6))

    async def round_of(size: int) -> None:
        names = [f"job-{next(number)}" for _ in range(size)]
        platform.jobs.update(dict.fromkeys(names[: size // 2], "SUCCEEDED"))
        platform.jobs.update(dict.fromkeys(names[size // 2 : -1], "RUNNING"))
        async with Deferred(*(trigger(name, 3600, grace=0) for name in names)):
            await asyncio.sleep(3)
        for name in names:
            platform.jobs.pop(name, None)
        platform.forget()
        platform.tokens.clear()

    async def main() -> None:
        async with Deferred(trigger("steady")) as steady:
            await round_of(500)
            gc.collect()
            before = len(gc.get_objects())
            for _ in range(ROUNDS):
                await round_of(500)
            gc.collect()
            assert len(gc.get_objects()) < before + 500
            assert not steady.tasks[0].done()

    in_no_time(main())


# What is logged -----------------------------------------------------------------------------------------------------

whose: ContextVar[str] = ContextVar("whose", default="nobody")


class Log:
    """A log that notes in whose context each line was written, which is how Airflow finds the task it belongs to."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, message: str, *arguments: Any) -> None:
        self.lines.append((whose.get(), message % arguments))

    warning = info


def test_log_tells_every_change_once_and_in_the_tasks_own_log(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    monkeypatch.setattr(BitaHubJobTrigger, "log", log)
    monkeypatch.setattr(lists, "log", log)
    monkeypatch.setattr(watcher, "log", log)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(3), "WAITING")
        tasks = []
        for name in platform.jobs:
            whose.set(name)
            tasks.append(asyncio.create_task(event_of(trigger(name))))
        whose.set("nobody")
        await asyncio.sleep(120)
        platform.jobs = dict.fromkeys(platform.jobs, "RUNNING")
        await asyncio.sleep(1800)
        platform.meet = lambda _: httpx.Response(503, text="busy")
        await asyncio.sleep(600)
        platform.meet = lambda _: None
        await asyncio.sleep(7200 - 600 - 1800)
        platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
        await asyncio.gather(*tasks)

    in_no_time(main())
    for name in names_of(3):
        own = [line for who, line in log.lines if who == name]
        assert own[0] == f"The job '{name}' is WAITING"
        assert own[1].startswith(f"The job '{name}' is RUNNING, after 0:02:0")
        assert own[1].endswith(" of WAITING")
        assert own[2].startswith(f"Nothing is known of the job {name}, which is asked for again: ")
        assert "busy" in own[2]
        assert own[3] == f"The job {name} is known again"
        assert own[4].startswith(f"The job '{name}' is RUNNING, for 1:0")
        assert own[5].startswith(f"The job '{name}' is SUCCEEDED, exit code 0, after 2:00:")
        assert len(own) == 6
    assert {line.partition(" for the next")[0] for who, line in log.lines if who == "nobody"} == {
        "Jobs are asked for by name"
    }
