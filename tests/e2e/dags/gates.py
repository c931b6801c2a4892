"""What may be behind a gate: the same tasks behind ours and behind Airflow's own.

Everything but the gates is an EmptyOperator, for which the scheduler starts no process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import DAG, TriggerRule, task_group

from airflow_bitahub.operators.gate import BitaHubMetricGateOperator

BAD, GOOD = 0.1, 0.95
ALL_DONE = TriggerRule.ALL_DONE


def ours(accuracy: Any) -> BitaHubMetricGateOperator:
    return BitaHubMetricGateOperator(task_id="gate", metrics={"accuracy": accuracy}, conditions="accuracy >= 0.9")


def ours_mapped() -> Any:
    gate = BitaHubMetricGateOperator.partial(task_id="gate", conditions="accuracy >= 0.9")
    return gate.expand(metrics=[{"accuracy": BAD}, {"accuracy": GOOD}])


def is_good(accuracy: float) -> bool:
    return accuracy >= 0.9


def airflows(accuracy: Any) -> ShortCircuitOperator:
    return ShortCircuitOperator(task_id="gate", python_callable=is_good, op_args=[accuracy])


def airflows_mapped() -> Any:
    return ShortCircuitOperator.partial(task_id="gate", python_callable=is_good).expand(op_args=[[BAD], [GOOD]])


def mapped(task_id: str, rule: TriggerRule = TriggerRule.ALL_SUCCESS) -> Any:
    return EmptyOperator.partial(task_id=task_id, trigger_rule=rule).expand(doc=["a", "b"])


def shapes(gate: Callable[[Any], Any], mapped_gate: Callable[[], Any]) -> None:
    @task_group
    def closed() -> None:
        @task_group
        def group(_name: str = "") -> None:
            deploy = EmptyOperator(task_id="deploy")
            deploy >> [EmptyOperator(task_id="ask"), EmptyOperator(task_id="report", trigger_rule=ALL_DONE)]

        closed = gate(BAD)
        for rule in (TriggerRule.ALL_SUCCESS, TriggerRule.NONE_FAILED, ALL_DONE):
            closed >> EmptyOperator(task_id=f"deploy_{rule.value}", trigger_rule=rule)
            closed >> mapped(f"deploy_mapped_{rule.value}", rule)
        closed >> group() >> mapped("report", ALL_DONE)
        closed >> group.override(group_id="mapped_group").expand(_name=["a", "b"])
        closed >> EmptyOperator(task_id="clean_up").as_teardown()

    @task_group
    def each(accuracy: float) -> None:
        deploy = EmptyOperator(task_id="deploy")
        gate(accuracy) >> [deploy, EmptyOperator(task_id="notify", trigger_rule=ALL_DONE)]
        deploy >> EmptyOperator(task_id="report", trigger_rule=ALL_DONE)

    @task_group(group_id="by_itself")
    def gate_mapped_by_itself() -> None:
        mapped_gate() >> [EmptyOperator(task_id="deploy"), mapped("deploy_mapped"), mapped("notify", ALL_DONE)]

    closed()
    each.expand(accuracy=[BAD, GOOD]) >> EmptyOperator(task_id="compare", trigger_rule=ALL_DONE)
    gate_mapped_by_itself()


with DAG(dag_id="gates", schedule=None):

    @task_group(group_id="ours")
    def behind_ours() -> None:
        shapes(ours, ours_mapped)

    @task_group(group_id="airflows")
    def behind_airflows() -> None:
        shapes(airflows, airflows_mapped)

    behind_ours()
    behind_airflows()
