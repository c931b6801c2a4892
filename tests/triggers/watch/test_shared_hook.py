"""The connection is looked up once for all, again every minute, and when the platform refuses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from airflow_bitahub.procedures.retry import UNREACHABLE_TIMEOUT
from tests.triggers.watch.stage import EPOCH, SECRET, Deferred, Platform, names_of, now, simulate, trigger

GONE = None  # in place of a connection's extra


@pytest.fixture
def spoil(connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any] | None], None]:
    """Makes the connection wrong, or removes it."""

    def spoil(extra: dict[str, Any] | None) -> None:
        if extra is GONE:
            monkeypatch.delenv("AIRFLOW_CONN_BITAHUB_DEFAULT")
        else:
            connect(**extra)

    return spoil


SPOILT = pytest.mark.parametrize("extra", [GONE, {"watch": "closely"}, {"host": ""}], ids=str)


@SPOILT
def test_failed_look_up_as_a_triggerer_starts_is_ridden_out(
    extra: dict[str, Any] | None, platform: Platform, connect: Callable[..., None], spoil: Callable[..., None]
) -> None:
    spoil(extra)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "SUCCEEDED")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(600)
            assert not any(task.done() for task in deferred.tasks)
            assert platform.asked == []
            connect()
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}
            assert now() < 600 + 20

    simulate(main())


def test_connection_that_stays_wrong_is_an_error_after_the_unreachable_timeout_and_deadlines_hold(
    platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch="closely")

    async def main() -> None:
        async with Deferred(trigger("job"), trigger("hurried", deadline=EPOCH + 100)) as deferred:
            assert (await deferred.tasks[1])["outcome"] == "timeout"
            assert now() < 100 + 5
            event = await deferred.tasks[0]
            assert event["outcome"] == "error"
            assert "'closely'; allowed are auto, collection, single" in event["message"]
            assert UNREACHABLE_TIMEOUT <= now() < UNREACHABLE_TIMEOUT + 20
        assert platform.asked == []

    simulate(main())


def test_first_trigger_may_be_cancelled_while_the_connection_is_looked_up(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_bitahub.hooks.bitahub import BitaHubHook

    look_up, looked_up = BitaHubHook.connect, []

    async def slow(*arguments: Any, **more: Any) -> BitaHubHook:
        looked_up.append(arguments)
        await asyncio.sleep(5)
        return await look_up(*arguments, **more)

    monkeypatch.setattr(BitaHubHook, "connect", slow)

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(3), "SUCCEEDED")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(1)
            deferred.tasks[0].cancel()
            assert [(await task)["outcome"] for task in deferred.tasks[1:]] == ["finished", "finished"]
        assert len(looked_up) == 1

    simulate(main())


@pytest.mark.parametrize("watch", ["single", "collection"])
def test_corrected_connection_is_used_within_a_minute(
    watch: str, platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch=watch)

    def refuse(asked: httpx.Request) -> httpx.Response | None:
        """Answer only at the new address."""
        if asked.url.host != "elsewhere":
            raise httpx.ConnectError("nobody there", request=asked)
        return None

    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(100)
            platform.meet = refuse
            await asyncio.sleep(100)
            connect("http://elsewhere", "new-token", watch=watch)
            platform.tokens.clear()
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}
            assert now() < 200 + 60 + 10 + 2
            assert platform.tokens[-1] == "new-token"

    simulate(main())


def test_request_in_flight_is_answered_although_its_connection_changes(
    platform: Platform, connect: Callable[..., None]
) -> None:
    connect(watch="single")
    usual, asked = platform.answer, []

    async def answer(_: Any, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("slow"):
            asked.append(now())
            await asyncio.sleep(25)
        return await usual(_, request)

    platform.answer = answer  # type: ignore[method-assign]

    async def main() -> None:
        platform.jobs = {"slow": "SUCCEEDED", "quick": "RUNNING"}
        async with Deferred(trigger("quick", 1)):
            await asyncio.sleep(50)
            connect(password="new-token", watch="single")
            async with Deferred(trigger("slow")) as deferred:
                await asyncio.sleep(20)
                assert platform.tokens[-1] == "new-token"
                assert not deferred.tasks[0].done()
                assert (await deferred.tasks[0])["outcome"] == "finished"
        assert len(asked) == 1

    simulate(main())


def test_refused_connection_is_looked_up_again(platform: Platform, connect: Callable[..., None]) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(75)
            connect(password="new-token")
            platform.meet = lambda asked: (
                platform.envelope(None, 401, 401) if asked.headers["authorization"] != "Bearer new-token" else None
            )
            platform.forget()
            await asyncio.sleep(30)
            assert set(platform.tokens) == {SECRET, "new-token"}
            assert len(platform.asked) < 20
            assert not any(task.done() for task in deferred.tasks)

    simulate(main())


def test_connection_refused_for_longer_than_the_unreachable_timeout_is_an_error_for_all(platform: Platform) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            platform.meet = lambda _: platform.envelope(None, 401, 401)
            events = await deferred.events()
            assert {event["outcome"] for event in events} == {"error"}
            assert "Check the token" in events[0]["message"]
            assert 60 + UNREACHABLE_TIMEOUT <= now() < 60 + UNREACHABLE_TIMEOUT + 20

    simulate(main())


@SPOILT
def test_connection_stays_in_use_while_it_cannot_be_looked_up(
    extra: dict[str, Any] | None, platform: Platform, spoil: Callable[..., None]
) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(3), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(1)
            spoil(extra)
            await asyncio.sleep(600)
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}
            assert set(platform.tokens) == {SECRET}

    simulate(main())


@SPOILT
def test_look_up_that_fails_after_a_refusal_is_repeated(
    extra: dict[str, Any] | None, platform: Platform, connect: Callable[..., None], spoil: Callable[..., None]
) -> None:
    async def main() -> None:
        platform.jobs = dict.fromkeys(names_of(20), "RUNNING")
        async with Deferred(*map(trigger, platform.jobs)) as deferred:
            await asyncio.sleep(60)
            spoil(extra)
            platform.meet = lambda _: platform.envelope(None, 401, 401)
            await asyncio.sleep(120)
            assert not any(task.done() for task in deferred.tasks)
            connect()
            platform.meet = lambda _: None
            platform.jobs = dict.fromkeys(platform.jobs, "SUCCEEDED")
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}

    simulate(main())
