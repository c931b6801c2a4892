"""The gate between an evaluation and a deployment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.bases.skipmixin import XCOM_SKIPMIXIN_KEY, XCOM_SKIPMIXIN_SKIPPED, SkipMixin
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from airflow_bitahub.api.names import LONGEST_SERVING_NAME
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.operators.arguments import (
    Check,
    as_dns_label,
    as_flag,
    as_text,
    is_none,
    is_template,
    one_of,
    optional,
)
from airflow_bitahub.operators.base import BitaHubOperator
from airflow_bitahub.operators.conditions import comparison_of, evaluate_condition, parse_condition, read_metrics
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.operators.records import GATE_FACTS, number_in, push_facts
from airflow_bitahub.texts import shorten

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import Operator

    from airflow_bitahub.lineage.names import Material


class BitaHubMetricGateOperator(BitaHubOperator, SkipMixin):
    """Lets a run continue only if the metrics are good enough.

    The gate opens when every condition is true. A metric that is missing, NaN, infinite, text or empty keeps it closed.
    Metrics that are not a mapping at all, or a malformed condition, are a mistake: the task fails without using up
    retries. The XCom result is ``{"open": True, "reasons": ["accuracy = 0.93 >= 0.9"]}``.

    With `champion`, conditions can also compare with what serves now: ``accuracy >= champion.accuracy - 0.005``. The
    champion's metrics are those that `BitaHubDeployServingOperator` was given as `metrics` when it deployed the version
    that serves now. A version on trial, or one that was replaced or removed, is no champion.

    A closed gate holds whatever is behind it: single tasks, mapped tasks, task groups and mapped task groups, also if
    only these tasks are cleared later. Only teardowns run.

    - A gate *in a mapped task group* skips the tasks of its own index in that group, and the tasks directly behind the
      gate outside of it. What comes after the group follows its own trigger rules.
    - A gate that is *mapped itself* skips everything behind it if any of its instances is closed. To decide for each
      index, put the gate and the deployment into one mapped task group.
    - A closed instance of these two ends as *skipped* itself; any other closed gate ends as a success. After a clear,
      Airflow 3.3 knows nothing of these two but their state.

    Airflow sets two limits. A task whose trigger rule does not wait for the gate (such as ``always``) may start before
    the gate has decided. And a task with a lenient trigger rule (such as ``all_done`` or ``none_failed``) runs if it is
    cleared alone, unless it is directly behind a gate that is neither mapped nor in a mapped task group.

    :param metrics: such as the ``metrics`` of an evaluation's result; nested ones are found as ``test.accuracy``
    :param conditions: one such as ``accuracy >= 0.9``, or a list of several that must all be true; with ``>=``, ``>``,
        ``<=`` or ``<``. Names are written as they are (``mAP@0.5 > 0.4``, ``val/acc > 0.9``), and in quotes if they
        contain blanks: ``'top 5 accuracy' >= 0.9``. A metric of the champion comes second, alone or with one ``+``,
        ``-`` or ``*`` and a number: ``loss < champion.loss * 1.1``. `operators.conditions` gives the grammar. A
        condition without a template is checked when the DAG is parsed
    :param champion: the name of a serving that this Airflow deploys; None: conditions mention no champion
    :param champion_missing: what a condition means whose metric the champion does not have, or when there is no
        champion yet. ``open``: it is true, so that the first version can be deployed; its other conditions still count,
        and a metric of its own that is missing still keeps the gate closed. ``closed``: it is false, so that somebody
        has to deploy the first version in another way
    :param version: the champion's version on the platform
    :param bitahub_conn_id: the Airflow connection to the platform of the champion; not needed without one
    :param on_closed: what a closed gate does. ``skip``: it skips the tasks behind it. ``fail``: it fails without using
        up retries, and the tasks behind it follow their trigger rules
    :param ignore_downstream_trigger_rules: as Airflow's ShortCircuitOperator: True skips all tasks behind the gate;
        False skips those directly behind it, and the later ones follow their trigger rules, as a report with
        ``all_done`` may want
    """

    template_fields: Sequence[str] = ("metrics", "conditions", "champion", "version", "bitahub_conn_id")
    argument_checks: ClassVar[Mapping[str, Check]] = {
        "champion": optional(as_dns_label(LONGEST_SERVING_NAME)),
        "champion_missing": one_of("open", "closed"),
        "on_closed": one_of("skip", "fail"),
        "ignore_downstream_trigger_rules": as_flag,
        "version": as_text,
        "bitahub_conn_id": as_text,
    }
    ui_color = "#ffe9b8"
    # For a cleared task, the scheduler then reads what the gate has skipped.
    inherits_from_skipmixin = True

    def __init__(
        self,
        *,
        metrics: Mapping[str, Any] | str,
        conditions: str | Sequence[str],
        champion: str | None = None,
        champion_missing: Literal["open", "closed"] = "open",
        on_closed: Literal["skip", "fail"] = "skip",
        ignore_downstream_trigger_rules: bool = True,
        version: str = "v1",
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # An instance of a mapped gate is constructed when it runs: `execute` fails without using up retries.
        if not getattr(self, "_BaseOperator__from_mapped", False):
            for condition in _as_list(conditions) if isinstance(conditions, str | Sequence) else [conditions]:
                if not is_template(condition):
                    _check_condition(condition, champion)
        self.metrics = metrics
        self.conditions = conditions
        self.champion = champion
        self.champion_missing = champion_missing
        self.version = version
        self.bitahub_conn_id = bitahub_conn_id
        self.on_closed = on_closed
        self.ignore_downstream_trigger_rules = ignore_downstream_trigger_rules
        self.check_arguments()

    def execute(self, context: Context) -> dict[str, Any]:
        """Check the conditions, and skip or fail where one is false."""
        try:
            outcomes = self._evaluate(context)
        except BitaHubError as error:
            raise airflow_error(error) from None
        is_open = all(holds for holds, _ in outcomes)
        reasons = [reason for _, reason in outcomes]
        result = {"open": is_open, "reasons": reasons}
        self.log.info("The gate is %s: %s", "open" if is_open else "closed", "; ".join(reasons))
        if is_open:
            return result
        if self.on_closed == "fail":
            raise AirflowFailException(f"The gate is closed: {'; '.join(reasons)}")
        context["ti"].xcom_push(key="return_value", value=result)  # skipping raises, which ends the task
        self._skip_downstream(context["ti"])
        return result

    def lineage_inputs(self) -> Iterable[Material]:
        """Return the champion, if conditions compare with one."""
        from airflow_bitahub.lineage.names import Material

        return [Material(f"/servings/{self.champion}")] if self.champion else []

    def _evaluate(self, context: Context) -> list[tuple[bool, str]]:
        """Return whether each condition is true, and why."""
        self.read_arguments()
        metrics = read_metrics(self.metrics)
        conditions = _as_list(self.conditions)
        for condition in conditions:
            _check_condition(condition, self.champion)
        champion = self._champion_metrics() if self.champion else None
        missing: Any = self.champion_missing
        outcomes = [evaluate_condition(condition, metrics, champion, missing) for condition in conditions]
        push_facts(
            context,
            GATE_FACTS,
            {
                "open": all(holds for holds, _ in outcomes),
                "conditions": [
                    {
                        "text": shorten(condition, 200),
                        "metric": shorten(metric, 200),
                        "value": number_in(value),
                        "bound": number_in(bound),
                        "holds": holds,
                    }
                    for condition, (holds, _) in zip(conditions, outcomes, strict=True)
                    for metric, value, bound in [comparison_of(condition, metrics, champion)]
                ],
            },
        )
        return outcomes

    def _champion_metrics(self) -> Mapping[str, Any] | None:
        """Return the metrics of the version that serves now; None: nothing that this Airflow deployed serves."""
        from airflow_bitahub.hooks.deployment_records import VariableRecords

        record = VariableRecords(self.hook, str(self.champion), self.version).load()
        if record is None or record.champion is None:
            self.log.info(
                "No version of serving %r is on record as serving well, so there is no champion", self.champion
            )
            return None
        if not record.champion.metrics:
            self.log.warning(
                "The champion, %s, was deployed without metrics. Set metrics in BitaHubDeployServingOperator.",
                record.champion,
            )
        return record.champion.metrics

    def _skip_downstream(self, ti: Any) -> None:
        tasks = [task for task in self._tasks_to_skip() if not task.is_teardown]
        if tasks:
            skipped = {XCOM_SKIPMIXIN_SKIPPED: [task.task_id for task in tasks]}
            ti.xcom_push(key=XCOM_SKIPMIXIN_KEY, value=skipped)  # for NotPreviouslySkippedDep
        instances = [instance for task in tasks for instance in self._instances(task, ti)]
        if ti.map_index < 0:
            if instances:
                raise DownstreamTasksSkipped(tasks=instances)
            return
        if instances:
            _send_skipped(instances)
        # Airflow 3.3 looks for the XCom of a gate in a mapped task group at the index -1, where it is not. And it has
        # no place for "skip this task if any instance of the gate is closed". It does respect the gate's own state.
        raise AirflowSkipException("The gate is closed.")

    def _tasks_to_skip(self) -> Iterator[Operator]:
        """Return the tasks that a closed gate skips, teardowns included."""
        direct = self.get_direct_relatives(upstream=False)
        if not self.ignore_downstream_trigger_rules:
            yield from direct
            return
        group = self.get_closest_mapped_task_group()
        nearest = {task.task_id for task in direct}
        for task in self.get_flat_relatives(upstream=False):
            if group is None or task.task_id in nearest or _is_in(task, group):
                yield task

    def _instances(self, task: Operator, ti: Any) -> list[str | tuple[str, int]]:
        """Return the instances of a task that a closed gate skips, by task id and map index."""
        group = self.get_closest_mapped_task_group()
        if group is not None and _is_in(task, group):
            return [(task.task_id, ti.map_index)]
        if not task.is_mapped and task.get_closest_mapped_task_group() is None:
            return [(task.task_id, -1)]
        # Airflow creates the instances when it knows how many there will be. Until then there is one, with index -1.
        count = ti.get_ti_count(dag_id=ti.dag_id, task_ids=[task.task_id], run_ids=[ti.run_id])
        return [(task.task_id, index) for index in range(-1, count)]


def _check_condition(condition: Any, champion: Any) -> None:
    """Raise ConfigurationError for a malformed condition, or one about a champion where none is given."""
    if parse_condition(condition).bound.champion and is_none(champion):
        raise ConfigurationError(f"The condition {condition!r} mentions a champion. Set champion to a serving's name.")


def _as_list(conditions: Any) -> list[Any]:
    listed = [conditions] if isinstance(conditions, str) else conditions
    if not isinstance(listed, Sequence) or not listed:
        raise ConfigurationError(
            "conditions must be a condition or a list of them, since without one the gate would never close."
        )
    return list(listed)


def _is_in(task: Operator, group: Any) -> bool:
    """Return whether a task belongs to a mapped task group, so that each of its instances has an index of the group."""
    closest = task.get_closest_mapped_task_group()
    return closest is not None and closest.group_id == group.group_id


def _send_skipped(instances: list[str | tuple[str, int]]) -> None:
    """Let Airflow skip task instances. DownstreamTasksSkipped would do so too, but this task would end as a success."""
    from airflow.sdk.execution_time.comms import SkipDownstreamTasks
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    SUPERVISOR_COMMS.send(SkipDownstreamTasks(tasks=instances))
