"""The connection is looked up once, and again when the platform refuses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from airflow_bitahub.procedures.retry import UNREACHABLE_TIMEOUT
from tests.triggers.watch.stage import SECRET, Deferred, Platform, event_of, names_of, now, simulate, trigger


def test_wrong_extra_of_the_connection_is_reported(platform: Platform, connect: Callable[..., None]) -> None:
    connect(watch="closely")
    event = simulate(event_of(trigger("job")))
    assert event["outcome"] == "error"
    assert "'closely'; allowed are auto, collection, single" in event["message"]
    assert event["is_final"]
    assert platform.asked == []


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


@pytest.mark.parametrize("spoilt", ["gone", "misspelt"])
def test_look_up_that_fails_after_a_refusal_is_repeated(
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
            assert {event["outcome"] for event in await deferred.events()} == {"finished"}

    simulate(main())
