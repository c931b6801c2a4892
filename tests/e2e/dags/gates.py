"""Gates before tasks whose trigger rules ignore failures, in a mapped group and plain."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TriggerRule, task_group

from airflow_bitahub.operators.gate import BitaHubMetricGateOperator

with DAG(dag_id="gates", schedule=None):

    @task_group
    def candidate(metrics: dict[str, float]) -> None:
        gate = BitaHubMetricGateOperator(task_id="gate", metrics=metrics, conditions="accuracy >= 0.9")
        gate >> EmptyOperator(task_id="deploy", trigger_rule=TriggerRule.ALL_DONE)

    candidate.expand(metrics=[{"accuracy": 0.1}, {"accuracy": 0.95}])

    closed = BitaHubMetricGateOperator(task_id="closed", metrics={"accuracy": 0.1}, conditions="accuracy >= 0.9")
    for rule in (TriggerRule.ALL_SUCCESS, TriggerRule.ALL_DONE, TriggerRule.NONE_FAILED, TriggerRule.ONE_SUCCESS):
        closed >> EmptyOperator(task_id=f"after_{rule.value}", trigger_rule=rule)
    closed >> EmptyOperator(task_id="clean_up").as_teardown()
