"""Finding orphaned jobs in a real Airflow's database."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import JobSpec, TaskRole, submit_job
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.identity import deployment_marker, new_token
from tests.e2e.conftest import DEPLOYMENT, wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


def jobs(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``airflow-bitahub jobs`` beside Airflow; the connection ``unnamed`` has no extra 'deployment'."""
    connection = {"conn_type": "bitahub", "host": world.emulator.url, "password": world.emulator.token}
    program = "import sys; from airflow_bitahub.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, "jobs", *arguments],
        env={**world.airflow.environment, "AIRFLOW_CONN_UNNAMED": json.dumps(connection)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_only_orphans_are_reaped(world: World) -> None:
    dag, run_id = "both_ways", world.airflow.trigger("both_ways")
    wait_until(lambda: world.states(dag, run_id) == {"on-worker": "running", "in-triggerer": "deferred"})
    worker, triggerer = (
        wait_until(partial(world.job, dag, run_id, task))["name"] for task in ("on-worker", "in-triggerer")
    )
    marker = deployment_marker(f"{DEPLOYMENT} {world.airflow.url}")
    orphan, foreign = f"lost-20260101-{new_token(marker)}-1", "somebody-elses"
    client = BitaHubClient(world.emulator.url, auth=BearerToken(world.emulator.token))
    for name in (orphan, foreign):
        role = TaskRole(image="python:3", command="sleep 300")
        client.send(submit_job(JobSpec(job_name=name, task_roles=[role])))
    client.close()

    listed = jobs(world, "list")
    assert listed.returncode == 0, listed.stderr
    ownership = {line.split()[1]: line.split()[0] for line in listed.stdout.splitlines()}
    known = {name: ownership[name] for name in (worker, triggerer, orphan)}
    assert known == {worker: "owned", triggerer: "owned", orphan: "orphan"}
    assert foreign not in ownership
    assert f"on-worker of both_ways, {run_id}" in listed.stdout

    refused = jobs(world, "reap", "--conn-id", "unnamed", "--no-dry-run")
    assert refused.returncode == 1
    assert "extra 'deployment'" in refused.stderr

    reaped = jobs(world, "reap", "--no-dry-run")
    assert reaped.returncode == 0, reaped.stderr
    assert f"{orphan} " in reaped.stdout
    ended = {job["name"] for job in world.ledger("") if job["state"] == "STOPPED"}
    assert orphan in ended
    assert not ended & {worker, triggerer, foreign}

    # Deleting a run stops its jobs. Airflow only deletes a run that has ended.
    world.airflow.call("PATCH", f"/dags/{dag}/dagRuns/{run_id}", {"state": "failed"})
    world.airflow.call("DELETE", f"/dags/{dag}/dagRuns/{run_id}")
    wait_until(lambda: {job["state"] for job in world.ledger("") if job["name"] in (worker, triggerer)} == {"STOPPED"})
