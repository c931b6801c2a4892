"""This package copes with the faults of the emulator."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, list_jobs
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.api.servings import ServingSpec, delete_serving, list_servings
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Answer, Match, Records
from airflow_bitahub.emulator.server import DrivenClock, Emulator
from airflow_bitahub.exceptions import (
    AuthenticationError,
    JobLostError,
    RequestTimeoutError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.identity import JobRecord, TaskIdentity
from airflow_bitahub.procedures.deployments import Owner, Version
from airflow_bitahub.procedures.jobs import wait_for_job
from airflow_bitahub.procedures.plan import Plan
from airflow_bitahub.procedures.retry import Retry
from airflow_bitahub.procedures.rollout import Deployer
from airflow_bitahub.procedures.site import Site
from airflow_bitahub.procedures.submission import ensure_job
from airflow_bitahub.procedures.turn import Turn
from tests.emulator.conftest import JOBS, Api
from tests.emulator.faults.conftest import (
    BUSY,
    EXPIRED,
    FOR_EVER,
    QUERY,
    ROLE,
    SUBMISSION,
    Add,
    InBackground,
    advance_once,
    patch_state,
    requests_for,
)
from tests.procedures.stage import MemoryRecords


class OneJob:
    """A task that runs one job, and the requests that this job caused."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._before = len(api.emulator.state.ledger())
        self.saved: list[JobRecord] = []

    def ensure(self, client: BitaHubClient) -> Job:
        """Submit the job, or find it, as an operator does."""
        task = TaskIdentity("mnist", "20260101", lambda: "abcde", "/projects/u/p/outputs", 0, 1, 0, 0)
        job, _ = client.run(
            ensure_job(
                task,
                self.saved[-1] if self.saved else None,
                spec_for=lambda record: JobSpec(job_name=record.job_name, task_roles=[ROLE]),
                save=self.saved.append,
            )
        )
        return job

    @property
    def submissions(self) -> list[tuple[int, bool]]:
        """The submissions of the one job: status that the client received, and whether it reached the platform."""
        [entry] = self.api.emulator.state.ledger()[self._before :]
        assert entry.record.key.name == self.saved[-1].job_name
        return requests_for(self.api, entry.record.key.name, "POST")


@pytest.fixture
def one_job(api: Api) -> OneJob:
    return OneJob(api)


@pytest.mark.parametrize(
    ("after", "status"), [("close", 0), (Answer(status=504), 504), (Answer(body="<html>"), 200)], ids=str
)
def test_a_submission_whose_answer_is_lost_is_not_sent_again(
    one_job: OneJob, client: BitaHubClient, add: Add, after: Any, status: int
) -> None:
    add(SUBMISSION, after=after)
    job = one_job.ensure(client)
    assert one_job.submissions == [(status, True)]
    assert one_job.ensure(client).name == job.name, "the task's next try finds it"
    assert one_job.submissions == [(status, True)]


@pytest.mark.parametrize("before", ["close", Answer(status=502)], ids=str)
@pytest.mark.usefixtures("shown_at_once")
def test_a_submission_that_never_arrived_is_sent_again(
    one_job: OneJob, client: BitaHubClient, add: Add, before: Any
) -> None:
    lost = add(SUBMISSION, before=before)
    one_job.ensure(client)
    assert lost.applied == 1
    assert one_job.submissions == [(200, True)]


def test_a_submission_that_is_refused_for_now_is_sent_again(one_job: OneJob, client: BitaHubClient, add: Add) -> None:
    add(
        Match(method="POST", path="*/jobs/*", times=3),
        before=Answer(status=429, headers={"Retry-After": "0"}, body={"code": 429}),
    )
    one_job.ensure(client)
    assert one_job.submissions == [(200, True)]


def test_a_submission_that_takes_effect_after_nobody_waits_for_it_is_found(
    emulator: Emulator, one_job: OneJob, add: Add, clock: DrivenClock, in_background: InBackground
) -> None:
    impatient = BitaHubClient(emulator.url, auth=BearerToken(emulator.token), request_timeout=0.3)
    add(SUBMISSION, delay=60)
    looked = add(QUERY, delay=0)
    in_background(advance_once, clock, lambda: looked.applied)
    one_job.ensure(impatient)
    impatient.close()
    assert len(one_job.submissions) == 1


def test_a_job_that_is_shown_late_is_waited_for(one_job: OneJob, client: BitaHubClient, add: Add) -> None:
    add(Match(method="GET", path="*/jobs/*", times=1), records=Records(hide_for=5))
    one_job.ensure(client)
    assert one_job.submissions == [(200, True)]


def test_waiting_comes_through_all_of_it(
    api: Api, client: BitaHubClient, add: Add, clock: DrivenClock, in_background: InBackground
) -> None:
    name = api.submit("long")
    add(Match(path=f"*/{name}", probability=0.2, seed=1), before="close")
    add(Match(path=f"*/{name}", probability=0.2, seed=2), after=BUSY)
    add(Match(path=f"*/{name}", probability=0.2, seed=3), after=Answer(body='{"status"'))
    running = {"state": "RUNNING"}
    add(Match(probability=0.3, seed=4), records=Records(where=running, patch=patch_state("HIBERNATING")))
    last = add(Match(probability=0.3, seed=5), records=Records(where=running, patch=patch_state("WAITING")))
    in_background(advance_once, clock, lambda: last.applied > 5)
    seen: list[str] = []
    job = client.run(wait_for_job(name, poll_interval=0.01, on_change=lambda job: seen.append(job.raw_state)))
    assert job.status is JobStatus.SUCCEEDED
    assert {"RUNNING", "HIBERNATING", "WAITING"} < set(seen)


def test_a_job_that_vanishes_is_lost(api: Api, client: BitaHubClient, add: Add) -> None:
    name = api.submit("long")
    add(Match(method="GET", path=f"*/{name}", skip=2), records=Records(hide_for=FOR_EVER))
    with pytest.raises(JobLostError, match=name):
        client.run(wait_for_job(name, poll_interval=0.01, grace=0))
    api.http.delete(f"{JOBS}/{name}")


@pytest.mark.parametrize(
    ("effect", "error"),
    [
        ({"before": EXPIRED}, AuthenticationError),
        ({"before": BUSY}, ServerError),
        ({"before": "close"}, TransportError),
        ({"after": Answer(body='{"status": {"code": 0')}, UnexpectedResponseError),
        ({"delay": FOR_EVER}, RequestTimeoutError),
        ({"body_seconds": FOR_EVER}, RequestTimeoutError),
    ],
    ids=str,
)
def test_every_fault_that_lasts_is_an_error_of_ours(
    emulator: Emulator, add: Add, effect: dict[str, Any], error: type[Exception]
) -> None:
    add(**effect)
    client = BitaHubClient(emulator.url, auth=BearerToken(emulator.token), request_timeout=0.3, retry=Retry(attempts=1))
    with pytest.raises(error):
        client.send(list_jobs())
    client.close()


def test_a_serving_whose_creation_is_not_answered_is_created_once(api: Api, client: BitaHubClient, add: Add) -> None:
    spec = ServingSpec.model_validate(api.serving_body("serve", name="once"))
    created = add(Match(method="POST", path="*/serving"), after="close")
    plan = Plan(spec, Version.of(spec, {}), Owner("dag", "task", "run"), poll_interval=0.05)
    site = Site("once", "v1", MemoryRecords(), lambda _: None)
    deployed = client.run(Deployer(lambda _: plan, site, Turn(site, lambda _: True, plan.owner)).deploy())
    assert created.applied == 1
    assert [serving.created_at for serving in client.send(list_servings())] == [deployed.serving.created_at]
    client.send(delete_serving("once", "v1"))
