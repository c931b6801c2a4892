"""Which job belongs to which task instance: names, generations, counters."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from airflow_bitahub.identity import MAX_NAME, TaskIdentity, marker_in, new_marker, new_token, slug

DNS_1123 = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
TASK = TaskIdentity(
    project="demo",
    run_date="20260101",
    marker=lambda: "abcde",
    output_root="/projects/u/demo/outputs",
    max_tries=2,
    try_number=1,
    retries=2,
    clear_number=0,
)

PROJECTS = [
    "mnist-train-demo",
    "MNIST_Train.Demo",
    "a" * 200,
    "a" * 18 + "-" * 5 + "b",
    "--x--",
    "7",
    "手写数字",
    "手写数字 MNIST",
    "Größe",
    "",
    "---",
    "../../etc",
    "a\nb",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mnist-train-demo", "mnist-train-demo"),
        ("MNIST_Train.Demo", "mnist-train-demo"),
        ("  a  b  ", "a-b"),
        ("--x--", "x"),
        ("手写数字 MNIST", "mnist"),
        ("手写数字", "job"),
        ("", "job"),
        ("_", "job"),
    ],
)
def test_a_slug_keeps_what_can_be_used(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize("attempt", [1, 9, 10, 999])
@pytest.mark.parametrize("project", PROJECTS)
def test_every_name_is_short_valid_and_tells_its_parts(project: str, attempt: int) -> None:
    task = replace(TASK, project=project)
    record = task.first_attempt(None)
    for _ in range(attempt - 1):
        record = task.next_attempt(record)
    assert len(record.job_name) <= MAX_NAME
    assert re.fullmatch(DNS_1123, record.job_name)
    assert record.job_name.endswith(f"-20260101-{record.token}-{attempt}")
    assert slug(project).startswith(record.job_name.removesuffix(f"-20260101-{record.token}-{attempt}"))


def test_a_name_as_long_as_can_be_is_used_in_full() -> None:
    name = replace(TASK, project="x" * 100).first_attempt(None).job_name
    assert len(name) == MAX_NAME == 40


def test_the_output_folder_carries_the_jobs_own_part() -> None:
    record = TASK.first_attempt(None)
    assert record.version == f"20260101-{record.token}-1"
    assert record.output_path == f"/projects/u/demo/outputs/{record.version}"
    assert record.job_name == f"demo-{record.version}"


def test_a_token_is_random_and_begins_with_the_marker() -> None:
    tokens = {new_token("abcde") for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"abcde[a-z2-7]{7}", token) for token in tokens)


def test_the_marker_is_asked_for_only_when_a_token_is_made() -> None:
    def fail() -> str:
        raise AssertionError("one request to Airflow more than needed")

    replace(TASK, marker=fail).next_attempt(replace(TASK, marker=new_marker).first_attempt(None))


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("mnist-20260101-abcdefghijkl-1", "abcde"),
        ("a-b-c-20260101-abcdefghijkl-12", "abcde"),
        ("mnist-2026-abcdefghijkl-1", ""),
        ("abcdefghijkl-1", ""),
        ("mnist-20260101-abcde-1", ""),
        ("mnist-20260101-abcdefghijkl", ""),
        ("mnist-20260101-ABCDEFGHIJKL-1", ""),
        ("a-name-of-their-own", ""),
    ],
)
def test_a_marker_is_found_only_in_a_name_of_this_package(name: str, marker: str) -> None:
    assert marker_in(name) == marker


# Generations ----------------------------------------------------------------------------------------------------

RECORD = replace(TASK.first_attempt(None), confirmed=True)


@pytest.mark.parametrize(
    ("changes", "is_new"),
    [
        pytest.param({}, False, id="the same try again"),
        pytest.param({"try_number": 2}, False, id="first retry"),
        pytest.param({"try_number": 3}, False, id="last retry"),
        pytest.param({"try_number": 2, "clear_number": 1}, False, id="retry, a neighbour was cleared"),
        pytest.param({"try_number": 3, "clear_number": 9}, False, id="last retry, neighbours were cleared often"),
        pytest.param({"try_number": 2, "max_tries": 3, "clear_number": 1}, True, id="cleared after the first try"),
        pytest.param({"try_number": 4, "max_tries": 5, "clear_number": 1}, True, id="cleared after the last try"),
        pytest.param(
            {"try_number": 3, "max_tries": 3, "clear_number": 2}, True, id="retry of a clear that got nowhere"
        ),
        pytest.param({"try_number": 2, "max_tries": 2, "retries": 1, "clear_number": 1}, True, id="retries lowered"),
        pytest.param({"try_number": 2, "max_tries": 2, "retries": 1}, False, id="retries lowered, nothing cleared"),
        pytest.param({"try_number": 2, "max_tries": 6, "retries": 5, "clear_number": 1}, True, id="retries raised"),
        # Airflow takes this for a retry itself: a clear of a task whose worker is already dead.
        pytest.param({"try_number": 2, "clear_number": 1}, False, id="cleared with a dead worker"),
    ],
)
def test_a_clear_begins_a_new_generation_and_a_retry_does_not(changes: dict[str, Any], is_new: bool) -> None:
    assert replace(TASK, **changes).is_new_generation(RECORD) is is_new


def test_a_task_without_retries_that_is_cleared() -> None:
    task = replace(TASK, retries=0, max_tries=0)
    record = task.first_attempt(None)
    assert replace(task, try_number=2, max_tries=1, clear_number=1).is_new_generation(record)


def test_retries_of_one_lowered_to_none() -> None:
    # airflow-3.3.md, section 16: max_tries stays 1
    record = replace(TASK, retries=1, max_tries=1).first_attempt(None)
    assert replace(TASK, retries=0, max_tries=1, try_number=2, clear_number=1).is_new_generation(record)


def test_a_neighbours_clear_is_seen_once() -> None:
    retried = replace(TASK, try_number=2, clear_number=1)
    seen = retried.refresh(RECORD)
    assert seen == replace(RECORD, clear_number=1)
    assert not retried.is_new_generation(seen)


def test_a_mapped_task_or_another_run_never_shares_a_name() -> None:
    assert len({TASK.first_attempt(None).job_name for _ in range(50)}) == 50


# Counters -------------------------------------------------------------------------------------------------------


def test_attempts_count_within_a_generation_and_submissions_over_all() -> None:
    first = TASK.first_attempt(None)
    second = TASK.next_attempt(first)
    third = TASK.first_attempt(second)
    assert [(r.attempt, r.submission) for r in (first, second, third)] == [(1, 1), (2, 2), (1, 3)]
    assert first.token == second.token != third.token


def test_a_new_record_has_a_clean_slate() -> None:
    old = replace(RECORD, confirmed=True, stopped=True, refused=True)
    for record in (TASK.first_attempt(old), TASK.next_attempt(old)):
        assert (record.confirmed, record.stopped, record.refused) == (False, False, False)


def test_a_record_remembers_what_airflow_said() -> None:
    record = replace(TASK, max_tries=5, clear_number=3).first_attempt(None)
    assert (record.max_tries, record.clear_number) == (5, 3)


def test_given_names_are_exact_first_and_counted_later() -> None:
    task = replace(TASK, job_name="mnist", output_version="final")
    first = task.first_attempt(None)
    second = task.next_attempt(first)
    third = task.first_attempt(second)
    assert [record.job_name for record in (first, second, third)] == ["mnist", "mnist-2", "mnist-3"]
    assert [record.version for record in (first, second, third)] == ["final", "final-2", "final-3"]


def test_either_name_may_be_given_alone() -> None:
    only_job = replace(TASK, job_name="mnist").first_attempt(None)
    assert (only_job.job_name, only_job.version) == ("mnist", f"20260101-{only_job.token}-1")
    only_output = replace(TASK, output_version="final").first_attempt(None)
    assert only_output.version == "final"
    assert only_output.job_name == f"demo-20260101-{only_output.token}-1"


def test_a_refused_submission_does_not_use_up_a_given_name() -> None:
    task = replace(TASK, job_name="mnist")
    refused = replace(task.first_attempt(None), refused=True)
    assert task.next_attempt(refused).job_name == "mnist"
    assert task.first_attempt(refused).job_name == "mnist"
    # Its own names are never used twice: a refusal may be a mistake.
    assert TASK.next_attempt(replace(RECORD, refused=True)).job_name != RECORD.job_name
