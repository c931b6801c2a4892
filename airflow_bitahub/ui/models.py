"""The page "Models" of a DAG: metrics, time and accelerators of its runs, versions of models, and what serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.settings import TIMEZONE
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from airflow_bitahub.pages.axes import text_of
from airflow_bitahub.pages.bars import BarChart, Bars, bar_chart
from airflow_bitahub.pages.charts import LineChart, Mark, MarkKind, Series, line_chart
from airflow_bitahub.pages.formats import duration
from airflow_bitahub.pages.scales import number
from airflow_bitahub.ui.access import may_see
from airflow_bitahub.ui.history import RUNS, FinishedJob, Gate, History, Run, SavedVersion, read_history
from airflow_bitahub.ui.rendering import render, translator_for
from airflow_bitahub.ui.threads import in_thread

router = APIRouter()

_CHARTS = 12
_LINES = 6  # of one chart, of values and of bounds
_LEVELS = 5  # marks of one run
_MARKS: Mapping[str, MarkKind] = {
    "deployed": "good",
    "reverted": "back",
    "restored": "back",
    "rejected": "bad",
    "failed": "bad",
}
_SERVED = ("deployed", "reverted")
_STATES = {"success": "SUCCEEDED", "failed": "FAILED", "running": "RUNNING", "queued": "WAITING"}  # of DAG runs

_Translate = Callable[..., str]


@router.get("/models", dependencies=[may_see(DagAccessEntity.RUN, DagAccessEntity.XCOM)])
async def show_models(
    request: Request,
    dag_id: Annotated[str, Query(min_length=1, max_length=250)],
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """Show a page of a DAG's runs, without the newest `offset` ones."""
    return await in_thread(_models_page, request, dag_id, offset)


def _models_page(request: Request, dag_id: str, offset: int) -> Response:
    history = read_history(dag_id, offset)
    t = translator_for(request)
    return render(
        request,
        "models.html",
        dag_id=dag_id,
        offset=offset,
        runs_on_a_page=RUNS,
        history=history,
        rows=[_row(run) for run in reversed(history.runs)],
        metrics=_metric_charts(history.runs, t),
        time=_time_chart(history.runs, t),
        accelerators=_accelerator_chart(history.runs, t),
        models=_models(history),
    )


# Charts --------------------------------------------------------------------------------------------------------


@dataclass
class _Bound:
    """What a condition compared a metric with, by the numbers of runs; its text is that of the last run."""

    text: str
    values: dict[int, float | None]


@dataclass
class _Metric:
    """The values of one metric, and the bounds of the gates about it, by their sources and by the numbers of runs."""

    values: dict[str, dict[int, float | None]]
    bounds: dict[tuple[str, int], _Bound]
    closed: list[Mark]

    def series(self, runs: int) -> list[Series]:
        """Return the lines of so many runs. A task that is mapped may have thousands, so only the first are taken."""
        measured = [(name, values, False) for name, values in self.values.items()][:_LINES]
        compared = [(bound.text, bound.values, True) for bound in self.bounds.values()][:_LINES]
        return [
            Series(name, [(index, values.get(index)) for index in range(runs)], is_threshold)
            for name, values, is_threshold in (*measured, *compared)
        ]


@dataclass(frozen=True)
class MetricCharts:
    """A chart for each metric, those with a gate first.

    :param left_out: how many metrics have none
    :param are_lines_missing: a chart has not all of its lines
    """

    charts: Sequence[LineChart]
    left_out: int
    are_lines_missing: bool


def _metric_charts(runs: Sequence[Run], t: _Translate) -> MetricCharts:
    metrics = _metrics(runs, t)
    names = sorted(metrics, key=lambda name: (not metrics[name].bounds, name))
    labels = [_label(run) for run in runs]
    marks = list(_deployment_marks(runs, t))
    charts = [
        line_chart(
            name,
            metrics[name].series(len(runs)),
            x_name=t("run"),
            x_labels=labels,
            marks=_first_of_each_run([*metrics[name].closed, *marks]),
            mark_name=t("events"),
        )
        for name in names[:_CHARTS]
    ]
    are_lines_missing = any(len(metrics[name].values) > _LINES for name in names[:_CHARTS])
    return MetricCharts(charts, len(names) - len(charts), are_lines_missing)


def _metrics(runs: Sequence[Run], t: _Translate) -> dict[str, _Metric]:
    evaluated = {name for run in runs for _, values in run.metrics for name in values}
    found: dict[str, _Metric] = {}
    for index, run in enumerate(runs):
        for task, values in run.metrics:
            for name, value in values.items():
                found.setdefault(name, _Metric({}, {}, [])).values.setdefault(str(task), {})[index] = value
        for gate in run.gates:
            for position, each in enumerate(gate.comparisons):
                metric = found.setdefault(each.metric, _Metric({}, {}, []))
                if each.metric not in evaluated:  # another task has measured it
                    metric.values.setdefault(str(gate.task), {})[index] = each.value
                bound = metric.bounds.setdefault((str(gate.task), position), _Bound(each.text, {}))
                bound.text = each.text
                bound.values[index] = each.bound
            for name, reasons in _failed(gate, t).items():
                found[name].closed.append(Mark(index, "bad", f"{gate.task}: {'; '.join(reasons)}"))
    return found


def _failed(gate: Gate, t: _Translate) -> dict[str, list[str]]:
    """Return the conditions that closed a gate, in words, by their metrics."""
    failed: dict[str, list[str]] = {}
    for each in gate.comparisons:
        if not each.holds:
            reason = t("gate_closed", condition=each.text, value=text_of(each.value, number))
            failed.setdefault(each.metric, []).append(reason)
    return failed


def _first_of_each_run(marks: Sequence[Mark]) -> list[Mark]:
    """Return marks without those for which there is no place: a task that is mapped may have thousands."""
    placed: dict[float, list[Mark]] = {}
    for mark in marks:
        placed.setdefault(mark.x, []).append(mark)
    return [mark for same in placed.values() for mark in same[:_LEVELS]]


def _deployment_marks(runs: Sequence[Run], t: _Translate) -> Iterator[Mark]:
    for index, run in enumerate(runs):
        for each in run.deployments:
            if kind := _MARKS.get(each.outcome):
                yield Mark(index, kind, f"{each.task}: {t(f'outcome_{each.outcome}')} ({each.serving})")


def _time_chart(runs: Sequence[Run], t: _Translate) -> BarChart:
    parts = [
        Bars(t("queue_time"), [_sum(job.queue_seconds for job in run.jobs) for run in runs], colour=6),
        Bars(t("run_time"), [_sum(job.run_seconds for job in run.jobs) for run in runs], colour=1),
    ]
    labels = [_label(run) for run in runs]
    return bar_chart(
        t("time_of_jobs"), labels, parts, x_name=t("run"), of_time=True, value_text=lambda value: duration(value * 1000)
    )


def _accelerator_chart(runs: Sequence[Run], t: _Translate) -> BarChart:
    kinds = sorted({job.accelerator for run in runs for job in run.jobs if job.accelerators})[:_LINES]

    def hours(run: Run, kind: str) -> float | None:
        return _sum(job.accelerator_hours for job in run.jobs if job.accelerators and job.accelerator == kind)

    parts = [
        Bars(kind or t("accelerator"), [hours(run, kind) for run in runs], colour=3 + index)
        for index, kind in enumerate(kinds)
    ]
    return bar_chart(t("accelerator_hours"), [_label(run) for run in runs], parts, x_name=t("run"))


def _sum(values: Any) -> float | None:
    """Return the sum of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _label(run: Run) -> str:
    return f"{run.run_after.astimezone(TIMEZONE):%m-%d %H:%M}"


# Tables --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A run in the table of runs. Times are in milliseconds; None: not known."""

    run: Run
    state: str
    moment: float
    duration: float | None
    queue: float | None
    running: float | None
    accelerator_hours: float | None
    failed_jobs: Sequence[FinishedJob]


def _row(run: Run) -> Row:
    return Row(
        run,
        _STATES.get(run.state, "WAITING"),
        run.run_after.timestamp() * 1000,
        (run.ended - run.started).total_seconds() * 1000 if run.started and run.ended else None,
        _in_milliseconds(_sum(job.queue_seconds for job in run.jobs)),
        _in_milliseconds(_sum(job.run_seconds for job in run.jobs)),
        _sum(job.accelerator_hours for job in run.jobs if job.accelerators),
        [job for job in run.jobs if job.status != "SUCCEEDED"],
    )


def _in_milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


@dataclass(frozen=True)
class ModelRow:
    """A saved version of a model, with where it comes from and what became of it.

    :param metrics: those it was saved with, or else those of the run's only evaluation
    :param trained_by: the task whose job trained it; None: it is none of this run
    :param status: ``serves``, ``served``, ``closed`` (a gate was), or ""
    """

    saved: SavedVersion
    run: Run
    moment: float
    metrics: Mapping[str, float]
    trained_by: FinishedJob | None
    status: str


def _models(history: History) -> dict[str, list[ModelRow]]:
    """Return the versions of each model, the newest first."""
    now = {each.current.model_path for each in history.servings if each.current}
    before = {version.model_path for each in history.servings for version in each.earlier}
    before |= {each.model_path for run in history.runs for each in run.deployments if each.outcome in _SERVED}
    found: dict[str, list[ModelRow]] = {}
    for run in reversed(history.runs):
        for saved in run.saved:
            is_held = any(not gate.is_open and gate.task.map_index in (-1, saved.task.map_index) for gate in run.gates)
            status = "closed" if is_held else ""
            if saved.path in now or saved.path in before:
                status = "serves" if saved.path in now else "served"
            trained_by = next((job for job in run.jobs if saved.job_name and job.name == saved.job_name), None)
            moment = run.run_after.timestamp() * 1000
            row = ModelRow(saved, run, moment, saved.metrics or _metrics_of(run, saved), trained_by, status)
            found.setdefault(saved.model, []).append(row)
    return found


def _metrics_of(run: Run, saved: SavedVersion) -> Mapping[str, float]:
    """Return the metrics of the only evaluation of a run that may be about a version."""
    same = [values for task, values in run.metrics if task.map_index == saved.task.map_index]
    return same[0] if len(same) == 1 else {}
