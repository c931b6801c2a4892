"""An emulator on which no program runs and time stands still, and faults for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import TaskRole
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Answer, ArmedFault, Effect, Fault, Faults, Match
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import DrivenClock, Emulator
from airflow_bitahub.procedures.retry import Retry
from tests.conftest import until
from tests.emulator.conftest import IMAGE, Api

SUBMISSION = Match(method="POST", path="*/jobs/*", times=1)
QUERY = Match(method="GET", path="*/jobs/*")
ROLE = TaskRole(image=IMAGE, command="true")
FOR_EVER = 1e9  # seconds
BUSY = Answer(status=503, headers={"Content-Type": "text/html"}, body="<html>Service Unavailable</html>")
EXPIRED = Answer(
    status=401,
    body={"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Unauthorized", "code": 401},
)

Add = Callable[..., ArmedFault]
InBackground = Callable[..., Future[Any]]


@pytest.fixture(scope="module")
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture(scope="module")
def emulator(images_file: Path, tmp_path_factory: pytest.TempPathFactory, clock: DrivenClock) -> Iterator[Emulator]:
    """An emulator on which only the test lets time pass, and no program really runs."""
    with Emulator(tmp_path_factory.mktemp("home"), images=images_file, clock=clock) as emulator:
        emulator.scripts.add(ScriptedJob())
        emulator.scripts.add(ScriptedJob(command="long", run_seconds=60))
        emulator.scripts.add(ScriptedJob(command="queued", queue_seconds=60))
        emulator.scripts.add(ScriptedServing())
        yield emulator


@pytest.fixture
def faults(emulator: Emulator) -> Iterator[Faults]:
    yield emulator.faults
    emulator.faults.clear()


@pytest.fixture
def add(faults: Faults) -> Add:
    """Add a fault, given its match and the fields of its effect."""

    def add(match: Match | None = None, **effect: Any) -> ArmedFault:
        return faults.add(Fault(match=match or Match(), effect=Effect(**effect)))

    return add


@pytest.fixture
def in_background() -> Iterator[InBackground]:
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def advance_once(clock: DrivenClock, it_is_time: Callable[[], Any]) -> None:
    until(it_is_time)
    clock.advance(60)


def patch_state(word: str) -> dict[str, Any]:
    return {"state": word, "jobStatus": {"state": word}}


def assert_nothing_was_logged(caplog: pytest.LogCaptureFixture) -> None:
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [warning for warning in warnings if "runs as root" not in warning]


def requests_for(api: Api, name: str, method: str) -> list[tuple[int, bool]]:
    """Return the status that each such request for a job was answered with, and whether it reached the platform."""
    [entry] = (entry for entry in api.http.get("/emulator/ledger").json()["data"] if entry["name"] == name)
    return [(asked["status"], asked["reached"]) for asked in entry["requests"] if asked["method"] == method]


@pytest.fixture
def client(emulator: Emulator) -> Iterator[BitaHubClient]:
    retry = Retry(attempts=20, first_pause=0.01, longest_pause=0.02)
    client = BitaHubClient(emulator.url, auth=BearerToken(emulator.token), retry=retry, request_timeout=10)
    yield client
    client.close()
