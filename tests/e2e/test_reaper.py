"""Finding orphaned jobs in a real Airflow's database."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import JobSpec, TaskRole, submit_job
from airflow_bitahub.api.servings import ServingSpec, create_serving, delete_serving, get_serving, list_servings
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.deployment_records import DEPLOYMENT_KEY
from airflow_bitahub.identity import new_token
from airflow_bitahub.procedures.deployments import Deployment, Owner, Rollout, Version, to_json
from tests.e2e.conftest import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def ownership(listed: str) -> dict[str, str]:
    return {line.split()[1]: line.split()[0] for line in listed.splitlines()}


def in_database(world: World, statement: str, *arguments: Any) -> list[Any]:
    with closing(sqlite3.connect(world.airflow.home / "airflow.db", timeout=60)) as database, database:
        return database.execute(statement, arguments).fetchall()


def scheduler_heartbeat(world: World) -> datetime:
    health = world.airflow.call("GET", "/monitor/health")
    return datetime.fromisoformat(health["scheduler"]["latest_scheduler_heartbeat"].replace("Z", "+00:00"))


def leave_deployment(world: World, hook: BitaHubHook, name: str, owner: Owner) -> None:
    """Put a deployment on record, as if a task tried a new version beside one that serves, and create both."""
    (world.emulator.storage / "models/u/m").mkdir(parents=True, exist_ok=True)
    times = []
    for each in (name, f"{name}-next"):
        spec = ServingSpec.model_validate(
            {
                "name": each,
                "model": {"path": "/models/u/m", "mount_path": "/m"},
                "image": "python:3",
                "protocols": [{}],
                "commands": ["exec sleep 300"],
            }
        )
        hook.send(create_serving(spec))
        times.append(hook.send(get_serving(each)).created_at)
    version = Version.of(spec, {}, metrics={"accuracy": 0.93})
    trial = Rollout(owner, time.time() + 900, version, has_candidate=True, candidate_created_at=times[1], replaces=True)
    record = Deployment(created_at=times[0], exists=True, versions=[version], rollout=trial)
    variable = {"key": f"{DEPLOYMENT_KEY}{hook.platform_id}.{name}.v1", "value": json.dumps(to_json(record))}
    world.airflow.call("POST", "/variables", variable)


def test_only_orphans_are_reaped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(world.emulator.connection(login="you", user_id="_you"))
    )
    hook = BitaHubHook()
    dag, run_id = "both_ways", world.airflow.trigger("both_ways")
    wait_until(lambda: world.states(dag, run_id) == {"on-worker": "running", "in-triggerer": "deferred"})
    worker, triggerer = (
        wait_until(partial(world.job, dag, run_id, task))["name"] for task in ("on-worker", "in-triggerer")
    )
    # Two first tasks that run at the same time make one each. Later tasks use the smaller one.
    variables = world.airflow.call("GET", "/variables?variable_key_pattern=bitahub_marker.%25")["variables"]
    markers = sorted(variable["value"] for variable in variables)
    marker = markers[0]
    orphan, foreign = (f"lost-20260101-{new_token(letters)}-1" for letters in (marker, "vwxyz"))
    client = BitaHubClient(world.emulator.url, auth=BearerToken(world.emulator.token))
    for name in (orphan, foreign):
        role = TaskRole(image="python:3", command="sleep 300")
        client.send(submit_job(JobSpec(job_name=name, task_roles=[role])))
    client.close()

    command = [sys.executable, "-m", "airflow_bitahub.cli", "jobs", "list"]  # with nothing imported, unlike below
    listed = subprocess.run(
        command, env=world.airflow.environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    known = {name: ownership(listed)[name] for name in (worker, triggerer, orphan)}
    assert known == {worker: "owned", triggerer: "owned", orphan: "orphan"}
    assert foreign not in listed
    assert "vwxyz (1)" in listed
    assert f"the marker {', '.join(markers)} " in listed
    assert f"on-worker of both_ways, {run_id}" in listed

    reaped = world.airflow.bitahub("jobs", "reap", "--no-dry-run")
    assert f"{orphan} " in reaped
    ended = {job["name"] for job in world.ledger("") if job["state"] == "STOPPED"}
    assert orphan in ended
    assert not ended & {worker, triggerer, foreign}

    # A deployment belongs to its task until that has ended.
    leave_deployment(world, hook, "reaped", Owner(dag, "on-worker", run_id))
    listed = world.airflow.bitahub("servings", "list")
    assert f"by task 'on-worker' of {dag} {run_id}\n" in listed  # and nothing about "left"
    assert "accuracy = 0.93" in listed

    # A triggerer that only takes up the tasks of some queues leaves this one alone.
    trigger = "id = (SELECT trigger_id FROM task_instance WHERE run_id = ? AND task_id = 'in-triggerer')"
    away = "UPDATE trigger SET queue = 'nobody', triggerer_id = NULL, created_date = '2026-01-01 00:00:00.000000'"
    in_database(world, f"{away} WHERE {trigger}", run_id)
    listed = world.airflow.bitahub("jobs", "list")
    assert ownership(listed)[triggerer] == "unwatched"
    assert ownership(listed)[worker] == "owned"
    assert "Deferred tasks that no triggerer watches: 1," in listed
    in_database(world, f"UPDATE trigger SET queue = NULL WHERE {trigger}", run_id)
    wait_until(lambda: in_database(world, f"SELECT triggerer_id FROM trigger WHERE {trigger}", run_id) != [(None,)])
    assert ownership(world.airflow.bitahub("jobs", "list"))[triggerer] == "owned"

    # Deleting a run stops its jobs. Airflow only deletes a run that has ended.
    world.airflow.call("PATCH", f"/dags/{dag}/dagRuns/{run_id}", {"state": "failed"})
    # A scheduler ends if a run is deleted while it works on it. From its next heartbeat on, it leaves this one alone.
    failed = datetime.now(timezone.utc)
    wait_until(lambda: scheduler_heartbeat(world) > failed)
    world.airflow.call("DELETE", f"/dags/{dag}/dagRuns/{run_id}")
    wait_until(lambda: {job["state"] for job in world.ledger("") if job["name"] in (worker, triggerer)} == {"STOPPED"})
    assert "and the candidate was removed" in world.airflow.bitahub("servings", "reap", "--no-dry-run")
    assert not {"reaped-next"} & {serving.name for serving in hook.send(list_servings())}
    stored = world.airflow.call("GET", f"/variables/{DEPLOYMENT_KEY}{hook.platform_id}.reaped.v1")
    assert json.loads(stored["value"])["rollout"] is None
    hook.send(delete_serving("reaped"))
    hook.client.close()
