"""The gate opens if all conditions hold, and skips or fails otherwise. `tests/e2e` shows what Airflow then does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped
from airflow.sdk.execution_time import task_runner

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.deployment_records import VariableRecords
from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.procedures.deployments import Deployment, Owner, Rollout, Version
from tests.conftest import TaskRun

SERVES = Version("abc", {"model": {"path": "/models/u/m/2"}}, metrics={"accuracy": 0.93})
BEFORE = Version("def", {"model": {"path": "/models/u/m/1"}}, metrics={"accuracy": 0.99})
TRIAL = Rollout(Owner("d", "t", "r"), until=0, version=BEFORE)


def gate(metrics: Any, conditions: Any = "accuracy >= 0.9", **arguments: Any) -> BitaHubMetricGateOperator:
    return BitaHubMetricGateOperator(
        **{"task_id": "gate", "metrics": metrics, "conditions": conditions, "on_closed": "fail", **arguments}
    )


def test_all_conditions_must_hold(task_run: TaskRun) -> None:
    conditions = ["accuracy >= 0.9", "loss < 0.5"]
    assert gate("{'accuracy': 0.9, 'loss': 0.4}", conditions).execute(task_run.context()) == {
        "open": True,
        "reasons": ["accuracy = 0.9 >= 0.9", "loss = 0.4 < 0.5"],
    }
    with pytest.raises(
        AirflowFailException, match=r"The gate is closed: accuracy = 0\.9 >= 0\.9; loss = 0\.6 is not < 0\.5"
    ):
        gate({"accuracy": 0.9, "loss": 0.6}, conditions).execute(task_run.context())


@pytest.mark.parametrize("on_closed", ["skip", "fail"])
def test_metrics_that_are_not_a_mapping_fail(on_closed: str, task_run: TaskRun) -> None:
    with pytest.raises(AirflowFailException, match="metrics must be a mapping"):
        gate(None, on_closed=on_closed).execute(task_run.context())


@pytest.mark.parametrize(
    "conditions", ["accuracy => 0.9", ["accuracy >= {{ params.threshold }}", "loss"], [], "", None, 0.9, [0.9]]
)
def test_malformed_condition_is_refused_when_the_dag_is_parsed(conditions: Any) -> None:
    with pytest.raises(ConfigurationError, match="condition"):
        gate({}, conditions)


@pytest.mark.parametrize("rendered", ["accuracy => 0.9", ["accuracy >= 0.9", "loss"], [], None, 0.9, {"accuracy": 0.9}])
def test_malformed_rendered_condition_fails(rendered: Any, task_run: TaskRun) -> None:
    templated = gate({"accuracy": 1.0}, ["accuracy >= {{ params.threshold }}", "{{ params.another }}"])
    templated.conditions = rendered
    with pytest.raises(AirflowFailException, match="condition"):
        templated.execute(task_run.context())


def test_malformed_condition_of_a_mapped_gate_fails_without_using_up_retries(task_run: TaskRun) -> None:
    with DAG("gated", schedule=None):
        gates = BitaHubMetricGateOperator.partial(task_id="gate", metrics={}).expand(conditions=["accuracy => 0.9"])
    instance = gates.unmap({"conditions": "accuracy => 0.9"})
    with pytest.raises(AirflowFailException, match="is not a condition"):
        instance.execute(task_run.context())


def test_a_condition_about_a_champion_needs_one(task_run: TaskRun) -> None:
    with pytest.raises(ConfigurationError, match="Set champion to a serving's name"):
        gate({}, ["accuracy >= 0.9", "accuracy >= champion.accuracy"])
    templated = gate({"accuracy": 1.0}, ["{{ params.condition }}"], champion="{{ params.champion }}")
    templated.conditions, templated.champion = ["accuracy >= champion.accuracy"], "None"
    with pytest.raises(AirflowFailException, match="Set champion to a serving's name"):
        templated.execute(task_run.context())


@pytest.mark.usefixtures("connection", "variables")
@pytest.mark.parametrize(
    ("record", "champion_missing", "reason"),
    [
        (None, "open", "there is no champion"),
        (None, "closed", "there is no champion"),
        (Deployment(exists=True, versions=[SERVES, BEFORE]), "open", "champion.accuracy = 0.93"),
        (Deployment(exists=False, versions=[SERVES]), "closed", "there is no champion"),  # it was removed
        # It failed, and was left with the name since the one before it could not be restored.
        (Deployment(exists=True, versions=[replace(SERVES, is_withdrawn=True)]), "closed", "there is no champion"),
        (Deployment(exists=True, rollout=TRIAL), "closed", "there is no champion"),  # the first one, on trial
        (Deployment(exists=True, versions=[SERVES], rollout=TRIAL), "open", "champion.accuracy = 0.93"),
    ],
)
def test_the_champion_is_what_serves_now(
    record: Deployment | None, champion_missing: str, reason: str, hook: BitaHubHook, task_run: TaskRun
) -> None:
    if record is not None:
        VariableRecords(hook, "mnist", "v1").save(record)
    conditions = ["accuracy >= 0.9", "accuracy >= champion.accuracy - 0.005"]
    operator = gate({"accuracy": 0.925}, conditions, champion="mnist", champion_missing=champion_missing)
    if champion_missing == "open":
        assert reason in operator.execute(task_run.context())["reasons"][1]
    else:
        with pytest.raises(AirflowFailException, match=reason):
            operator.execute(task_run.context())


@pytest.mark.parametrize(
    "wrong",
    [{"on_closed": "stop"}, {"ignore_downstream_trigger_rules": "perhaps"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_argument_is_refused_when_the_dag_is_parsed(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ConfigurationError, match=f"^{name} "):
        gate({}, **wrong)


@pytest.mark.parametrize(("ignore", "skipped"), [(True, [("deploy", -1), ("later", -1)]), (False, [("deploy", -1)])])
def test_closed_gate_skips_all_or_what_is_directly_behind_it(ignore: bool, skipped: Any, task_run: TaskRun) -> None:
    with DAG("gated", schedule=None):
        closed = gate({"accuracy": 0.5}, on_closed="skip", ignore_downstream_trigger_rules=ignore)
        closed >> EmptyOperator(task_id="deploy") >> EmptyOperator(task_id="later")
        closed >> EmptyOperator(task_id="clean_up").as_teardown()
    with pytest.raises(DownstreamTasksSkipped) as raised:
        closed.execute(task_run.context())
    assert sorted(raised.value.tasks) == skipped
    assert task_run.xcoms["return_value"] == {"open": False, "reasons": ["accuracy = 0.5 is not >= 0.9"]}


def test_closed_gate_in_a_mapped_group_skips_its_own_index(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    supervisor = type("Supervisor", (), {"send": staticmethod(sent.append)})
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    gates: list[BitaHubMetricGateOperator] = []
    with DAG("gated", schedule=None):

        @task_group
        def candidate(metrics: dict[str, float]) -> None:
            closed = gate(metrics, on_closed="skip")
            closed >> EmptyOperator(task_id="deploy") >> EmptyOperator(task_id="later")
            closed >> EmptyOperator(task_id="clean_up").as_teardown()
            gates.append(closed)

        group = candidate.expand(metrics=[{"accuracy": 0.5}, {"accuracy": 0.5}])
        group >> EmptyOperator(task_id="report")
        [closed] = gates
        closed >> EmptyOperator(task_id="alarm")
    closed.metrics = {"accuracy": 0.5}  # as Airflow renders it
    run = TaskRun(map_index=1)
    with pytest.raises(AirflowSkipException):
        closed.execute(run.context())
    assert sorted(sent[0].tasks) == [("alarm", -1), ("candidate.deploy", 1), ("candidate.later", 1)]
    assert run.xcoms["return_value"]["open"] is False


def test_closed_gate_with_nothing_behind_it_just_says_so(task_run: TaskRun) -> None:
    with DAG("gated", schedule=None):
        closed = gate({"accuracy": 0.5}, on_closed="skip")
    assert closed.execute(task_run.context()) == {"open": False, "reasons": ["accuracy = 0.5 is not >= 0.9"]}
