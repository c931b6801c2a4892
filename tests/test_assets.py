"""Asset events: what a saved version tells, and how a DAG reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.api.datamodels._generated import AssetEventResponse, AssetResponse
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import AssetEventsResult
from airflow.sdk.execution_time.context import InletEventsAccessors

from airflow_bitahub.assets import BitaHubModel, BitaHubServing
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.storage.manifest import MANIFEST
from tests.conftest import TaskRun, events_of

_numbers = count(1)


@pytest.fixture
def model(platform: Emulator) -> BitaHubModel:
    """A model of the test's own, and the output of a job that is to be saved as it."""
    name = f"announced-{next(_numbers)}"
    for folder in (FOLDERS.model(name)[0], source_of(name)):
        (platform.storage / folder.lstrip("/")).mkdir(parents=True)
    (platform.storage / source_of(name).lstrip("/") / "weights").write_text("1, 2, 3")
    return BitaHubModel(name)


def source_of(name: str) -> str:
    return f"{FOLDERS.outputs('trained')}/{name}"


def arguments(model: BitaHubModel, **more: Any) -> dict[str, Any]:
    source = {"output_path": source_of(model.name), "job_name": "train-1", "code_digest": "abc"}
    return {
        "task_id": "task",
        "model": model.name,
        "source": source,
        "metrics": {"accuracy": 0.9, "loss": float("nan")},
        "poll_interval": 0.02,
        **more,
    }


def save(model: BitaHubModel, **more: Any) -> BitaHubSaveModelOperator:
    return BitaHubSaveModelOperator(**arguments(model, **more))


def by_a_job(make: Callable[[], Any], run: TaskRun) -> tuple[Any, Any, Any]:
    operator, context = make(), run.context()
    return operator, context, operator.execute(context)


def deferred(make: Callable[[], Any], run: TaskRun) -> tuple[Any, Any, Any]:
    """Save in two parts, each of them in a process of its own."""
    with pytest.raises(TaskDeferred) as deferral:
        make().execute(run.context())
    [event] = events_of(deferral.value.trigger)
    operator, context = make(), run.context()
    return operator, context, operator.execute_complete(context, event)


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(
    ("how", "more"),
    [(by_a_job, {}), (deferred, {"deferrable": True, "defer_after": 0}), (by_a_job, {"copy_by": "storage"})],
    ids=["by a job", "deferred", "through the storage"],
)
def test_a_saved_version_is_announced_with_what_its_manifest_says(
    model: BitaHubModel,
    task_run: TaskRun,
    platform: Emulator,
    how: Callable[..., tuple[Any, Any, Any]],
    more: dict[str, Any],
) -> None:
    operator, context, result = how(lambda: save(model, **more), task_run)
    assert operator.outlets == [model.asset]
    extra = context["outlet_events"][model.asset].extra
    manifest = json.loads((platform.storage / result["model_path"].lstrip("/") / MANIFEST).read_text())
    del manifest["files"]
    assert extra == {
        **manifest,
        "uri": f"bitahub://{platform.url.partition('://')[2]}/models/{FOLDERS.user_id}/{model.name}",
        "path": result["model_path"],
        "model": model.name,
        "version": result["version"],
        "job": "train-1",
        "metrics": {"accuracy": 0.9, "loss": None},
    }
    assert task_run.xcoms["bitahub_model_url"].endswith(f"/console/models#/models/{FOLDERS.user_id}/{model.name}")


@pytest.mark.usefixtures("connection")
def test_a_mapped_task_announces_its_version_and_a_partition_where_its_outlets_ask_for_one(
    model: BitaHubModel, task_run: TaskRun
) -> None:
    mapped = BitaHubSaveModelOperator.partial(**arguments(model, outlets=[model.versions])).expand(copy_by=["storage"])
    operator: Any = mapped.unmap({"copy_by": "storage"})
    context = task_run.context()
    result = operator.execute(context)
    assert operator.outlets == [model.versions, model.asset]
    events = context["outlet_events"]
    assert events[model.versions].partition_keys == {result["version"]}
    assert events[model.versions].extra == events[model.asset].extra
    assert events[model.asset].partition_keys == set(), "it would start no DAG that is scheduled on the plain asset"


@pytest.mark.usefixtures("connection")
def test_a_name_that_is_known_only_at_run_time_is_announced_then(model: BitaHubModel, task_run: TaskRun) -> None:
    operator = BitaHubSaveModelOperator(**{**arguments(model, copy_by="storage"), "model": "{{ params.model }}"})
    assert operator.outlets == []
    operator.model = model.name  # as Airflow renders it
    context = task_run.context()
    operator.execute(context)
    assert operator.outlets == [model.asset]
    assert context["outlet_events"][model.asset].extra["model"] == model.name


@pytest.mark.usefixtures("connection")
def test_a_saved_model_is_worth_more_than_its_announcement(
    model: BitaHubModel, task_run: TaskRun, capsys: pytest.CaptureFixture[str]
) -> None:
    context = task_run.context()
    del context["outlet_events"]
    result = save(model, copy_by="storage").execute(context)
    assert result is not None
    assert result["version"]
    assert "its asset event may have no details: KeyError" in capsys.readouterr().out


def test_what_is_not_saved_when_the_task_ends_is_not_announced() -> None:
    assert save(BitaHubModel("m"), wait_for_completion=False).outlets == []


@pytest.mark.parametrize(
    ("connection", "uri"),
    [
        ("bitahub_default", "bitahub://bitahub_default/models/m"),
        ("team/a:b", "bitahub://team%2Fa%3Ab/models/m"),
    ],
)
def test_an_assets_name_is_its_uri_and_nothing_in_it_is_secret(connection: str, uri: str) -> None:
    asset = BitaHubModel("m", connection).asset
    assert (asset.name, asset.uri) == (uri, uri)
    assert asset == BitaHubModel("m", connection).asset
    assert asset.extra == {"model": "m", "bitahub_conn_id": connection}


def test_every_asset_of_a_model_is_another_one() -> None:
    model = BitaHubModel("m")
    assets = [model.asset, model.versions, model.watched(30), BitaHubServing("m").asset]
    assert len({asset.name for asset in assets}) == 4
    [watcher] = assets[2].watchers
    assert watcher.trigger.serialize()[1] == {"model": "m", "poll_interval": 30, "bitahub_conn_id": "bitahub_default"}


@pytest.mark.parametrize("uri", ["bitahub://x", "bitahub:///models/m", "bitahub://x/models"])
def test_a_uri_that_names_nothing_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="A BitaHub URI is like"):
        Asset(name="mine", uri=uri)


@pytest.mark.parametrize("name", ["", "a/b", "..", "{{ params.model }}"])
def test_a_name_that_no_model_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"model .* cannot be part of a path"):
        BitaHubModel(name)


# Reading -----------------------------------------------------------------------------------------------------------

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Events:
    """Stands for Airflow's record of asset events, as a task asks for it: by a message to its supervisor."""

    def __init__(self, **extras_by_asset: list[dict[str, Any] | None]) -> None:
        self.extras = extras_by_asset

    def send(self, message: Any) -> AssetEventsResult:
        kind = message.name.rsplit("/", 1)[-1]
        asset = AssetResponse(name=message.name, uri=message.uri, group="", extra=None)
        found = [
            AssetEventResponse(
                id=number, timestamp=NOW + timedelta(number), extra=extra, asset=asset, created_dagruns=[]
            )
            for number, extra in enumerate(self.extras.get(kind, []))
            if extra is not None
        ]
        assert not message.ascending
        assert message.limit
        return AssetEventsResult(asset_events=found[::-1][: message.limit])


@pytest.mark.parametrize(
    ("events", "newest"),
    [
        ({"m": [{"path": "1"}, {"path": "2"}]}, "2"),
        ({"m": [{"path": "1"}, {"by": "hand"}]}, "1"),
        ({"m": [{"path": "1"}], "watched": [None, {"from_trigger": True, "payload": {"path": "2"}}]}, "2"),
    ],
    ids=["of several", "with one made by hand", "of a watcher"],
)
def test_the_newest_version_is_read_whichever_event_started_the_run(
    monkeypatch: pytest.MonkeyPatch, events: dict[str, Any], newest: str
) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Events(**events), raising=False)
    model = BitaHubModel("m")
    inlets = InletEventsAccessors([Asset("another"), model.asset, model.watched()])
    assert model.newest(inlets)["path"] == newest


def test_no_version_yet_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Events(), raising=False)
    with pytest.raises(ConfigurationError, match="no event yet about model 'm'"):
        BitaHubModel("m").newest(InletEventsAccessors([BitaHubModel("m").asset]))
    with pytest.raises(ConfigurationError, match="no asset of serving 'm' among its inlets"):
        BitaHubServing("m").newest(InletEventsAccessors([BitaHubModel("m").asset]))
