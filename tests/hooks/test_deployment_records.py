"""The records of servings in Airflow's Variables."""

from __future__ import annotations

import pytest

from airflow_bitahub.exceptions import StateUnknownError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.deployment_records import VariableRecords
from airflow_bitahub.procedures.deployments import Deployment


@pytest.mark.usefixtures("connection")
def test_a_value_that_airflow_does_not_return_is_no_missing_record(
    hook: BitaHubHook, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = VariableRecords(hook, "mnist", "v1")
    assert records.load() is None
    records.save(Deployment(exists=True))
    [key] = variables
    variables[key + "2"] = "another serving's"
    monkeypatch.setattr("airflow.sdk.Variable.get", lambda _key, default, **_: default)
    with pytest.raises(StateUnknownError, match="did not return its value"):
        records.load()
