"""The triggers of asset watchers report each thing once, also after a restart, and never end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.api.jobs import JobSpec, TaskRole, submit_job
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.storage.manifest import MANIFEST
from airflow_bitahub.storage.storage import Storage
from airflow_bitahub.triggers import asset_events
from airflow_bitahub.triggers.asset_events import EventTrigger, Reported
from airflow_bitahub.triggers.job_event import BitaHubJobEventTrigger
from airflow_bitahub.triggers.model import BitaHubModelTrigger
from tests.conftest import IMAGE, Submitted, restored

_numbers = count(1)
DIGEST = 8  # characters, in the store
SILENCE = 0.5  # seconds in which a trigger looks about 20 times


class Store(dict[str, Any]):
    """Stands for Airflow's store of an asset: what it is given outlasts the triggerer."""

    fails = False

    async def aget(self, key: str) -> Any:
        self._answer()
        return self.get(key)

    async def aset(self, key: str, value: Any) -> None:
        self._answer()
        self[key] = json.loads(json.dumps(value))

    def _answer(self) -> None:
        if self.fails:
            raise RuntimeError("the database is locked")


class Running:
    """A trigger in a triggerer, until the end of the block: then the triggerer is restarted."""

    def __init__(self, trigger: EventTrigger, store: Store) -> None:
        self._trigger = restored(trigger)
        self._trigger.asset_state_store = store
        self._store = store
        self.payloads: list[dict[str, Any]] = []

    async def __aenter__(self) -> Running:
        self._task = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _collect(self) -> None:
        async for event in self._trigger.run():
            self.payloads.append(event.payload)

    async def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert not self._task.done(), self._task
            assert time.monotonic() < deadline, (self.payloads, self._store)
            await asyncio.sleep(0.02)

    async def until_stored(self, number: int) -> None:
        """Wait until so many things are in the store: those that were reported, and those that were there before."""
        await self.until(lambda: [len(text) for text in self._store.values()] == [DIGEST * number])


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asset_events, "SETTLING_SECONDS", 0.0)


@pytest.fixture
def model(platform: Emulator) -> Path:
    """The folder of a model of the test's own, which does not exist yet."""
    return platform.storage / FOLDERS.model(f"watched-{next(_numbers)}")[0].lstrip("/")


def write(version: Path, manifest: str = "{}") -> None:
    version.mkdir(parents=True, exist_ok=True)
    (version / MANIFEST).write_text(manifest)


@pytest.mark.usefixtures("connection")
def test_versions_that_appear_are_reported_once_also_after_a_restart(model: Path, platform: Emulator) -> None:
    write(model / "old")
    trigger, store = BitaHubModelTrigger(model.name, poll_interval=0.02), Store()

    async def watch() -> None:
        async with Running(trigger, store) as running:
            await running.until(lambda: store)
            (model / "empty").mkdir()
            (model / ".new.partial").mkdir()
            write(model / ".new.previous")
            write(model / "bad", "{")  # it must not hold up the others
            write(model / "no part of a path")
            write(model / "new", json.dumps({"metrics": {"accuracy": 0.9}, "job": "train-1", "files": []}))
            await running.until_stored(2)
            [payload] = running.payloads
            assert payload == {
                "uri": f"bitahub://{platform.url.partition('://')[2]}/models/{FOLDERS.user_id}/{model.name}",
                "path": f"{FOLDERS.model(model.name)[0]}/new",
                "model": model.name,
                "version": "new",
                "metrics": {"accuracy": 0.9},
                "job": "train-1",
                **dict.fromkeys(("code_digest", "source", "saved_by", "run")),
            }
        write(model / "meanwhile")
        async with Running(trigger, store) as running:
            await running.until_stored(3)
            write(model / "empty", json.dumps({"metrics": "x" * 70_000}))
            await running.until_stored(4)
            await asyncio.sleep(SILENCE)
            assert [payload["version"] for payload in running.payloads] == ["meanwhile", "empty"]
            assert running.payloads[1]["metrics"] is None, "too much for an event"

    asyncio.run(watch())


def test_versions_in_an_object_store_are_reported_once_also_after_a_restart(
    bucket: str, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"{bucket}/watched-{next(_numbers)}"
    extra = {**connection["extra"], "storage_uri": root}
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps({**connection, "extra": extra}))
    # Whoever saves versions has a file system object of its own, and the trigger's may remember what it has listed.
    saver = Storage(root.replace("aws_test", "aws_other"))

    def save(version: str, file: str, content: str = "{}") -> None:
        saver.write_bytes("model", f"{FOLDERS.model('net')[0]}/{version}/{file}", content.encode())

    save("old", MANIFEST)
    trigger, store = BitaHubModelTrigger("net", poll_interval=0.02), Store()

    async def watch() -> None:
        async with Running(trigger, store) as running:
            await running.until(lambda: store)
            await asyncio.to_thread(save, "new", "saved_model.pb", "a model")
            await asyncio.sleep(SILENCE)
            assert running.payloads == [], "its manifest is written last"
            await asyncio.to_thread(save, "new", MANIFEST, json.dumps({"job": "train-1"}))
            await running.until_stored(2)
        save("meanwhile", MANIFEST)
        async with Running(trigger, store) as again:
            await again.until_stored(3)
            await asyncio.sleep(SILENCE)
        reported = [(payload["version"], payload["job"]) for payload in (*running.payloads, *again.payloads)]
        assert reported == [("new", "train-1"), ("meanwhile", None)]

    asyncio.run(watch())


@pytest.mark.usefixtures("connection")
def test_odd_answers_of_the_storage_and_of_airflow_repeat_no_event_and_lose_none(model: Path) -> None:
    trigger, store = BitaHubModelTrigger(model.name, poll_interval=0.02), Store()
    store.fails = True

    async def watch() -> None:
        async with Running(trigger, store) as running:
            await asyncio.sleep(SILENCE)
            assert running.payloads == [], "what was reported before is not known yet"
            store.fails = False
            await running.until(lambda: store)
            write(model / "first")
            await running.until_stored(1)
            away = model.rename(model.with_name(f"{model.name}-away"))  # as an NFS mount that is not there
            await asyncio.sleep(SILENCE)
            away.rename(model)
            store.fails = True
            write(model / "second")
            await running.until(lambda: len(running.payloads) == 2)
            store.fails = False
            await running.until_stored(2)
            assert [payload["version"] for payload in running.payloads] == ["first", "second"]
        async with Running(trigger, store) as running:
            await asyncio.sleep(SILENCE)
            assert running.payloads == []

    asyncio.run(watch())


@pytest.mark.usefixtures("connection")
def test_jobs_that_end_outside_airflow_are_reported_once_through_outages(
    platform: Emulator, client: BitaHubClient, submitted: Submitted
) -> None:
    prefix = f"outside-{next(_numbers)}"

    def run(name: str, command: str = "true") -> None:
        client.send(submit_job(JobSpec(job_name=name, task_roles=[TaskRole(image=IMAGE, command=command)])))
        submitted.wait(name)

    run(f"{prefix}-old")
    trigger, store = BitaHubJobEventTrigger(f"{prefix}-*", poll_interval=0.02), Store()

    async def watch() -> None:
        async with Running(trigger, store) as running:
            await running.until(lambda: store)
            odd = Effect(before=Answer(status=400, body="who are you?"))
            platform.faults.add(Fault(match=Match(method="GET", path="*/jobs", times=3), effect=odd))
            fault = platform.faults.add(Fault(match=Match(method="GET", path=f"*/{prefix}-fails", times=3), effect=odd))
            await asyncio.to_thread(run, f"{prefix}-fails", "exit 3")
            await running.until_stored(2)
            await asyncio.to_thread(run, "another")
            await asyncio.to_thread(run, f"{prefix}-20260101-abcdeabcdefg-1")  # a name of this package's making
            await asyncio.to_thread(run, f"{prefix}-well")
            await running.until_stored(3)
            assert fault.applied == 3
            fails, well = running.payloads
            assert (fails["job_name"], fails["status"], fails["exit_code"]) == (f"{prefix}-fails", "FAILED", 3)
            assert (well["job_name"], well["status"], well["exit_code"]) == (f"{prefix}-well", "SUCCEEDED", 0)
            assert fails["url"].endswith(f"/console/jobs/bita-user/{prefix}-fails")
        async with Running(trigger, store) as running:
            await asyncio.sleep(SILENCE)
            assert running.payloads == []

    asyncio.run(watch())


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: BitaHubModelTrigger("a/b"), "model 'a/b' cannot be part of a path"),
        (lambda: BitaHubModelTrigger("m", poll_interval=0), "poll_interval must be a positive time, not 0"),
        (lambda: BitaHubJobEventTrigger(""), "job_name must be the name of a job"),
        (lambda: BitaHubJobEventTrigger("*", statuses=["RUNNING"]), "statuses must be a list of some of"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_dag_is_parsed(make: Callable[[], Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        make()


def test_a_trigger_of_several_assets_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    from airflow.sdk import Asset
    from airflow.sdk.execution_time.context import AssetStateStoreAccessors

    trigger = BitaHubModelTrigger("m", poll_interval=0.02)
    trigger.asset_state_store = AssetStateStoreAccessors(inlets=[Asset("one"), Asset("two")])

    async def watch() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(trigger.run()), 0.2)

    asyncio.run(watch())
    assert "Give each another poll_interval" in capsys.readouterr().out


def test_what_was_reported_is_short_and_forgets_what_is_gone_only_where_there_is_very_much() -> None:
    reported = Reported()
    names = [f"version-{number}" for number in range(8000)]
    reported.add(names[:7000])
    assert len(Reported(reported.text).text) < 65_000
    reported.tidy([])
    assert names[0] in reported
    reported.add(names)
    reported.tidy(names[4000:])
    assert (names[0] in reported, names[-1] in reported, "other" in reported) == (False, True, False)
