"""Which requests a fault strikes, and how faults are managed."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from airflow_bitahub.emulator.faults.faults import Effect, Fault, Faults, Match, Records
from tests.emulator.conftest import JOBS, Api, assert_refused
from tests.emulator.faults.conftest import (
    BUSY,
    EXPIRED,
    Add,
)

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


def test_the_same_fault_from_python_and_as_json() -> None:
    text = '{"match": {"method": "POST", "times": 1}, "effect": {"records": {"hideFor": 2.0}}}'
    fault = Fault(match=Match(method="POST", times=1), effect=Effect(records=Records(hide_for=2)))
    assert Fault.model_validate_json(text) == fault
    assert json.loads(fault.model_dump_json(by_alias=True, exclude_unset=True)) == json.loads(text)
