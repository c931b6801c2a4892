"""Each task's log shows every change of its job's state once."""

from __future__ import annotations

import asyncio
import re
from contextvars import ContextVar
from typing import Any

import httpx
import pytest

from airflow_bitahub.triggers.job import BitaHubJobTrigger
from airflow_bitahub.triggers.watch import listing, shared_hook, watcher
from tests.triggers.watch.stage import Platform, event_of, names_of, simulate, trigger

whose: ContextVar[str] = ContextVar("whose", default="nobody")


class Log:
    """Records in which context each line was written, by which Airflow finds the task that it belongs to."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, message: str, *arguments: Any) -> None:
        self.lines.append((whose.get(), message % arguments))

    warning = exception = info


def test_every_change_is_logged_once_in_the_log_of_its_task(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    monkeypatch.setattr(BitaHubJobTrigger, "log", log)
    for module in (listing, shared_hook, watcher):
        monkeypatch.setattr(module, "log", log)

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

    simulate(main())
    for name in names_of(3):
        own = [line for who, line in log.lines if who == name]
        assert own[0] == f"The job '{name}' is WAITING"
        assert own[1].startswith(f"The job '{name}' is RUNNING, after 0:02:0")
        assert own[1].endswith(" of WAITING")
        assert own[2].startswith(f"A query of job {name} failed, so its state is unknown for now: ")
        assert "busy" in own[2]
        assert own[3] == f"Queries of job {name} succeed again"
        assert own[4].startswith(f"The job '{name}' is RUNNING, for 1:0")
        # Both moments are those of a query, so up to an interval later than what happened.
        assert re.match(f"The job '{name}' is SUCCEEDED, exit code 0, after (1:59:5|2:00:)", own[5])
        assert len(own) == 6
    assert {line.partition(" for the next")[0] for who, line in log.lines if who == "nobody"} == {
        "Querying each job by name"
    }
