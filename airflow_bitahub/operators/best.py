"""The best of several results, as at the end of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from airflow.sdk import BaseOperator, TriggerRule
from airflow.sdk.definitions.xcom_arg import PlainXComArg

from airflow_bitahub.exceptions import BitaHubError, ConfigurationError
from airflow_bitahub.operators.arguments import Check, CheckedArguments, as_text, kind_of, one_of
from airflow_bitahub.operators.conditions import MISSING, is_number, look_up, shown
from airflow_bitahub.operators.failures import airflow_error

if TYPE_CHECKING:
    from airflow.sdk import Context

# Entries of the ranking that are kept, and results that an error mentions.
LONGEST_RANKING = 50
_MENTIONED = 5


class _Entry(NamedTuple):
    """A member of the sweep that has the metric."""

    value: int | float
    place: int
    result: Mapping[str, Any]


class BitaHubBestOperator(BaseOperator, CheckedArguments):
    """Returns the best of several results by one metric, such as those of mapped trainings.

    It waits for all of them, and leaves out those that failed, were skipped, or have no finite number as the metric, as
    a training that diverged. If none is left, it fails without using up retries. Of equal values, the first one wins.

    The XCom result is the winner's whole result, so ``best.output["output_path"]`` is that of the best training, and:

    .. code-block:: python

        {
            **winner,
            "index": 2,  # the winner's map index; in a list of tasks, its place from 0
            "ranking": [{"index": 2, "value": 0.93}, {"index": 0, "value": 0.91}],  # the best 50, the best first
        }

    :param results: the results of a mapped task (``train.output``), or a list of results (``[one.output, two.output]``)
    :param metric: the metric's path in a result, such as ``metrics.accuracy`` of an evaluation's. Names may contain
        dots, as in `BitaHubMetricGateOperator`
    :param mode: ``max``: the greatest value is the best; ``min``: the smallest
    :param trigger_rule: Airflow's; default: ``all_done_min_one_success``
    """

    template_fields: Sequence[str] = ("results", "metric")
    argument_checks: ClassVar[Mapping[str, Check]] = {"metric": as_text, "mode": one_of("max", "min")}
    ui_color = "#ffe9b8"

    def __init__(
        self,
        *,
        results: Any,
        metric: str,
        mode: Literal["max", "min"] = "max",
        trigger_rule: str = TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
        multiple_outputs: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, multiple_outputs=multiple_outputs, **kwargs)
        self.results = results
        self.metric = metric
        self.mode = mode
        self.check_arguments()

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the templates, and keep where the results come from."""
        self._source = self.results
        super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the best result."""
        try:
            self.read_arguments()
            ranking = self._rank(context)
        except BitaHubError as error:
            raise airflow_error(error) from None
        winner = ranking[0]
        self.log.info("The best %s is %s, at index %d of %d", self.metric, winner.value, winner.place, len(ranking))
        return {
            **winner.result,
            "index": winner.place,
            "ranking": [{"index": each.place, "value": each.value} for each in ranking[:LONGEST_RANKING]],
        }

    def _rank(self, context: Context) -> list[_Entry]:
        """Return the members that have the metric, the best first. Raises ConfigurationError where there is none."""
        entries: list[_Entry] = []
        left_out: list[str] = []
        for index, result in self._members(context):
            value: Any = look_up(self.metric, result) if isinstance(result, Mapping) else MISSING
            if isinstance(result, Mapping) and is_number(value):
                entries.append(_Entry(value, index, result))
            else:
                left_out.append(f"[{index}]: {self._flaw(result, value)}")
        if left_out:
            self.log.warning("%d results were left out: %s", len(left_out), _mentioned(left_out))
        if not entries:
            raise ConfigurationError(
                f"No result has a number as metric={self.metric!r}: {_mentioned(left_out) or 'there are no results'}."
            )
        sign = -1 if self.mode == "max" else 1
        return sorted(entries, key=lambda entry: (sign * entry.value, entry.place))

    def _flaw(self, result: Any, value: Any) -> str:
        if result is None:
            return "it has no result, so its task failed or was skipped"
        if not isinstance(result, Mapping):
            return f"its result is {kind_of(result)} instead of a mapping"
        if value is not MISSING:
            return f"{self.metric} = {shown(value)} is not a finite number"
        names = ", ".join(sorted(str(name) for name in result)[:20])
        return f"{self.metric} is missing from its entries {names}"

    def _members(self, context: Context) -> Iterator[tuple[int, Any]]:
        """Return the results with their indexes; None for a member that has none."""
        results = self.results
        if isinstance(results, Mapping):  # of a mapped task with one instance
            results = [results]
        if results is None:
            results = []
        if isinstance(results, str) or not isinstance(results, Sequence):
            raise ConfigurationError(
                f"results must be the output of a mapped task, such as train.output, or a list of results, not "
                f"{kind_of(results)}."
            )
        source: Any = getattr(self, "_source", None)
        if isinstance(source, PlainXComArg):
            # Airflow leaves out the instances that have no result, so that a place in the list is no map index.
            ti: Any = context["ti"]
            task_id = source.operator.task_id
            count = ti.get_ti_count(dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id])
            if count != len(results):
                results = ti.xcom_pull(task_ids=task_id, key=source.key, map_indexes=range(count))
        return enumerate(results)


def _mentioned(texts: list[str]) -> str:
    more = len(texts) - _MENTIONED
    return "; ".join([*texts[:_MENTIONED], *([f"and {more} more"] if more > 0 else [])])
