"""The gate opens for numbers that are good enough, and for nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task_group
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped

from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from tests.conftest import TaskRun


def gate(metrics: Any, conditions: Any = "accuracy >= 0.9", **arguments: Any) -> BitaHubMetricGateOperator:
    return BitaHubMetricGateOperator(
        **{"task_id": "gate", "metrics": metrics, "conditions": conditions, "on_closed": "fail", **arguments}
    )


@pytest.mark.parametrize(
    ("conditions", "metrics", "reason"),
    [
        ("accuracy >= 0.9", {"accuracy": 0.9}, "accuracy = 0.9 >= 0.9"),
        ("accuracy >= 0.9", {"accuracy": 1}, "accuracy = 1 >= 0.9"),
        ("accuracy > 0.9", {"accuracy": 0.91, "loss": "unknown"}, "accuracy = 0.91 > 0.9"),
        ("loss<=1e-3", {"loss": 0.0005}, "loss = 0.0005 <= 1e-3"),
        (" loss < +.5 ", {"loss": -2}, "loss = -2 < +.5"),
        ("val.top-5_accuracy > -1", {"val.top-5_accuracy": 0}, "val.top-5_accuracy = 0 > -1"),
        ("accuracy >= 0.9", '{"accuracy": 0.93}', "accuracy = 0.93 >= 0.9"),
        ("accuracy >= 0.9", "{'accuracy': 0.93, 'note': None}", "accuracy = 0.93 >= 0.9"),
    ],
)
def test_gate_opens_where_the_condition_holds(conditions: str, metrics: Any, reason: str, task_run: TaskRun) -> None:
    assert gate(metrics, conditions).execute(task_run.context()) == {"open": True, "reasons": [reason]}


@pytest.mark.parametrize(
    ("conditions", "metrics", "reason"),
    [
        ("accuracy >= 0.9", {"accuracy": 0.89}, "accuracy = 0.89 is not >= 0.9"),
        ("accuracy > 0.9", {"accuracy": 0.9}, "accuracy = 0.9 is not > 0.9"),
        ("loss <= 0.1", {"loss": 0.11}, "loss = 0.11 is not <= 0.1"),
        ("loss < 0.1", {"loss": 0.1}, "loss = 0.1 is not < 0.1"),
        ("accuracy >= 0.9", {}, "accuracy is missing"),
        ("accuracy >= 0.9", {"Accuracy": 1.0}, "accuracy is missing"),
        ("accuracy >= 0.9", {"accuracy": float("nan")}, "nan is not a number"),
        ("accuracy < 0.9", {"accuracy": float("nan")}, "nan is not a number"),
        ("accuracy >= 0.9", {"accuracy": float("inf")}, "inf is not a number"),
        ("loss <= 0.1", {"loss": float("-inf")}, "-inf is not a number"),
        ("accuracy >= 0.9", {"accuracy": "0.95"}, "'0.95' is not a number"),
        ("accuracy >= 0.9", {"accuracy": ""}, "'' is not a number"),
        ("accuracy >= 0.9", {"accuracy": True}, "True is not a number"),
        ("accuracy >= 0.9", {"accuracy": None}, "None is not a number"),
        ("accuracy >= 0.9", {"accuracy": [0.95]}, "is not a number"),
        ("accuracy >= 0.9", None, "accuracy is missing"),
        ("accuracy >= 0.9", "", "accuracy is missing"),
        ("accuracy >= 0.9", "None", "accuracy is missing"),
        ("accuracy >= 0.9", "0.95", "accuracy is missing"),
        ("accuracy >= 0.9", "accuracy", "accuracy is missing"),
        ("accuracy >= 0.9", ["accuracy"], "accuracy is missing"),
        ("accuracy >= 0.9", '{"accuracy": NaN}', "nan is not a number"),
        ("accuracy >= 0.9", '{"accuracy": 0.5}', "accuracy = 0.5 is not >= 0.9"),
    ],
)
def test_gate_stays_closed_where_the_condition_does_not_hold_for_a_number(
    conditions: str, metrics: Any, reason: str, task_run: TaskRun
) -> None:
    with pytest.raises(AirflowFailException, match="The gate is closed") as closed:
        gate(metrics, conditions).execute(task_run.context())
    assert reason in str(closed.value)


def test_all_conditions_must_hold(task_run: TaskRun) -> None:
    conditions = ["accuracy >= 0.9", "loss < 0.5"]
    assert gate({"accuracy": 0.9, "loss": 0.4}, conditions).execute(task_run.context())["open"]
    with pytest.raises(AirflowFailException, match=r"accuracy = 0\.9 >= 0\.9; loss = 0\.6 is not < 0\.5"):
        gate({"accuracy": 0.9, "loss": 0.6}, conditions).execute(task_run.context())


@pytest.mark.parametrize(
    "condition", ["accuracy", "accuracy >= ", ">= 0.9", "accuracy => 0.9", "accuracy >= high", "accuracy >= 1.2.3", ""]
)
def test_what_is_no_condition_fails_at_once(condition: str, task_run: TaskRun) -> None:
    with pytest.raises(AirflowFailException, match=r"is not a (condition|number)"):
        gate({"accuracy": 1.0}, [condition]).execute(task_run.context())


def test_gate_without_conditions_is_refused(task_run: TaskRun) -> None:
    with pytest.raises(AirflowFailException, match="has no condition"):
        gate({"accuracy": 1.0}, []).execute(task_run.context())


def test_unknown_way_of_closing_is_refused_when_the_dag_is_read() -> None:
    with pytest.raises(ValueError, match="on_closed must be 'skip' or 'fail', not 'stop'"):
        gate({}, on_closed="stop")


@pytest.mark.parametrize("trigger_rule", ["all_success", "none_failed", "all_done", "always", "one_success"])
def test_closed_gate_skips_what_comes_next_whatever_its_trigger_rule(trigger_rule: Any, task_run: TaskRun) -> None:
    with DAG("gated", schedule=None):
        closed = gate({"accuracy": 0.5}, on_closed="skip")
        deploy = EmptyOperator(task_id="deploy", trigger_rule=trigger_rule)
        later = EmptyOperator(task_id="later")
        clean_up = EmptyOperator(task_id="clean_up").as_teardown()
        closed >> [deploy, clean_up]
        deploy >> later
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        closed.execute(task_run.context())
    assert skipped.value.tasks == ["deploy"]
    assert task_run.xcoms["return_value"] == {"open": False, "reasons": ["accuracy = 0.5 is not >= 0.9"]}
    assert task_run.xcoms["skipmixin_key"] == {"skipped": ["deploy"]}, "so that a cleared deploy is skipped again"


def mapped_gate(*downstream: str) -> BitaHubMetricGateOperator:
    """Give a closed gate in a mapped task group, with these tasks behind it."""
    with DAG("gated", schedule=None):

        @task_group
        def candidate(metrics: dict[str, float]) -> None:
            closed = gate(metrics, on_closed="skip")
            if "same group" in downstream:
                closed >> EmptyOperator(task_id="deploy")
            if "teardown" in downstream:
                closed >> EmptyOperator(task_id="clean_up").as_teardown()
            gates.append(closed)

        gates: list[BitaHubMetricGateOperator] = []
        group = candidate.expand(metrics=[{"accuracy": 0.5}, {"accuracy": 0.5}])
        if "not mapped" in downstream:
            group >> EmptyOperator(task_id="report")
        if "mapped by itself" in downstream:
            group >> BashOperator.partial(task_id="each").expand(bash_command=["a", "b"])
    [closed] = gates
    closed.metrics = {"accuracy": 0.5}  # as Airflow renders it
    return closed


@pytest.mark.parametrize(
    ("downstream", "skipped"),
    [
        (("same group", "teardown"), [("candidate.deploy", 1)]),
        (("not mapped",), [("report", -1)]),
        (("same group", "not mapped"), [("candidate.deploy", 1)]),
    ],
)
def test_closed_mapped_gate_skips_what_belongs_to_its_own_index(
    downstream: tuple[str, ...], skipped: list[tuple[str, int]]
) -> None:
    run = TaskRun(map_index=1)
    with pytest.raises(DownstreamTasksSkipped) as closed:
        mapped_gate(*downstream).execute(run.context())
    assert closed.value.tasks == skipped
    assert run.xcoms["return_value"]["open"] is False


def test_closed_mapped_gate_before_what_it_cannot_skip_fails() -> None:
    with pytest.raises(AirflowFailException, match=r"'each'.*cannot be skipped.*on_closed='fail'"):
        mapped_gate("mapped by itself").execute(TaskRun(map_index=0).context())


def test_closed_gate_with_nothing_behind_it_just_says_so(task_run: TaskRun) -> None:
    with DAG("gated", schedule=None):
        closed = gate({"accuracy": 0.5}, on_closed="skip")
    assert closed.execute(task_run.context()) == {"open": False, "reasons": ["accuracy = 0.5 is not >= 0.9"]}
