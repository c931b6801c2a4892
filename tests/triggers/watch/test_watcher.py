"""One watcher queries the platform for all triggers of an event loop, and reports every end whatever goes wrong."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import httpx
import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import JobSpec, TaskRole, get_job, submit_job
from airflow_bitahub.api.protocol import Procedure
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match, Records
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.procedures.retry import UNREACHABLE_TIMEOUT
from airflow_bitahub.secret_digests import SecretMask
from airflow_bitahub.triggers.serving import BitaHubServingTrigger
from airflow_bitahub.triggers.watch import watcher
from airflow_bitahub.triggers.watch.journal import Journal
from airflow_bitahub.triggers.watch.schedule import Schedule
from airflow_bitahub.triggers.watch.watcher import CONNECTIONS
from tests.conftest import IMAGE
from tests.triggers.watch.stage import TASK, Deferred, Platform, names_of, now, simulate, trigger

_numbers = count(1)
ROUNDS = 4  # of 250 triggers; a leak of one object per trigger would show after two


def test_number_of_requests_in_flight_is_limited(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="single")

    async def main() -> None:
        platform.latency = 5
        platform.jobs = dict.fromkeys(names_of(200), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)):
            await asyncio.sleep(100)
        assert platform.peak == CONNECTIONS

    simulate(main())


@pytest.mark.parametrize("watch", ["single", "collection"])
def test_pause_the_platform_asks_for_holds_for_all_jobs(
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
            assert len(platform.asked) <= CONNECTIONS  # or none, where a request in flight met the rate limit first
            platform.meet = lambda _: None
            await asyncio.sleep(40)
            assert not [at for at, _ in platform.asked if 71 < at < 60 + 45]
            assert len(platform.asked) > CONNECTIONS or platform.lists
            assert not any(task.done() for task in deferred.tasks)

    simulate(main())


def test_silent_platform_fails_no_waiter_and_is_not_flooded(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="single")

    def refuse(asked: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("silence", request=asked)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(400), "RUNNING")
        platform.latency = 0.01
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(30)
            platform.forget()
            platform.meet, platform.latency = refuse, 30
            await asyncio.sleep(600)
            assert len(platform.asked) <= CONNECTIONS * 600 / 30 + CONNECTIONS
            assert not any(task.done() for task in deferred.tasks)
            platform.meet, platform.latency = (lambda _: None), 0.01
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}
            assert now() < 630 + 30 + 10 + 2  # the last timeout, one interval, and the answers

    simulate(main())


def fail(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a defect")


@pytest.mark.parametrize("defect", ["watcher.JobPages", "journal.Journal.answered"])
def test_bug_in_one_way_to_query_costs_no_job(defect: str, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"airflow_bitahub.triggers.watch.{defect}", fail)
    platform.jobs = dict.fromkeys(names_of(5), "RUNNING")

    async def main() -> None:
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}

    simulate(main())


def test_bug_in_the_watcher_leaves_no_trigger_waiting(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Schedule, "next_by_name", fail)
    platform.jobs = dict.fromkeys(names_of(5), "SUCCEEDED")

    async def main() -> None:
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            for event in await deferred.events():
                assert "ZeroDivisionError: a defect" in event["message"]
                assert not event["is_final"]
        assert now() >= UNREACHABLE_TIMEOUT  # a failed query says nothing about a job

    simulate(main())


def test_waiter_that_fails_in_an_unforeseen_way_ends_alone(platform: Platform) -> None:
    def broken() -> Procedure[None]:
        yield get_job("job-0")
        raise ZeroDivisionError("a defect")

    async def run_broken() -> None:
        journal = Journal(logging.getLogger(), "job job-0", now, SecretMask({}))
        async with watcher.shared_watcher("bitahub_default") as shared:
            await shared.run(broken(), journal)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(5), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(30)
            with pytest.raises(ZeroDivisionError):
                await run_broken()
            await asyncio.sleep(30)
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}

    simulate(main())


ODD = {
    "no object": 7,
    "an endless exit code": {"state": "SUCCEEDED", "exitCode": "9" * 6000},
    "a deep answer": {"state": "RUNNING", "job": json.loads('{"job":' * 400 + "1" + "}" * 400)},
    "surrogates": {"state": "RUNNING \ud800", "message": "\udfff"},
    "lists": {"state": ["RUNNING"], "createdTime": [[]]},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("watch", ["single", "collection"])
def test_unreadable_answer_about_one_job_harms_no_other(
    watch: str, odd: Any, platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch=watch)
    is_odd = False
    entry = platform.entry

    def entry_of(name: str) -> Any:
        return {"jobName": name, **odd} if isinstance(odd, dict) else odd

    platform.entry = lambda name: entry_of(name) if is_odd and name == "job-3" else entry(name)  # type: ignore[method-assign]

    async def main() -> None:
        nonlocal is_odd
        platform.jobs = dict.fromkeys(names_of(8), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(30)
            is_odd = True
            await asyncio.sleep(60)
            assert not any(task.done() for number, task in enumerate(deferred.tasks) if number != 3)
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            await asyncio.sleep(30)
            is_odd = False
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}

    simulate(main())


def serving_of(asked: httpx.Request) -> httpx.Response:
    """Answer for servings that run, whose programs do not answer yet."""
    if asked.url.host == "served":
        return httpx.Response(503)
    name = asked.url.path.rpartition("/")[2]
    return Platform.envelope({"name": name, "status": "RUNNING", "hosts": "http://served"})


def serving_triggers(count: int) -> list[BitaHubServingTrigger]:
    return [BitaHubServingTrigger("bitahub_default", f"serving-{number}", "v1", 5) for number in range(count)]


def test_probes_of_servings_keep_to_the_budget_and_to_the_pause_the_platform_asks_for(
    platform: Platform, connect: Callable[..., None]
) -> None:
    connect(max_requests_per_second=5)

    async def main() -> None:
        platform.meet = serving_of
        async with Deferred(*serving_triggers(50)):
            await asyncio.sleep(60)
            assert len(platform.asked) <= 60 * 5 + 1
            assert len([path for _, path in platform.asked if path == "/"]) > 50, "the programs were probed"

            def limited(asked: httpx.Request) -> httpx.Response:
                if asked.url.host == "served":
                    return serving_of(asked)
                return platform.envelope(None, 429, 429, **{"Retry-After": "45"})

            platform.forget()
            platform.meet = limited
            await asyncio.sleep(40)
            assert len(platform.asked) <= CONNECTIONS

    simulate(main())


def test_programs_that_do_not_answer_leave_room_for_queries(platform: Platform) -> None:
    probed = 0

    async def answer(_: Any, request: httpx.Request) -> httpx.Response:
        nonlocal probed
        platform.asked.append((now(), request.url.path))
        if request.url.host == "served":
            probed += 1
            await asyncio.sleep(10)
            raise httpx.ReadTimeout("silence", request=request)
        return serving_of(request) if "/serving" in request.url.path else platform.say(request)

    platform.answer = answer  # type: ignore[method-assign]

    async def main() -> None:
        platform.jobs = {"job": "RUNNING"}
        async with Deferred(trigger("job", 1), *serving_triggers(200)):
            await asyncio.sleep(100)
            asked = platform.by_name.count("job")
        assert asked > 80
        assert probed <= (100 / 10 + 1) * watcher.PROBES

    simulate(main())


def test_stops_of_killed_triggers_keep_to_the_budget(
    platform: Platform, connect: Callable[..., None], task_state: Callable[[str | None], None]
) -> None:
    connect(max_requests_per_second=5)
    task_state("failed")
    platform.jobs = dict.fromkeys(names_of(30), "RUNNING")
    deleted = []

    def delete(asked: httpx.Request) -> httpx.Response | None:
        if asked.method == "DELETE":
            deleted.append((now(), asked.url.path))
        return None

    async def kill(name: str) -> None:
        killed = trigger(name)
        killed.task_instance = TASK
        await killed.on_kill()

    async def main() -> None:
        platform.meet = delete
        await asyncio.gather(*map(kill, platform.jobs))
        assert len({path for _, path in deleted}) == len(deleted) == 30
        assert len(platform.asked) <= now() * 5 + 2

    simulate(main())


def test_stop_waits_for_a_connection_that_cannot_be_looked_up_for_a_moment(
    platform: Platform, connect: Callable[..., None], task_state: Callable[[str | None], None]
) -> None:
    connect(host="")
    task_state("failed")
    platform.jobs = {"job": "RUNNING"}
    deleted = []
    platform.meet = lambda asked: deleted.append(asked.url.path) if asked.method == "DELETE" else None

    async def main() -> None:
        killed = trigger("job")
        killed.task_instance = TASK
        stopping = asyncio.create_task(killed.on_kill())
        await asyncio.sleep(100)
        assert not deleted
        connect()
        await stopping
        assert len(deleted) == 1

    simulate(main())


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator on which every job takes a moment, and no program really runs."""
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
        ("auto", Match(method="GET", path="*/jobs", times=3), {"after": Answer(body='{"status": {"co')}),
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
        assert [event["outcome"] for event in events] == ["finished"] * 6, events
        assert {event["job"]["status"] for event in events} == {"SUCCEEDED"}

    asyncio.run(main())
    assert fault.applied
    emulator.faults.clear()


@pytest.mark.parametrize("watch", ["single", "auto"])
def test_no_memory_leaks_however_many_triggers_come_and_go(
    watch: str, platform: Platform, connect: Callable[..., None]
) -> None:
    """Some jobs end, some triggers are cancelled, some fail, and one goes on."""
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
            await round_of(250)
            gc.collect()
            before = len(gc.get_objects())
            for _ in range(ROUNDS):
                await round_of(250)
            gc.collect()
            assert len(gc.get_objects()) < before + 500
            assert not steady.tasks[0].done()

    simulate(main())
