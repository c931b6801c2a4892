"""The emulator fails as platforms and networks do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Faults, Match
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import DrivenClock, Emulator
from tests.conftest import until
from tests.emulator.conftest import JOBS, Api, assert_refused
from tests.emulator.faults.conftest import (
    BUSY,
    EXPIRED,
    FOR_EVER,
    SUBMISSION,
    Add,
    InBackground,
    assert_nothing_was_logged,
    requests_for,
)

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
    monkeypatch.setattr("airflow_bitahub.emulator.listener.AutoHTTPProtocol", protocol)
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
    api.run("true")
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


# The ledger --------------------------------------------------------------------------------------------------------


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
