"""Reports for people who decide, as Markdown: the body of Airflow's `ApprovalOperator`, for example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.operators.conditions import MISSING, is_number, look_up

if TYPE_CHECKING:
    from airflow_bitahub.procedures.deployments import Version

_ROWS = 40  # of the table of metrics
_LONGEST = 200  # characters of a name
_NOTHING = "-"

_TEXTS: Mapping[str, tuple[str, str]] = {
    "metric": ("metric", "指标"),
    "new": ("this model", "新模型"),
    "champion": ("champion", "当前版本"),
    "difference": ("difference", "差值"),
    "more": ("{count} more metrics are in the evaluation's result.", "另有 {count} 项指标，见评估任务的结果。"),
    "none": ("The evaluation has no metrics that are numbers.", "评估结果中没有数值指标。"),
    "job": ("Evaluated by job {job}.", "评估作业：{job}。"),
    "serves": (
        "As {name}, the model {model} serves since {since}.",
        "服务 {name} 当前使用模型 {model}，上线时间 {since}。",
    ),
    "first": ("Nothing serves as {name} yet.", "服务 {name} 尚未上线任何版本。"),
    "matrix": ("Confusion matrix", "混淆矩阵"),
}


def evaluation_report(
    evaluation: Mapping[str, Any],
    *,
    champion: str | None = None,
    version: str = "v1",
    matrix_of: str | None = None,
    language: Literal["en", "zh"] = "en",
    bitahub_conn_id: str = DEFAULT_CONN_ID,
) -> str:
    """Return a report on an evaluation: a table of its metrics, and what it is compared with. Call it in a task.

    .. code-block:: python

        @task
        def report(evaluation):
            return evaluation_report(evaluation, champion="mnist-serving-demo", matrix_of="evaluate")


        ApprovalOperator(task_id="approve", subject="Deploy it?", body=report(evaluate.output))

    Names in the metrics may come from anywhere. They are shown as code, so that no Markdown in them has an effect.

    :param evaluation: the result of a `BitaHubEvaluateOperator`
    :param champion: the name of a serving that this Airflow deploys, whose metrics stand beside; None: no comparison
    :param version: the champion's version on the platform
    :param matrix_of: the id of the evaluation's task in this DAG, if its job writes ``confusion_matrix.json``. The
        matrix is then shown as a picture. Airflow's web server reads it through the connection's ``storage_uri``
    :param language: ``en`` or ``zh``
    :param bitahub_conn_id: the Airflow connection to the champion's platform
    :raises ConfigurationError: `evaluation` is no evaluation's result
    """
    metrics = evaluation.get("metrics") if isinstance(evaluation, Mapping) else None
    if not isinstance(metrics, Mapping):
        raise ConfigurationError(
            "evaluation must be the result of a BitaHubEvaluateOperator, such as evaluate.output, with its metrics."
        )
    if language not in ("en", "zh"):
        raise ConfigurationError(f"language must be 'en' or 'zh', not {language!r}.")
    texts = {name: both[language == "zh"] for name, both in _TEXTS.items()}
    current = _champion(champion, version, bitahub_conn_id) if champion else None
    parts = [_table(metrics, current.metrics if current else None, texts)]
    if champion:
        parts.append(_comparison(champion, current, texts))
    if job := evaluation.get("job_name"):
        parts.append(texts["job"].format(job=_code(job)))
    if matrix_of:
        address = _matrix_address(matrix_of)
        # Airflow shows pictures 300 pixels wide at most, too small to read: a click opens it at its own size.
        parts.append(f"[![{texts['matrix']}]({address})]({address})")
    return "\n\n".join(parts)


def _champion(name: str, version: str, bitahub_conn_id: str) -> Version | None:
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.hooks.deployment_records import VariableRecords

    record = VariableRecords(BitaHubHook(bitahub_conn_id), name, version).load()
    return None if record is None else record.champion


def _table(metrics: Mapping[str, Any], others: Mapping[str, Any] | None, texts: Mapping[str, str]) -> str:
    names = list(dict.fromkeys([*_names(metrics), *_names(others or {})]))
    if not names:
        return texts["none"]
    heads = ["metric", "new", *([] if others is None else ["champion", "difference"])]
    rows = [[texts[head] for head in heads], ["---", *["---:"] * (len(heads) - 1)]]
    for name in names[:_ROWS]:
        new, old = look_up(name, metrics), look_up(name, others or {})
        row = [_code(name), _number(new)]
        if others is not None:
            row += [_number(old), _difference(new, old)]
        rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    left = len(names) - _ROWS
    return "\n".join(lines) + (f"\n\n{texts['more'].format(count=left)}" if left > 0 else "")


def _comparison(name: str, current: Version | None, texts: Mapping[str, str]) -> str:
    if current is None:
        return texts["first"].format(name=_code(name))
    since = _NOTHING
    if current.deployed_at is not None:
        since = f"{datetime.fromtimestamp(current.deployed_at, timezone.utc):%Y-%m-%d %H:%M} UTC"
    return texts["serves"].format(name=_code(name), model=_code(current.model_path), since=since)


def _matrix_address(task_id: str) -> str:
    """Return the picture's address, relative to Airflow's own, so that it holds below any `base_url`."""
    from airflow.sdk import get_current_context

    ti = get_current_context()["ti"]
    return "bitahub/confusion_matrix?" + urlencode({"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": task_id})


def _names(metrics: Mapping[str, Any], prefix: str = "", depth: int = 5) -> Iterator[str]:
    """Return the names of the metrics that are numbers, those of inner mappings with dots."""
    for name, value in metrics.items():
        if is_number(value):
            yield f"{prefix}{name}"
        elif isinstance(value, Mapping) and depth:
            yield from _names(value, f"{prefix}{name}.", depth - 1)


def _number(value: Any) -> str:
    if value is MISSING or not is_number(value):
        return _NOTHING
    if isinstance(value, int):
        return str(value) if abs(value) < 10**9 else f"{Decimal(value):.6g}"  # no float may hold it
    return f"{value:.6g}"


def _difference(new: Any, old: Any) -> str:
    if not (is_number(new) and is_number(old)):
        return _NOTHING
    try:
        return f"{new - old:+.4g}"
    except OverflowError:  # no float can hold one of them
        return _NOTHING


def _code(text: Any) -> str:
    """Return text as Markdown's code, within a table, too: nothing in it has a meaning there."""
    line = " ".join(str(text).split())[:_LONGEST].replace("`", "'").replace("\\", "/").replace("|", "¦")
    return f"`{line or ' '}`"
