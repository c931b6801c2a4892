"""What the page of a serving makes of what is on record. The page itself is tested in a real Airflow."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_bitahub.operators.records import TaskRollout
from airflow_bitahub.procedures.deployments import Owner, Version
from airflow_bitahub.ui.ownership import run_in
from airflow_bitahub.ui.serving_view import rollout_timeline, shown_metrics


@pytest.mark.parametrize(
    ("steps", "ended_at", "seconds"),
    [
        ([["candidate", 10], ["check", 14], ["switch", 15.5]], 20, {"CANDIDATE": 4, "CHECK": 1.5, "SWITCH": 4.5}),
        ([["candidate", 10], ["switch", 14]], None, {"CANDIDATE": 4, "SWITCH": 0}),
        ([["<b>", 10], ["tidy", 14]], 15, {"TIDY": 1}),
        ([], 15, {}),
    ],
)
def test_a_step_lasts_until_the_next_one(steps: list[Any], ended_at: float | None, seconds: dict[str, float]) -> None:
    drawn = rollout_timeline(TaskRollout(steps, ended_at, "abc", "/models/u/m/1"), is_live=False)
    segments = drawn.rows[0].segments if drawn else []
    assert {segment.state: segment.milliseconds / 1000 for segment in segments} == seconds


def test_metrics_are_short_texts() -> None:
    metrics = {"accuracy": 0.93456789, "n": 5, "words": "x" * 500, **{str(n): n for n in range(50)}}
    shown = shown_metrics(Version("abc", {}, metrics=metrics))
    assert shown[:2] == [("accuracy", "0.9346"), ("n", "5")]
    assert len(shown[2][1]) < 100
    assert len(shown) == 12


@pytest.mark.parametrize(("dag_id", "run_id"), [("mnist", "manual__1"), ("mnist2", ""), ("secret", "")])
def test_only_tasks_of_the_same_dag_are_named(dag_id: str, run_id: str) -> None:
    assert run_in(str(Owner("mnist", "deploy", "manual__1", 3)), dag_id) == run_id
