"""What operators store in Airflow survives it, and other versions of this package."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.identity import JobRecord, is_marker
from airflow_bitahub.operators.records import load_marker, read_record

RECORD = JobRecord("mnist-1", "/projects/u/demo/outputs/1", "abcdefghij", 1, 1, 2, 0, confirmed=True)


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, confirmed=False, stopped=True, refused=True)])
def test_a_job_record_survives_json(record: JobRecord) -> None:
    assert read_record(JobRecord, json.loads(json.dumps(asdict(record)))) == record


@pytest.mark.parametrize("stored", ["", "text", 7, [], {"colour": "red"}])
def test_what_is_no_record_says_so(stored: object) -> None:
    assert read_record(JobRecord, None) is None
    with pytest.raises(ConfigurationError, match="instead of a JobRecord"):
        read_record(JobRecord, stored)


def test_records_of_other_versions_of_this_package_are_read() -> None:
    newer = {**asdict(RECORD), "colour": "red"}
    assert read_record(JobRecord, newer) == RECORD
    older = {key: value for key, value in asdict(RECORD).items() if key not in ("stopped", "refused")}
    assert read_record(JobRecord, older) == RECORD


# The marker -----------------------------------------------------------------------------------------------------


def test_the_first_task_makes_the_marker_and_all_others_read_it(variables: dict[str, str]) -> None:
    marker = load_marker()
    assert is_marker(marker)
    assert load_marker() == marker
    assert variables == {f"bitahub_marker.{marker}": marker}


def test_tasks_that_make_a_marker_at_the_same_time_end_with_one(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[list[str]] = iter([[]])  # another task makes its marker just after this one has looked

    def keys(prefix: str) -> list[str]:
        return next(answers, None) or [f"{prefix}aaaaa", *variables]

    monkeypatch.setattr("airflow.sdk.Variable.keys", staticmethod(keys))
    assert {load_marker(), load_marker()} == {"aaaaa"}


def test_other_variables_with_such_a_key_are_no_marker(variables: dict[str, str]) -> None:
    variables |= {"bitahub_marker.": "x", "bitahub_marker.prod": "x", "bitahub_marker.ABCDE": "x"}
    marker = load_marker()
    assert is_marker(marker)
    assert f"bitahub_marker.{marker}" in variables


def test_a_task_goes_on_where_airflow_keeps_no_marker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def keys(prefix: str) -> list[str]:
        raise PermissionError(f"no access to {prefix}")

    monkeypatch.setattr("airflow.sdk.Variable.keys", staticmethod(keys))
    with caplog.at_level(logging.WARNING):
        assert is_marker(load_marker())
    assert "no access to bitahub_marker." in caplog.text
