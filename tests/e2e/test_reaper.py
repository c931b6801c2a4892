"""Finding orphaned jobs in a real Airflow's database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import JobSpec, TaskRole, submit_job
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.identity import new_token
from tests.e2e.conftest import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


def ownership(listed: str) -> dict[str, str]:
    return {line.split()[1]: line.split()[0] for line in listed.splitlines()}


def in_database(world: World, statement: str, *arguments: Any) -> list[Any]:
    with closing(sqlite3.connect(world.airflow.home / "airflow.db", timeout=60)) as database, database:
        return database.execute(statement, arguments).fetchall()


def test_only_orphans_are_reaped(world: World) -> None:
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
    world.airflow.call("DELETE", f"/dags/{dag}/dagRuns/{run_id}")
    wait_until(lambda: {job["state"] for job in world.ledger("") if job["name"] in (worker, triggerer)} == {"STOPPED"})
