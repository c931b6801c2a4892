"""The emulator misbehaves as platforms and networks do, when it is told to; and this package comes through it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from airflow_bitahub.api.auth import BearerToken
from airflow_bitahub.api.jobs import Job, JobSpec, JobStatus, TaskRole, get_job, list_jobs, submit_job
from airflow_bitahub.api.procedures import Retry, ensure_job, ensure_serving, wait_for_job
from airflow_bitahub.api.servings import ServingSpec, delete_serving, list_servings
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Answer, ArmedFault, Effect, Fault, Faults, Match, Records
from airflow_bitahub.emulator.http.profiles import PROFILES
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import DrivenClock, Emulator
from airflow_bitahub.exceptions import (
    AuthenticationError,
    JobLostError,
    NotFoundError,
    RequestTimeoutError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)
from airflow_bitahub.identity import JobRecord, ServingRecord, TaskIdentity
from tests.conftest import until
from tests.emulator.conftest import IMAGE, JOBS, SERVINGS, Api, assert_refused

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
    """An emulator on which time stands still until it is told to go on, and no program really runs."""
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
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def requests_for(api: Api, name: str, method: str) -> list[tuple[int, bool]]:
    """Give the status each such request for a job was answered with, and whether it reached the platform."""
    [entry] = (entry for entry in api.http.get("/emulator/ledger").json()["data"] if entry["name"] == name)
    return [(asked["status"], asked["reached"]) for asked in entry["requests"] if asked["method"] == method]


# Which requests --------------------------------------------------------------------------------------------------


def test_method_and_path_choose_the_requests(api: Api, add: Add) -> None:
    refused = add(Match(method="GET", path="*/namespaces/bita-user/jobs/mnist-[0-9]"), before=BUSY)
    assert api.http.get(f"{JOBS}/mnist-1").status_code == 503
    for method, path in (
        ("GET", f"{JOBS}/mnist-x"),
        ("GET", f"{JOBS}/mnist-1/log"),
        ("DELETE", f"{JOBS}/mnist-1"),
        ("GET", f"{JOBS}/mnist-1".replace("bita-user", "other")),
    ):
        assert api.http.request(method, path).status_code == 404
    assert (refused.seen, refused.applied) == (1, 1)


def test_some_are_spared_first_and_only_so_many_are_struck(api: Api, add: Add) -> None:
    refused = add(Match(path=JOBS, skip=2, times=3), before=BUSY)
    assert [api.http.get(JOBS).status_code for _ in range(7)] == [200, 200, 503, 503, 503, 200, 200]
    assert (refused.seen, refused.applied) == (7, 3)


def test_a_seed_makes_chance_repeat_itself(api: Api, add: Add, faults: Faults) -> None:
    def struck(seed: int) -> list[bool]:
        add(Match(probability=0.4, seed=seed), before=BUSY)
        answers = [api.http.get("/").status_code for _ in range(40)]
        faults.clear()
        return [status == 503 for status in answers]

    first = struck(7)
    assert True in first
    assert False in first
    assert struck(7) == first
    assert struck(8) != first


def test_faults_stand_one_behind_the_other(api: Api, add: Add) -> None:
    first = add(Match(times=1), before=BUSY)
    second = add(Match(times=1), before=EXPIRED)
    assert [api.http.get(JOBS).status_code for _ in range(3)] == [503, 401, 200]
    assert (first.seen, second.seen) == (3, 2)


# Answers that are not the platform's -----------------------------------------------------------------------------


def test_refused_for_a_while(api: Api, add: Add) -> None:
    add(Match(times=1), before=Answer(status=429, headers={"Retry-After": "7"}, body={"code": 429, "msg": "slowly"}))
    response = api.http.get(JOBS)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"code": 429, "msg": "slowly"}
    assert api.http.get(JOBS).status_code == 200


def test_a_token_expires(api: Api, add: Add) -> None:
    add(Match(path="/lapis/*", skip=1), before=EXPIRED)
    assert api.http.get(JOBS).status_code == 200
    response = api.http.get(JOBS)
    assert response.status_code == 401
    assert response.json()["kind"] == "Status"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", '{"status": {"code": 0, "msg": "succ'),
        ("text/html; charset=utf-8", "<html><title>Sign in</title></html>"),
        ("application/json", ""),
    ],
)
def test_a_malformed_answer(api: Api, add: Add, content_type: str, body: str) -> None:
    add(SUBMISSION, after=Answer(headers={"Content-Type": content_type}, body=body))
    posted = api.job_body()
    response = api.post_job(posted)
    assert (response.status_code, response.headers["content-type"], response.text) == (200, content_type, body)
    assert api.wait_job(posted["jobName"])["state"] == "SUCCEEDED"


def test_a_gateway_that_does_not_wait_for_the_platform(api: Api, add: Add) -> None:
    add(SUBMISSION, after=Answer(status=504, body="upstream request timeout"))
    body = api.job_body()
    assert api.post_job(body).status_code == 504
    assert api.job(body["jobName"])


# Connections -----------------------------------------------------------------------------------------------------


def test_the_connection_is_closed_before_the_request_takes_effect(api: Api, add: Add) -> None:
    add(SUBMISSION, before="close")
    body = api.job_body()
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        api.post_job(body)
    assert_refused(api.http.get(f"{JOBS}/{body['jobName']}"), 404)


def test_the_connection_is_closed_after_the_request_took_effect(api: Api, add: Add) -> None:
    add(SUBMISSION, after="close")
    body = api.job_body()
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        api.post_job(body)
    assert api.wait_job(body["jobName"])["state"] == "SUCCEEDED"


@pytest.mark.parametrize("protocol", [H11Protocol, HttpToolsProtocol])
def test_closing_is_no_defect_of_the_server(
    images_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: type[Any]
) -> None:
    monkeypatch.setattr("airflow_bitahub.emulator.server.AutoHTTPProtocol", protocol)
    with Emulator(images=images_file) as emulator, httpx.Client(base_url=emulator.url, verify=False) as http:
        for outcome in ("before", "after"):
            emulator.faults.add(Fault(match=Match(times=1), effect=Effect.model_validate({outcome: "close"})))
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                http.get("/")
            assert http.get("/").status_code == 200
    assert_nothing_was_logged(caplog)


# Time ------------------------------------------------------------------------------------------------------------


def test_a_delay_comes_before_the_effect(api: Api, add: Add, clock: DrivenClock, in_background: InBackground) -> None:
    delayed = add(SUBMISSION, delay=60)
    body = api.job_body()
    answer = in_background(api.post_job, body)
    until(lambda: delayed.applied)
    assert_refused(api.http.get(f"{JOBS}/{body['jobName']}"), 404)
    clock.advance(60)
    assert answer.result().status_code == 200
    assert api.job(body["jobName"])["createdTime"] == int(clock() * 1000)


def test_a_delayed_request_takes_effect_although_nobody_waits_for_it(api: Api, add: Add, clock: DrivenClock) -> None:
    add(SUBMISSION, delay=60)
    body = api.job_body()
    with pytest.raises(httpx.ReadTimeout):
        api.http.post(f"{JOBS}/{body['jobName']}", json=body, timeout=0.3)
    assert_refused(api.http.get(f"{JOBS}/{body['jobName']}"), 404)
    clock.advance(60)
    until(lambda: api.http.get(f"{JOBS}/{body['jobName']}").status_code == 200)


def test_a_slow_body(api: Api, add: Add, faults: Faults) -> None:
    api.submit()
    whole = api.http.get(JOBS).content
    add(body_seconds=FOR_EVER)
    with api.http.stream("GET", JOBS) as response:
        pieces = response.iter_raw()
        first = next(pieces)
        assert 0 < len(first) < len(whole)
        faults.clear()
        assert first + b"".join(pieces) == whole


def test_what_a_removed_fault_held_goes_on_at_once(
    api: Api, add: Add, faults: Faults, in_background: InBackground
) -> None:
    held = add(Match(path="/"), delay=FOR_EVER)
    answer = in_background(api.http.get, "/")
    until(lambda: held.applied)
    faults.remove(held.id)
    assert answer.result().status_code == 200


def test_what_a_fault_holds_does_not_keep_the_emulator_from_ending(
    images_file: Path, caplog: pytest.LogCaptureFixture, in_background: InBackground
) -> None:
    with Emulator(images=images_file) as emulator:
        held = emulator.faults.add(Fault(effect=Effect(delay=FOR_EVER)))
        answer = in_background(httpx.get, emulator.url, verify=False, trust_env=False)
        until(lambda: held.applied)
    assert answer.result().status_code == 200
    assert_nothing_was_logged(caplog)


# What queries show -----------------------------------------------------------------------------------------------


def names(api: Api) -> list[str]:
    data = api.http.get(JOBS, params={"limit": 1000}).json()["data"]
    assert data["totalItems"] == len(data["items"])
    return [item["name"] for item in data["items"]]


def test_a_new_record_is_visible_late(api: Api, add: Add, clock: DrivenClock) -> None:
    add(Match(method="GET", path="*/jobs*"), records=Records(hide_for=5))
    name = api.submit()
    clock.advance(4)
    assert_refused(api.http.get(f"{JOBS}/{name}"), 404)
    assert name not in names(api)
    clock.advance(2)
    assert api.job(name)["name"] == name
    assert name in names(api)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_record_is_hidden_whatever_shape_it_has(images_file: Path, profile: str) -> None:
    clock = DrivenClock()
    with Emulator(images=images_file, clock=clock, profile=profile) as emulator:
        emulator.scripts.add(ScriptedJob())
        emulator.faults.add(Fault(match=Match(method="GET"), effect=Effect(records=Records(hide_for=60))))
        client = BitaHubClient(emulator.url, auth=BearerToken(emulator.token))
        for name in ("old", "new"):
            clock.advance(50)
            client.send(submit_job(JobSpec(job_name=name, task_roles=[ROLE])))
        clock.advance(50)
        assert client.send(get_job("old")).name == "old"
        assert [job.name for job in client.send(list_jobs())] == ["old"]
        with pytest.raises(NotFoundError):
            client.send(get_job("new"))
        client.close()


def test_a_record_vanishes(api: Api, add: Add) -> None:
    name, other = api.submit(), api.submit()
    gone = Records(where={"name": name}, hide_for=FOR_EVER)
    add(Match(method="GET", path=f"*/jobs/{name}", skip=1), records=gone)
    add(Match(method="GET", path="*/jobs"), records=gone)
    assert api.job(name)
    assert_refused(api.http.get(f"{JOBS}/{name}"), 404)
    assert name not in names(api)
    assert other in names(api)


def test_running_while_nothing_runs_yet(api: Api, add: Add, clock: DrivenClock) -> None:
    add(records=Records(where={"jobStatus": {"state": "WAITING"}}, patch=patch_state("RUNNING")))
    name = api.submit("queued")
    assert api.job(name)["state"] == api.job(name)["jobStatus"]["state"] == "RUNNING"
    assert {job.key.name: job.status for job in api.emulator.state.jobs()}[name] is JobStatus.WAITING
    clock.advance(60)
    assert api.wait_job(name)["state"] == "SUCCEEDED"


def test_a_state_goes_backwards(api: Api, add: Add) -> None:
    name = api.submit("long")
    api.wait_job(name, "RUNNING")
    add(Match(path=f"*/{name}", skip=1, times=1), records=Records(patch=patch_state("WAITING")))
    assert [api.job(name)["state"] for _ in range(3)] == ["RUNNING", "WAITING", "RUNNING"]
    api.http.delete(f"{JOBS}/{name}")


def test_a_word_nobody_knows(api: Api, add: Add, client: BitaHubClient) -> None:
    name = api.submit()
    add(QUERY, records=Records(patch=patch_state("HIBERNATING")))
    assert client.send(get_job(name)).status is JobStatus.UNKNOWN


def test_a_running_job_tells_the_time_of_its_end(api: Api, add: Add, client: BitaHubClient) -> None:
    end = 1_800_000_000_000
    add(records=Records(where={"state": "RUNNING"}, patch={"stopedTime": end, "jobStatus": {"completedTime": end}}))
    name = api.submit("long")
    assert api.wait_job(name, "RUNNING")["jobStatus"]["completedTime"] == end
    assert client.send(get_job(name)).finished_at is None
    api.http.delete(f"{JOBS}/{name}")


def test_a_field_is_missing(api: Api, add: Add) -> None:
    name = api.submit()
    add(QUERY, records=Records(patch={"launchedTime": None, "jobStatus": {"appExitCode": None}}))
    job = api.job(name)
    assert "launchedTime" not in job
    assert "appExitCode" not in job["jobStatus"]
    assert "subState" in job["jobStatus"]


def test_servings_too(api: Api, add: Add) -> None:
    add(Match(path="*/serving/*"), records=Records(patch={"status": "RUNNING", "hosts": "http://192.0.2.1"}))
    name = api.serve("serve")
    assert api.serving(name)["hosts"] == "http://192.0.2.1"
    api.http.delete(f"{SERVINGS}/{name}")


def test_what_shows_no_record_is_left_alone(api: Api, add: Add) -> None:
    add(records=Records(hide_for=FOR_EVER, patch={"state": "RUNNING"}))
    name = api.submit()
    assert api.http.get(f"{JOBS}/{name}/log").json()["data"].keys() == {"log"}
    assert api.http.get("/nowhere").text.startswith("there is no such address")
    assert_refused(api.http.get(f"{JOBS}/never"), 404)


# The control API -------------------------------------------------------------------------------------------------


def test_the_control_api(api: Api, faults: Faults) -> None:
    fault = {
        "match": {"method": "POST", "path": "*/jobs/*", "times": 1},
        "effect": {"after": {"status": 502, "body": {"data": None}}, "bodySeconds": 0},
    }
    view = {**fault, "id": "1", "seen": 0, "applied": 0}
    answer = api.http.post("/emulator/faults", json=fault).json()
    view["id"] = answer["data"]["id"]
    assert answer == {"status": {"code": 0, "msg": "success"}, "data": view}
    body = api.job_body()
    assert [api.post_job(body).status_code for _ in range(2)] == [502, 409]
    assert api.http.get("/emulator/faults").json()["data"] == [{**view, "seen": 2, "applied": 1}]

    second = api.http.post("/emulator/faults", json={"effect": {"delay": 1}}).json()["data"]["id"]
    assert api.http.delete(f"/emulator/faults/{second}").json()["status"]["code"] == 0
    assert_refused(api.http.delete(f"/emulator/faults/{second}"), 404, second)
    assert [armed.id for armed in faults] == [view["id"]]
    assert api.http.delete("/emulator/faults").json()["status"]["code"] == 0
    assert api.http.get("/emulator/faults").json()["data"] == []


def test_the_control_api_needs_the_token(api: Api, add: Add) -> None:
    add(Match(path="/nowhere"), before="close")
    with httpx.Client(base_url=api.emulator.url, trust_env=False, verify=False) as stranger:
        assert stranger.post("/emulator/faults", json={"effect": {"before": "close"}}).status_code == 401
        assert stranger.delete("/emulator/faults").status_code == 401
        assert len(stranger.get("/emulator/faults").json()["data"]) == 1


def test_no_fault_strikes_the_control_api(api: Api, add: Add) -> None:
    everything = add(before="close")
    assert api.http.get("/emulator/ledger").status_code == 200
    assert api.http.get("/healthz").status_code == 200
    assert api.http.delete("/emulator/faults").status_code == 200
    assert everything.seen == 0
    assert api.http.get(JOBS).status_code == 200


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({}, "effect: Field required"),
        ({"effect": {}}, "it has no effect"),
        ({"effect": {"before": "close", "after": "close"}}, "only one of before, after and records"),
        ({"effect": {"before": "explode"}}, "'close'"),
        ({"effect": {"before": {"status": 700}}}, "effect.before.Answer.status"),
        ({"effect": {"before": {"status": 204, "body": "x"}}}, "status 204 has none"),
        ({"effect": {"before": {"headers": {"A": "b\r\nc: d"}}}}, "is not a header"),
        ({"effect": {"before": {"headers": {"Content-Length": "1"}}}}, "'Content-Length' is set by the server"),
        ({"effect": {"delay": -1}}, "effect.delay"),
        ({"effect": {"delay": 1, "hide_for": 1}}, "effect.hide_for: Extra inputs are not permitted"),
        ({"effect": {"delay": 1}, "match": {"times": "1"}}, "match.times"),
        ({"effect": {"delay": 1}, "match": {"method": "post"}}, "match.method"),
        ({"effect": {"delay": 1}, "match": {"probability": 0}}, "match.probability"),
    ],
)
def test_a_fault_that_cannot_be(api: Api, faults: Faults, fault: dict[str, Any], words: str) -> None:
    assert_refused(api.http.post("/emulator/faults", json=fault), 400, words)
    assert not list(faults)
    with pytest.raises(ValidationError):
        Fault.model_validate(fault, strict=True)


def test_the_ledger_tells_what_the_client_saw_and_what_reached_the_platform(api: Api, add: Add) -> None:
    body = api.job_body("long")
    path = f"{JOBS}/{body['jobName']}"
    add(Match(method="POST", times=1), after=Answer(status=504))
    add(Match(method="DELETE", times=1), before="close")
    add(Match(method="DELETE", times=1), after="close")
    assert [api.post_job(body).status_code for _ in range(2)] == [504, 409]
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            api.http.delete(path)
    assert api.http.delete(path).status_code == 200
    assert requests_for(api, body["jobName"], "POST") == [(504, True), (409, True)]
    assert requests_for(api, body["jobName"], "DELETE") == [(0, False), (0, True), (200, True)]


def test_the_ledger_survives_the_emulator_and_the_faults_do_not(images_file: Path, tmp_path: Path) -> None:
    for stopped in ([(503, False)], [(503, False), (200, True)]):
        with Emulator(tmp_path, images=images_file) as emulator:
            emulator.scripts.add(ScriptedJob())
            api = Api(emulator)
            assert api.http.get("/emulator/faults").json()["data"] == []
            if len(stopped) == 1:
                api.submit(name="kept")
                emulator.faults.add(Fault(effect=Effect(before=BUSY)))
            api.http.delete(f"{JOBS}/kept")
            assert requests_for(api, "kept", "DELETE") == stopped
            api.http.close()


# What this package makes of it -----------------------------------------------------------------------------------


@pytest.fixture
def client(emulator: Emulator) -> Iterator[BitaHubClient]:
    retry = Retry(attempts=20, first=0.01, longest=0.02)
    client = BitaHubClient(emulator.url, auth=BearerToken(emulator.token), retry=retry, request_timeout=10)
    yield client
    client.close()


class OneJob:
    """A task that runs one job, and what came of it."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._before = len(api.emulator.state.ledger())
        self.saved: list[JobRecord] = []

    def ensure(self, client: BitaHubClient) -> Job:
        """Do what an operator does first."""
        task = TaskIdentity("mnist", "20260101", "abc", "/projects/u/p/outputs", 0, 1, 0, 0)
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
        """The submissions of the one job there is."""
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
    job = client.run(wait_for_job(name, poll_interval=0.01, on_change=lambda job: seen.append(job.word)))
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
    saved: list[ServingRecord] = []
    created = add(Match(method="POST", path="*/serving"), after="close")
    client.run(ensure_serving(spec, load=lambda: saved[-1] if saved else None, save=saved.append))
    assert created.applied == 1
    assert [serving.name for serving in client.send(list_servings())] == ["once"]
    client.send(delete_serving("once", "v1"))


def test_the_same_fault_from_python_and_as_json() -> None:
    text = '{"match": {"method": "POST", "times": 1}, "effect": {"records": {"hideFor": 2.0}}}'
    fault = Fault(match=Match(method="POST", times=1), effect=Effect(records=Records(hide_for=2)))
    assert Fault.model_validate_json(text) == fault
    assert json.loads(fault.model_dump_json(by_alias=True, exclude_unset=True)) == json.loads(text)
