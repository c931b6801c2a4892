"""What operators store in Airflow survives it, and other versions of this package."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.identity import JobRecord
from airflow_bitahub.operators.records import read_record
from airflow_bitahub.procedures.rollout import ServingRecord

RECORD = JobRecord("mnist-1", "/projects/u/demo/outputs/1", "abcdefghij", 1, 1, 2, 0, confirmed=True)


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, confirmed=False, stopped=True, refused=True)])
def test_a_job_record_survives_json(record: JobRecord) -> None:
    assert read_record(JobRecord, json.loads(json.dumps(asdict(record)))) == record


def test_a_serving_record_survives_json() -> None:
    record = ServingRecord("abc", 1.5, since=2.5)
    assert read_record(ServingRecord, json.loads(json.dumps(asdict(record)))) == record


@pytest.mark.parametrize("stored", ["", "text", 7, [], {"colour": "red"}])
@pytest.mark.parametrize("record", [JobRecord, ServingRecord])
def test_what_is_no_record_says_so(record: type[JobRecord] | type[ServingRecord], stored: object) -> None:
    assert read_record(record, None) is None
    with pytest.raises(ConfigurationError, match=f"instead of a {record.__name__}"):
        read_record(record, stored)


def test_records_of_other_versions_of_this_package_are_read() -> None:
    newer = {**asdict(RECORD), "colour": "red"}
    assert read_record(JobRecord, newer) == RECORD
    older = {key: value for key, value in asdict(RECORD).items() if key not in ("stopped", "refused")}
    assert read_record(JobRecord, older) == RECORD
    assert read_record(ServingRecord, {"digest": "abc", "colour": "red"}) == ServingRecord("abc")
