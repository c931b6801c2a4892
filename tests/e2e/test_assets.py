"""What asset events start, on a real scheduler and triggerer."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import JobSpec, TaskRole, submit_job
from airflow_bitahub.assets import BitaHubModel
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo import platform
from airflow_bitahub.storage.manifest import MANIFEST
from tests.e2e.conftest import SECONDS, wait_until
from tests.e2e.dag_runs import ON_NEW_MODEL

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.long]
MODEL = BitaHubModel("announced")
WATCHED = f"versions of model {MODEL.name}"
BEGUN = f"Watching {WATCHED}"  # in the triggerer's log
PATH = platform.FOLDERS.model(MODEL.name)[0]


def events(world: World, name: str) -> list[dict[str, Any]]:
    """Return the events of an asset, oldest first."""
    found = world.airflow.call("GET", f"/assets/events?name_pattern={name}&order_by=timestamp")["asset_events"]
    return [event for event in found if event["name"] == name]


def runs(world: World, dag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.airflow.call("GET", f"/dags/{dag}/dagRuns?order_by=start_date")["dag_runs"]
    return found


@pytest.mark.dag_runs("saves")
def test_versions_that_tasks_save_start_the_dags_that_wait_for_them(world: World) -> None:
    dag, run_id, state = world.finish("saves")
    assert state == "success"
    tasks = ["deferred", "mapped", "mapped", "mapped"]
    saved = [
        world.airflow.xcom(dag, run_id, task, map_index=index) for task, index in zip(tasks, (-1, 0, 1, 2), strict=True)
    ]
    by_version = {result["version"]: result["model_path"] for result in saved}
    assert {*by_version} >= {"a", "b", "c"}
    announced = events(world, MODEL.asset.name)
    assert {event["extra"]["version"]: event["extra"]["path"] for event in announced} == by_version
    assert [event["source_task_id"] for event in announced] == tasks, "one event for each version"
    assert announced[0]["extra"]["metrics"] == {"accuracy": 0.9}
    assert announced[0]["extra"]["job"] == world.airflow.xcom(dag, run_id, "make")["job_name"]

    # A burst may start a single run. Whichever event started the last one, it finds the newest version.
    def last_found() -> Any:
        last = runs(world, "newest")[-1]
        found = world.airflow.xcom("newest", last["dag_run_id"], "newest")
        return last["state"] == "success" and found and found["path"]

    wait_until(lambda: last_found() == announced[-1]["extra"]["path"], SECONDS)
    wait_until(lambda: len(runs(world, "each_version")) == 3, SECONDS)
    assert {run["partition_key"] for run in runs(world, "each_version")} == {"a", "b", "c"}


@pytest.mark.dag_runs("saves")
def test_versions_on_the_storage_are_reported_once_also_after_a_restart_of_the_triggerer(world: World) -> None:
    world.finish("saves")
    watched = MODEL.watched(1)

    def versions() -> list[str]:
        return [event["extra"]["payload"]["version"] for event in events(world, watched.name)]

    wait_until(lambda: known(world, WATCHED), SECONDS)
    write(world, "elsewhere")
    wait_until(lambda: "elsewhere" in versions(), SECONDS)
    triggerer, log = world.airflow.processes["triggerer"], world.airflow.home / "triggerer.log"
    wait_until(lambda: known(world, WATCHED) == [len(versions_on_storage(world))], SECONDS)
    begun = log.read_text(errors="replace").count(BEGUN)
    triggerer.terminate()
    triggerer.wait(60)
    write(world, "meanwhile")
    world.airflow.start_component("triggerer")
    wait_until(lambda: "meanwhile" in versions(), SECONDS)
    assert log.read_text(errors="replace").count(BEGUN) > begun
    assert sorted(versions()) == sorted({*versions()})
    assert {"elsewhere", "meanwhile"} <= {*versions()} <= {*versions_on_storage(world)}
    assert runs(world, "watched")


def test_a_job_that_ends_outside_airflow_starts_a_dag(world: World) -> None:
    wait_until(lambda: known(world, "jobs outside"), SECONDS)
    client = BitaHubClient(world.emulator.url, auth=BearerToken(world.emulator.token))
    for name, command in (("outside-fails", "exit 1"), ("outside-well", "true")):
        client.send(submit_job(JobSpec(job_name=name, task_roles=[TaskRole(image="python:3", command=command)])))
    client.close()
    wait_until(lambda: runs(world, "on_jobs"), SECONDS)
    [event] = events(world, "jobs outside")
    assert event["extra"]["payload"]["job_name"] == "outside-well"


@pytest.mark.dag_runs("gate closes")
def test_the_example_checks_the_files_of_a_new_version(world: World) -> None:
    dag, run_id, _ = world.finish("gate closes")
    saved = world.airflow.xcom(dag, run_id, "save_model")["model_path"]

    def checked() -> set[str]:
        successful = [run["dag_run_id"] for run in runs(world, ON_NEW_MODEL) if run["state"] == "success"]
        return {world.airflow.xcom(ON_NEW_MODEL, each, "newest_version")["path"] for each in successful}

    def has_ended() -> bool:
        return any(run["state"] in ("success", "failed") for run in runs(world, ON_NEW_MODEL))

    wait_until(has_ended, SECONDS)
    found = checked()
    assert {path.rsplit("/", 1)[0] for path in found} == {saved.rsplit("/", 1)[0]}
    assert {job["state"] for job in world.ledger("verify-model-")} == {"SUCCEEDED"}


def versions_on_storage(world: World) -> list[str]:
    folder = platform.server_folder(world.emulator.storage, PATH)
    return [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]


def known(world: World, watched: str) -> list[int]:
    """Return how many things a watcher knows, each of which takes eight characters; nothing before its first look."""
    statement = "SELECT value FROM asset_state_store WHERE key LIKE ?"
    with closing(sqlite3.connect(world.airflow.home / "airflow.db", timeout=60)) as database:
        return [len(json.loads(value)) // 8 for (value,) in database.execute(statement, [f"%.{watched}%"])]


def write(world: World, version: str) -> None:
    """Save a version as another program does."""
    folder = platform.server_folder(world.emulator.storage, f"{PATH}/{version}")
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps({"metrics": {"accuracy": 0.95}}))
