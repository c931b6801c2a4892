"""The trigger of a serving fires one event, whatever happens; it stops a serving only when its task is not active."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.servings import (
    Serving,
    ServingModel,
    ServingProtocol,
    ServingSpec,
    create_serving,
    delete_serving,
)
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.records import ServingKey
from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.triggers.serving import BitaHubServingTrigger
from tests.conftest import IMAGE, Gateway, TaskRun, events_of, restored, until

_numbers = count(1)
ANSWER = "exec python -m http.server --bind $HOST $PORT"


@pytest.fixture
def serve(client: BitaHubClient, platform: Emulator) -> Iterator[Callable[[str], str]]:
    """Creates a serving that runs a command, and returns its name; removes it afterwards."""
    (platform.storage / "models/triggers/dense").mkdir(parents=True, exist_ok=True)
    names = []

    def serve(command: str) -> str:
        names.append(f"triggered-{next(_numbers)}")
        model = ServingModel(path="/models/triggers/dense", mount_path="/model/dense")
        spec = ServingSpec(name=names[-1], model=model, image=IMAGE, protocols=[ServingProtocol()], commands=[command])
        client.send(create_serving(spec))
        return names[-1]

    yield serve
    for name in names:
        with suppress(BitaHubError):
            client.send(delete_serving(name))


@pytest.fixture
def status(platform: Emulator) -> Callable[[str], str]:
    """Returns a serving's status."""
    return lambda name: platform.state.serving(ServingKey("inference", name, "v1")).status.value


def trigger(name: str, **arguments: Any) -> BitaHubServingTrigger:
    return BitaHubServingTrigger(
        **{
            "bitahub_conn_id": "bitahub_default",
            "serving_name": name,
            "version": "v1",
            "poll_interval": 0.05,
            "grace": 0,
            **arguments,
        }
    )


def test_trigger_survives_storage() -> None:
    stored = BitaHubServingTrigger(
        "elsewhere",
        "s",
        "v2",
        7.5,
        "/health",
        99.5,
        pending_deadline=111.5,
        until=222.5,
        is_update=True,
        unseen_until=333.5,
        deadline=123.5,
        grace=None,
        cancel_on_kill=False,
        earliest_report=77.5,
    )
    assert restored(stored).serialize() == stored.serialize()
    assert stored.serialize() == (
        "airflow_bitahub.triggers.serving.BitaHubServingTrigger",
        {
            "bitahub_conn_id": "elsewhere",
            "serving_name": "s",
            "version": "v2",
            "poll_interval": 7.5,
            "readiness_path": "/health",
            "created_at": 99.5,
            "pending_deadline": 111.5,
            "until": 222.5,
            "is_update": True,
            "unseen_until": 333.5,
            "deadline": 123.5,
            "grace": None,
            "cancel_on_kill": False,
            "earliest_report": 77.5,
        },
    )


@pytest.mark.usefixtures("connection")
def test_serving_that_answers_is_reported_once(serve: Callable[[str], str]) -> None:
    name = serve(ANSWER)
    [event] = events_of(restored(trigger(name)))
    assert event["outcome"] == "ready"
    serving = Serving.model_validate(event["serving"])
    assert (serving.name, serving.status) == (name, ServingStatus.RUNNING)
    assert "token" not in event["serving"]


@pytest.mark.usefixtures("connection")
def test_serving_that_failed_is_reported(serve: Callable[[str], str]) -> None:
    name = serve("exit 3")
    [event] = events_of(trigger(name))
    assert event["outcome"] == "failed"
    assert f"'{name}' is FAILED" in event["message"]


def test_log_shows_no_error_while_the_program_of_a_serving_does_not_answer_yet(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = {"name": "slow", "status": "RUNNING", "hosts": "http://127.0.0.1:1"}
    gateway.answer = lambda _: (200, {"status": {"code": 0}, "data": serving})
    lines: list[str] = []
    note = SimpleNamespace(
        info=lambda message, *arguments: lines.append(message % arguments),
        warning=lambda message, *arguments: lines.append(message % arguments),
    )
    monkeypatch.setattr(BitaHubServingTrigger, "log", note)
    [event] = events_of(trigger("slow", deadline=time.time() + 0.5))
    assert event["outcome"] == "timeout"
    assert lines == ["The serving 'slow' is RUNNING"]


def test_passed_deadline_is_reported_and_the_serving_is_left_to_the_task(gateway: Gateway) -> None:
    """The platform reports RUNNING, but the program answers only with errors."""
    serving = {"name": "sick", "status": "RUNNING", "hosts": f"{gateway.url}/program"}
    gateway.answer = lambda asked: (
        (503, {}) if asked.path == "/program/health" else (200, {"status": {"code": 0}, "data": serving})
    )
    [event] = events_of(trigger("sick", readiness_path="/health", deadline=time.time() + 0.2))
    assert event["outcome"] == "timeout"
    assert "answering at '/health'" in event["message"]
    assert {asked.method for asked in gateway.asked} == {"GET"}


@pytest.mark.usefixtures("connection")
def test_serving_the_platform_does_not_know_has_failed() -> None:
    [event] = events_of(trigger("never-created"))
    assert event["outcome"] == "failed"
    assert "never-created" in event["message"]


@pytest.mark.usefixtures("connection")
def test_serving_that_may_still_appear_is_waited_for() -> None:
    [event] = events_of(trigger("never-created", grace=None, deadline=time.time() + 0.2))
    assert event["outcome"] == "timeout"
    assert "last seen: never" in event["message"]


def test_refusal_is_reported_immediately_and_without_the_token(gateway: Gateway, connection: dict[str, Any]) -> None:
    gateway.answer = lambda _: (403, {"status": {"code": 403, "msg": "go away"}})
    [event] = events_of(trigger("serving", grace=None))  # a sensor's
    assert event["outcome"] == "error"
    assert "go away" in event["message"]
    assert connection["password"] not in str(event)
    assert len(gateway.asked) == 1


def waiting_for(trigger: BitaHubServingTrigger, run: TaskRun) -> BitaHubServingTrigger:
    ti: Any = SimpleNamespace(dag_id="tests", task_id="task", run_id=run.run_id, map_index=run.map_index)
    trigger.task_instance = ti
    return trigger


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("state", ["failed", "success", "restarting", None])
def test_killed_trigger_stops_the_serving_of_an_inactive_task(
    state: str | None,
    serve: Callable[[str], str],
    status: Callable[[str], str],
    task_run: TaskRun,
    task_state: Callable[[str | None], None],
) -> None:
    name = serve(ANSWER)
    task_state(state)
    asyncio.run(waiting_for(trigger(name), task_run).on_kill())
    until(lambda: status(name), lambda now: now == "STOPPED")


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("state", ["deferred", "running", "up_for_retry"])
def test_trigger_that_is_only_moved_leaves_the_serving_alone(
    state: str,
    serve: Callable[[str], str],
    status: Callable[[str], str],
    task_run: TaskRun,
    task_state: Callable[[str | None], None],
) -> None:
    name = serve(ANSWER)
    task_state(state)
    asyncio.run(waiting_for(trigger(name), task_run).on_kill())
    assert status(name) in ("WAITING", "RUNNING")


@pytest.mark.usefixtures("connection")
def test_killed_trigger_leaves_the_serving_without_an_answer_of_airflow_or_where_cancel_on_kill_is_false(
    serve: Callable[[str], str],
    status: Callable[[str], str],
    task_run: TaskRun,
    task_state: Callable[[str | None], None],
) -> None:
    name = serve(ANSWER)
    asyncio.run(waiting_for(trigger(name), task_run).on_kill())
    task_state("failed")
    asyncio.run(waiting_for(trigger(name, cancel_on_kill=False), task_run).on_kill())
    assert status(name) in ("WAITING", "RUNNING")
