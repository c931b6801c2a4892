"""A stage for the watcher: an event loop on which time passes immediately, and a platform that answers on it.

The loop's clock jumps to whatever happens next. The platform stands behind the HTTP library, and takes as long as it is
told to by that clock.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx

from airflow_bitahub.triggers.job import BitaHubJobTrigger
from airflow_bitahub.triggers.watch import watcher

T = TypeVar("T")
JOBS = "/lapis/clusters/host/jobserver.leinao.ai/v1/workspaces/bitahub/namespaces/bita-user/jobs"
SECRET = "s3cret-token"
TASK: Any = SimpleNamespace(dag_id="tests", task_id="task", run_id="run", map_index=-1)
EPOCH = 1_700_000_000.0  # the time at which the loop's clock is 0


class JumpingSelector(selectors.DefaultSelector):
    """Waits only for threads. Where the loop would wait, its clock jumps forward instead."""

    now = 0.0
    threads = 0  # number at work

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(None if self.threads and timeout else timeout and 0)
        if not events and timeout:
            self.now += timeout
        return events


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps to whatever happens next."""

    def __init__(self) -> None:
        self.selector = JumpingSelector()
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


def simulate(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a simulated loop, and check that it leaves no task and no watcher behind."""
    loop = SimulatedLoop()
    try:
        result = loop.run_until_complete(work)
        assert not asyncio.all_tasks(loop)
        assert not watcher._watchers.get(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        return result
    finally:
        loop.close()


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Platform:
    """Answers like the platform, and records the requests.

    :param jobs: name -> raw state
    :param started: name -> when it began to run, by the loop's clock; the others began long ago
    :param latency: seconds
    :param logs: returns what a job has printed so far; None: there is no such call
    :param meet: returns another answer, or raises; None: the usual answer
    """

    jobs: dict[str, str] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    latency: float = 0.02
    logs: Callable[[str], str] | None = None
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
        if name.endswith("/log"):
            if self.logs is None:
                return httpx.Response(404, content="404 page not found")
            return self.log(name.removesuffix("/log"), request)
        if name:
            known = name in self.jobs
            data = self.entry(name) if known else None
            return self.envelope(data, 0 if known else 404, 200 if known else 404)
        page, limit = int(request.url.params["page"]), int(request.url.params["limit"])
        names = list(self.jobs)[(page - 1) * limit : page * limit]
        return self.envelope({"items": [self.entry(name) for name in names], "totalItems": len(self.jobs)})

    def log(self, name: str, request: httpx.Request) -> httpx.Response:
        assert self.logs is not None
        text, begin, most = self.logs(name), int(request.url.params["offset"]), int(request.url.params["tailLines"])
        lines = text[begin:].splitlines(keepends=True)
        left_out = max(0, len(lines) - most)
        start = len(text) - len("".join(lines[left_out:]))
        piece = {"log": text[start:], "offset": start, "nextOffset": len(text), "skippedLines": left_out}
        return self.envelope(piece)

    def entry(self, name: str) -> dict[str, Any]:
        word = self.jobs[name]
        started = round(1000 * (EPOCH + self.started.get(name, -1e6)))
        code = 0 if word == "SUCCEEDED" else None
        return {"jobName": name, "state": word, "exitCode": code, "launchedTime": started}

    @staticmethod
    def envelope(data: Any, code: int = 0, status: int = 200, **headers: str) -> httpx.Response:
        said = {"status": {"code": code, "msg": "says the platform"}, "data": data}
        return httpx.Response(status, content=json.dumps(said), headers=headers)

    @property
    def lists(self) -> list[float]:
        return [at for at, path in self.asked if path == JOBS]

    @property
    def by_name(self) -> list[str]:
        return [path.removeprefix(JOBS + "/") for _, path in self.asked if path != JOBS and not path.endswith("/log")]

    @property
    def log_looks(self) -> list[tuple[float, str]]:
        return [(at, path.split("/")[-2]) for at, path in self.asked if path.endswith("/log")]

    def forget(self) -> None:
        self.asked.clear()


def trigger(name: str, poll_interval: float = 10, **arguments: Any) -> BitaHubJobTrigger:
    return BitaHubJobTrigger("bitahub_default", name, poll_interval, **arguments)


async def event_of(trigger: Any) -> dict[str, Any]:
    [event] = [event.payload async for event in trigger.run()]
    return dict(event)


def names_of(count: int) -> list[str]:
    return [f"job-{number}" for number in range(count)]


class Deferred:
    """Runs triggers on the current loop."""

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
