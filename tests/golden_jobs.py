"""Runs the jobs of the platform's document with small changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, read_job_log, submit_job
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.procedures.jobs import wait_for_job

GOLDEN = Path(__file__).parent / "golden"


def body_of(name: str) -> dict[str, Any]:
    """Return the body of one of the document's requests."""
    body: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())["request"]["json"]
    return body


def run_job(client: BitaHubClient, golden: str, name: str, output: str, replaced: dict[str, str], **role: Any) -> Job:
    """Run one of the document's jobs under another name, and check that it succeeds.

    :param output: server path of its output folder
    :param replaced: texts in its body, and what to write in their place
    :param role: what to change in its only role
    """
    text = json.dumps(body_of(golden))
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    body = json.loads(text)
    body["output"]["mountSource"]["path"] = output
    body["taskRoles"][0].update(role)
    client.send(submit_job(JobSpec.model_validate({**body, "jobName": name})))
    job = client.run(wait_for_job(name, poll_interval=0.2))
    assert job.status.is_successful, f"{job}: {client.send(read_job_log(name))}"
    return job
