"""New lines of jobs' logs go to their tasks' logs, within bounds, and never at the cost of the watching itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_bitahub.procedures.job_log import (
    CURSOR_KEY,
    FAILED_PAUSE,
    LINE_LIMIT,
    LINES_PER_SECOND,
    REFUSED_PAUSE,
)
from airflow_bitahub.secret_digests import digests_of
from airflow_bitahub.triggers.watch.log_turns import LOG_READERS
from tests.triggers.watch.stage import Deferred, Platform, names_of, now, simulate, trigger

_COUNTED = "".join(f"{number:06}\n" for number in range(5000))
LEFT_OUT = "Lines of the job's log are left out here: "


@dataclass
class XComs:
    """Stands for Airflow's XComs: what it is given survives only as JSON."""

    stored: dict[str, str] = field(default_factory=dict)
    writes: list[float] = field(default_factory=list)  # when

    async def aget_one(self, *, key: str, task_id: str, **_: Any) -> Any:
        assert key == CURSOR_KEY
        return json.loads(self.stored.get(task_id, "null"))

    async def aset(self, *, key: str, value: Any, task_id: str, **_: Any) -> None:
        assert key == CURSOR_KEY
        self.writes.append(now())
        self.stored[task_id] = json.dumps(value)


@pytest.fixture
def xcoms(monkeypatch: pytest.MonkeyPatch) -> XComs:
    xcoms = XComs()
    for name in ("aget_one", "aset"):
        monkeypatch.setattr(f"airflow.sdk.execution_time.xcom.XCom.{name}", getattr(xcoms, name))
    return xcoms


class Logs:
    """What the tasks' logs show of the jobs' own lines."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = defaultdict(list)  # by job
        self.times: list[float] = []

    def following(self, name: str, poll_interval: float = 10, **arguments: Any) -> Any:
        followed = trigger(name, poll_interval, **{"log_interval": 30, **arguments})
        ti: Any = SimpleNamespace(dag_id="tests", task_id=name, run_id="run", map_index=-1)
        followed.task_instance = ti
        followed._log = SimpleNamespace(
            info=lambda text, *values: self._info(name, text % values), warning=print, error=print, debug=print
        )
        return followed

    def _info(self, name: str, line: str) -> None:
        if line.startswith(("[job", LEFT_OUT)):
            self.times.append(now())
            self.lines[name].append(line.removeprefix("[job] "))


def counting(per_second: float) -> Callable[[str], str]:
    """Return logs that count their lines."""
    return lambda _: _COUNTED[: 7 * int(now() * per_second)]


@pytest.mark.usefixtures("xcoms")
def test_new_lines_are_logged_once_also_after_a_restart(platform: Platform) -> None:
    platform.jobs, platform.logs, logs = {"job": "RUNNING"}, counting(1), Logs()

    async def main() -> None:
        for _ in range(3):
            async with Deferred(logs.following("job")):
                await asyncio.sleep(100)
        async with Deferred(logs.following("job")) as deferred:
            await asyncio.sleep(50)
            platform.jobs["job"] = "SUCCEEDED"
            await deferred.events()

    simulate(main())
    assert logs.lines["job"] == [f"{number:06}" for number in range(len(logs.lines["job"]))]
    assert len(logs.lines["job"]) > 300
    assert max(Counter(round(at / 10) for at, _ in platform.log_looks).values()) <= 2


class Threads(ThreadPoolExecutor):
    """The event loop's threads, and how often they were used."""

    used = 0

    def submit(self, *work: Any, **arguments: Any) -> Future[Any]:
        self.used += 1
        return super().submit(*work, **arguments)


@pytest.mark.usefixtures("xcoms")
def test_secrets_that_the_job_was_given_are_masked(platform: Platform) -> None:
    platform.jobs, logs = {"job": "RUNNING"}, Logs()
    platform.logs = lambda _: (
        "the token is sesame-42, the user Ali, and again: sesame-42sesame-42\nAli Baba and (xAli Baba)\n"
        # Where a long line is cut, half a secret would be left.
        f"{'x' * (LINE_LIMIT // 2 - 5)}sesame-42{'y' * LINE_LIMIT}Ali Baba{'z' * (LINE_LIMIT // 2 - 4)}\n"
    )
    masks = digests_of(["sesame-42", "Ali Baba"])
    assert "sesame" not in json.dumps(masks)

    async def main(log_masks: dict[str, Any]) -> int:
        asyncio.get_running_loop().set_default_executor(threads := Threads())
        async with Deferred(logs.following("job", log_masks=log_masks)):
            await asyncio.sleep(60)
        return threads.used

    used = simulate(main(masks))
    *short, long = logs.lines["job"]
    assert short == ["the token is ***, the user Ali, and again: ******", "*** and (x***)"]
    assert not re.search("ses|e-42|Ali|Baba", long)
    assert "characters left out" in long
    assert used > simulate(main({})), "to mask many secrets in many lines would hold up all other triggers"


def test_log_of_a_job_in_the_queue_is_not_read(platform: Platform, xcoms: XComs) -> None:
    platform.jobs, platform.logs, logs = {"job": "WAITING"}, counting(1), Logs()

    async def main() -> None:
        async with Deferred(logs.following("job")):
            await asyncio.sleep(600)

    simulate(main())
    assert not platform.log_looks
    assert not xcoms.writes


@pytest.mark.usefixtures("xcoms")
@pytest.mark.parametrize(
    "refusal",
    [
        httpx.Response(404, content="404 page not found"),
        httpx.Response(403, content='{"status": {"code": 403, "msg": "no"}}'),
        httpx.Response(200, content='{"status": {"code": 0}, "data": {"something": "else"}}'),
    ],
)
def test_platform_without_logs_is_left_alone(refusal: httpx.Response, platform: Platform) -> None:
    names, logs = names_of(20), Logs()
    platform.jobs = dict.fromkeys(names, "RUNNING")
    platform.meet = lambda request: refusal if request.url.path.endswith("/log") else None

    async def main() -> None:
        async with Deferred(*(logs.following(name) for name in names)):
            await asyncio.sleep(REFUSED_PAUSE + 300)

    simulate(main())
    assert len(platform.log_looks) <= 2 * LOG_READERS
    assert not logs.lines


@pytest.mark.usefixtures("xcoms")
@pytest.mark.parametrize("trouble", ["refused", "hangs", "limited"])
def test_trouble_with_logs_does_not_touch_the_watching(trouble: str, platform: Platform) -> None:
    names, logs = names_of(40), Logs()
    platform.jobs = dict.fromkeys(names, "RUNNING")
    platform.started = dict.fromkeys(names, -1e6)

    def meet(request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/log"):
            return None
        if trouble == "refused":
            raise httpx.ConnectError("refused")
        return Platform.envelope(None, 429, 429, **{"Retry-After": "60"}) if trouble == "limited" else None

    platform.meet = meet
    platform.logs = counting(1)
    if trouble == "hangs":
        usual = platform.answer

        async def answer(transport: Any, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/log"):
                platform.asked.append((now(), request.url.path))
                await asyncio.sleep(request.extensions["timeout"]["read"])
                raise httpx.ReadTimeout("nothing")
            return await usual(transport, request)

        platform.answer = answer  # type: ignore[method-assign, assignment]

    async def main() -> None:
        async with Deferred(*(logs.following(name) for name in names)) as deferred:
            await asyncio.sleep(300)
            platform.jobs = dict.fromkeys(names, "SUCCEEDED")
            ended = now()
            events = await deferred.events()
            assert now() - ended < 12
        assert {event["outcome"] for event in events} == {"finished"}

    simulate(main())
    assert max(later - earlier for earlier, later in itertools.pairwise(platform.lists)) < 11
    assert 0 < len(platform.log_looks) <= LOG_READERS * (1 + 300 / FAILED_PAUSE)


@pytest.mark.long
def test_two_thousand_logs_share_the_bounds_of_the_triggerer(platform: Platform, xcoms: XComs) -> None:
    """Each job prints 5 lines a second: fifty times as much as all together may log."""
    names, logs, seconds = names_of(2000), Logs(), 70
    platform.jobs, platform.logs = dict.fromkeys(names, "RUNNING"), counting(5)

    async def main() -> None:
        async with Deferred(*(logs.following(name) for name in names)) as deferred:
            await asyncio.sleep(seconds)
            assert len(platform.log_looks) < 70 * seconds
            ending = names[::100]
            platform.jobs |= dict.fromkeys(ending, "SUCCEEDED")
            events = await asyncio.gather(*deferred.tasks[::100])
            assert {event["outcome"] for event in events} == {"finished"}

    simulate(main())
    watching = [at for at in platform.lists if 10 < at < seconds]
    assert max(later - earlier for earlier, later in itertools.pairwise(watching)) < 11, "a cycle was missed"
    in_seconds = Counter(int(at) for at in logs.times if at < seconds)
    assert sum(in_seconds.values()) <= LINES_PER_SECOND * (seconds + 1)
    assert max(in_seconds.values()) <= 2 * LINES_PER_SECOND + 10
    assert sum(in_seconds.values()) > LINES_PER_SECOND * (seconds - 40), "lines were left out in vain"
    assert len(logs.lines) == 2000, "a job was forgotten"
    for lines in logs.lines.values():  # what is left out is told, and everything else is there
        number = 0
        for line in lines:
            if line.startswith(LEFT_OUT):
                number += int(line.removeprefix(LEFT_OUT))
            else:
                assert int(line) == number
                number += 1
    assert len([at for at in xcoms.writes if at < seconds]) < 10 * seconds
