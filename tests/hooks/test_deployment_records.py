"""What Airflow's Variables keep of a serving."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import Variable

from airflow_bitahub.exceptions import ConfigurationError, StateUnknownError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.deployment_records import DEPLOYMENT_KEY, VariableRecords
from airflow_bitahub.procedures.deployments import Deployment, Intent, Owner, Rollout, Step, Version

OWNER = Owner("dag", "task", "run", 3)
VERSION = Version("abc", {"model": {"path": "/models/u/m/1"}}, ["API_TOKEN"], {"accuracy": 0.9}, 1.5, 2.5, "a task")
RECORD = Deployment(
    1.5, 2.5, True, [VERSION], Rollout(OWNER, 9.5, VERSION, "switch", 3.5, placing="new", steps=[Step("switch", 2.5)])
)


def test_records_survive_airflow_and_every_connection_to_the_platform_finds_them(
    connection: dict[str, Any], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ANOTHER", json.dumps({**connection, "login": "somebody"}))
    records = VariableRecords(BitaHubHook(), "mnist", "v1")
    assert (records.load(), records.load_intent()) == (None, None)
    records.save(RECORD)
    records.save_intent(Intent(OWNER, "mnist-next", 7.5))
    same = VariableRecords(BitaHubHook("another"), "mnist", "v1")
    assert (same.load(), same.load_intent()) == (RECORD, Intent(OWNER, "mnist-next", 7.5))
    assert len(variables) == 2
    others = [VariableRecords(BitaHubHook(), "mnist", "v2"), VariableRecords(BitaHubHook(), "mnis", "v1")]
    assert [other.load() for other in others] == [None, None]


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("stored", ["text", 7, [], {"digest": "abc"}, {"owner": {}}])
def test_what_is_no_record_says_so(stored: object, variables: dict[str, str]) -> None:
    records = VariableRecords(BitaHubHook(), "mnist", "v1")
    records.save(RECORD)
    records.save_intent(Intent(OWNER, "mnist-next", 7.5))
    variables.update(dict.fromkeys(variables, json.dumps(stored)))
    for load in (records.load, records.load_intent):
        with pytest.raises(ConfigurationError, match="instead of the record of a serving"):
            load()


@pytest.mark.usefixtures("connection", "variables")
def test_variable_that_airflow_fails_to_give_is_not_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    records = VariableRecords(BitaHubHook(), "mnist", "v1")
    records.save(RECORD)
    monkeypatch.setattr(Variable, "get", staticmethod(lambda *_, **__: None))
    with pytest.raises(StateUnknownError, match=f"has the Variable '{DEPLOYMENT_KEY}.*did not return its value"):
        records.load()
    assert records.load_intent() is None
