"""The gate between an evaluation and a deployment."""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped

from airflow_bitahub.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Context

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = r"\s*([\w.-]+)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*"


class BitaHubMetricGateOperator(BaseOperator, SkipMixin):
    """Lets a run continue only if the metrics are good enough.

    The gate opens when every condition is true. A metric that is missing, NaN, infinite, text or empty keeps it closed.
    The XCom result is ``{"open": True, "reasons": ["accuracy = 0.93 >= 0.9"]}``.

    :param metrics: such as the ``metrics`` of an evaluation's result
    :param conditions: one such as ``accuracy >= 0.9``, or a list of several that must all be true; with ``>=``, ``>``,
        ``<=`` or ``<``
    :param on_closed: what a closed gate does. ``skip``: it succeeds and skips the tasks directly downstream, whatever
        their trigger rule, except teardowns. ``fail``: it fails without using up retries. A mapped gate skips the tasks
        of its own index in the same mapped task group; it skips unmapped tasks if any of its instances is closed
    """

    template_fields: Sequence[str] = ("metrics", "conditions")
    ui_color = "#ffe9b8"

    def __init__(
        self,
        *,
        metrics: Mapping[str, Any] | str,
        conditions: str | Sequence[str],
        on_closed: Literal["skip", "fail"] = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_closed not in ("skip", "fail"):
            raise ValueError(f"on_closed must be 'skip' or 'fail', not {on_closed!r}")
        self.metrics = metrics
        self.conditions = conditions
        self.on_closed = on_closed

    def execute(self, context: Context) -> dict[str, Any]:
        """Check the conditions, and skip or fail where one is false."""
        conditions = [self.conditions] if isinstance(self.conditions, str) else list(self.conditions)
        try:
            if not conditions:
                raise ConfigurationError("The gate has no condition, so it would never close.")
            outcomes = [evaluate_condition(condition, _as_mapping(self.metrics)) for condition in conditions]
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
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

    def _skip_downstream(self, ti: Any) -> None:
        downstream = [task for task in self.get_direct_relatives(upstream=False) if not task.is_teardown]
        if ti.map_index < 0:
            self.skip(ti, downstream)
            return
        # Airflow's own skip does nothing for mapped tasks: their deployments would run.
        group = self.get_closest_mapped_task_group()
        skipped: list[str | tuple[str, int]] = []
        for task in downstream:
            theirs = task.get_closest_mapped_task_group()
            if group is not None and theirs is not None and theirs.group_id == group.group_id:
                skipped.append((task.task_id, ti.map_index))
            elif theirs is None and not task.is_mapped:
                skipped.append((task.task_id, -1))
            else:
                raise AirflowFailException(
                    f"The gate is closed, and {task.task_id!r}, which is mapped by itself, cannot be skipped. Put both "
                    f"into one mapped task group, or set on_closed='fail'."
                )
        if skipped:
            raise DownstreamTasksSkipped(tasks=skipped)


def evaluate_condition(condition: str, metrics: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether a condition is true, and the reason in words. Raises ConfigurationError when it is malformed."""
    match = re.fullmatch(_CONDITION, condition)
    if match is None:
        raise ConfigurationError(f"{condition!r} is not a condition such as 'accuracy >= 0.9'.")
    name, sign, limit = match.groups()
    try:
        bound = float(limit)
    except ValueError:
        raise ConfigurationError(f"{limit!r} in {condition!r} is not a number.") from None
    if name not in metrics:
        return False, f"{name} is missing, so not {sign} {limit}"
    value = metrics[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False, f"{name} = {value!r} is not a number, so not {sign} {limit}"
    holds = _COMPARE[sign](value, bound)
    return holds, f"{name} = {value} {'' if holds else 'is not '}{sign} {limit}"


def _as_mapping(metrics: Any) -> Mapping[str, Any]:
    """Return metrics as a mapping; a template may have turned them into text. Anything else contains no metric."""
    if isinstance(metrics, str):
        for read in (json.loads, ast.literal_eval):  # Jinja renders a mapping as a Python literal
            with suppress(ValueError, SyntaxError):
                metrics = read(metrics)
                break
    return metrics if isinstance(metrics, Mapping) else {}
