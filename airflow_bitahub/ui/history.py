"""What Airflow's database says about the runs of a DAG: jobs, metrics, gates, saved models, and deployments.

Operators say it in XComs, see `operators.records`. XComs can be set by others, too, so nothing in them is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.variable import Variable
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks.deployment_records import DEPLOYMENT_KEY
from airflow_bitahub.operators.records import (
    DEPLOYMENT_FACTS,
    GATE_FACTS,
    JOB_FACTS,
    METRICS_FACTS,
    MODEL_FACTS,
    number_in,
    numbers_in,
)
from airflow_bitahub.procedures.deployments import deployment_from_json
from airflow_bitahub.texts import shorten
from airflow_bitahub.ui.ownership import run_in

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_bitahub.procedures.deployments import Deployment, Version

RUNS = 50  # on a page
_FACTS = 5_000  # of all of its runs
_RECENT = 200  # deployments in which the servings of a DAG are looked for
_SERVINGS = 10


@dataclass(frozen=True)
class Task:
    """A task instance of a run; `map_index` is -1 for a task that is not mapped."""

    task_id: str
    map_index: int

    def __str__(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id} [{self.map_index}]"


@dataclass(frozen=True)
class FinishedJob:
    """A job of a run, as its last try saw it end. Times are in seconds; None: the platform does not tell."""

    task: Task
    name: str
    status: str
    queue_seconds: float | None
    run_seconds: float | None
    accelerator: str
    accelerators: int

    @property
    def accelerator_hours(self) -> float | None:
        """Hours of run time, times accelerators."""
        return None if self.run_seconds is None else self.run_seconds * self.accelerators / 3600


@dataclass(frozen=True)
class SavedVersion:
    """A version of a model that a run saved.

    :param job_name: the job that trained it; "": not known
    """

    task: Task
    model: str
    version: str
    path: str
    job_name: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A condition of a gate, with the value and the bound that it compared; None: there was none."""

    text: str
    metric: str
    value: float | None
    bound: float | None
    holds: bool


@dataclass(frozen=True)
class Gate:
    """What a gate has decided."""

    task: Task
    is_open: bool
    comparisons: Sequence[Comparison]


@dataclass(frozen=True)
class DeploymentEnd:
    """How a deployment has ended.

    :param outcome: one of `RolloutEnd`, or ``outdated``
    """

    task: Task
    outcome: str
    serving: str
    model_path: str


@dataclass(frozen=True)
class Run:
    """A DAG run. Where a task was tried several times, the last try counts."""

    run_id: str
    state: str
    run_after: datetime
    started: datetime | None
    ended: datetime | None
    jobs: list[FinishedJob] = field(default_factory=list)
    metrics: list[tuple[Task, Mapping[str, float]]] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    saved: list[SavedVersion] = field(default_factory=list)
    deployments: list[DeploymentEnd] = field(default_factory=list)


@dataclass(frozen=True)
class ServedVersion:
    """A version of a serving that was seen to work.

    :param run_id: the run of this DAG that deployed it; "": another DAG did
    """

    model_path: str
    metrics: Mapping[str, float]
    deployed_at: float | None
    run_id: str
    is_withdrawn: bool


@dataclass(frozen=True)
class Serving:
    """What a serving that this DAG deploys serves.

    :param current: what serves now, the champion; None: nothing
    :param earlier: the newest first
    """

    name: str
    version: str
    current: ServedVersion | None
    earlier: Sequence[ServedVersion]
    is_changing: bool


@dataclass(frozen=True)
class History:
    """Some runs of a DAG, the oldest first.

    :param has_older: there are runs before them
    :param is_cut: these runs say more than a page holds
    """

    runs: Sequence[Run]
    has_older: bool
    is_cut: bool
    servings: Sequence[Serving]


def read_history(dag_id: str, offset: int = 0) -> History:
    """Read the newest runs of a DAG.

    :param offset: how many newer ones are left out
    """
    with create_session(scoped=False) as session:
        rows = session.execute(
            select(DagRun.id, DagRun.run_id, DagRun.state, DagRun.run_after, DagRun.start_date, DagRun.end_date)
            .where(DagRun.dag_id == dag_id)
            .order_by(DagRun.run_after.desc(), DagRun.id.desc())
            .offset(offset)
            .limit(RUNS + 1)
        ).all()
        runs = {row[0]: Run(row[1], str(row[2] or ""), *row[3:]) for row in rows[:RUNS]}
        facts = session.execute(
            select(XComModel.dag_run_id, XComModel.task_id, XComModel.map_index, XComModel.key, XComModel.value)
            .where(XComModel.dag_run_id.in_(runs), XComModel.key.in_(_READERS))
            .order_by(XComModel.dag_run_id.desc(), XComModel.task_id, XComModel.map_index)
            .limit(_FACTS)
        ).all()
        for row in facts:
            if (value := _mapping(row)) is not None:
                _READERS[row.key](runs[row.dag_run_id], Task(row.task_id, row.map_index), value)
        servings = _servings(session, dag_id)
    return History(list(reversed(runs.values())), len(rows) > RUNS, len(facts) == _FACTS, servings)


# Facts ---------------------------------------------------------------------------------------------------------


def _mapping(row: Any) -> Mapping[str, Any] | None:
    """Return the value of an XCom; None where it is no mapping, or nothing that can be read here."""
    with suppress(Exception):  # somebody may have stored an object of any class
        value = XComModel.deserialize_value(row)
        return value if isinstance(value, Mapping) else None
    return None


def _read_job(run: Run, task: Task, facts: Mapping[str, Any]) -> None:
    accelerators = number_in(facts.get("accelerators"))
    run.jobs.append(
        FinishedJob(
            task,
            _text(facts.get("job_name")),
            _text(facts.get("status")),
            number_in(facts.get("queue_seconds")),
            number_in(facts.get("run_seconds")),
            _text(facts.get("accelerator")),
            int(accelerators or 0),
        )
    )


def _read_metrics(run: Run, task: Task, facts: Mapping[str, Any]) -> None:
    run.metrics.append((task, numbers_in(facts)))


def _read_model(run: Run, task: Task, facts: Mapping[str, Any]) -> None:
    metrics = facts.get("metrics")
    run.saved.append(
        SavedVersion(
            task,
            _text(facts.get("model")),
            _text(facts.get("version")),
            _text(facts.get("model_path")),
            _text(facts.get("job_name")),
            numbers_in(metrics) if isinstance(metrics, Mapping) else {},
        )
    )


def _read_gate(run: Run, task: Task, facts: Mapping[str, Any]) -> None:
    conditions = facts.get("conditions")
    comparisons = [
        Comparison(
            _text(each.get("text")),
            _text(each.get("metric")),
            number_in(each.get("value")),
            number_in(each.get("bound")),
            each.get("holds") is True,
        )
        for each in (conditions if isinstance(conditions, list) else [])
        if isinstance(each, Mapping)
    ]
    run.gates.append(Gate(task, facts.get("open") is True, comparisons))


def _read_deployment(run: Run, task: Task, facts: Mapping[str, Any]) -> None:
    names = (_text(facts.get(name)) for name in ("outcome", "serving_name", "model_path"))
    run.deployments.append(DeploymentEnd(task, *names))


_READERS = {
    JOB_FACTS: _read_job,
    METRICS_FACTS: _read_metrics,
    MODEL_FACTS: _read_model,
    GATE_FACTS: _read_gate,
    DEPLOYMENT_FACTS: _read_deployment,
}


def _text(value: Any) -> str:
    return shorten(value) if isinstance(value, str) else ""


# Servings ------------------------------------------------------------------------------------------------------


def _servings(session: Session, dag_id: str) -> list[Serving]:
    """Return the servings that the DAG has deployed to lately."""
    recent = session.execute(
        select(XComModel.value)
        .where(XComModel.dag_id == dag_id, XComModel.key == DEPLOYMENT_FACTS)
        .order_by(XComModel.timestamp.desc())
        .limit(_RECENT)
    )
    names: dict[str, tuple[str, str]] = {}  # by the keys of the records
    for facts in map(_mapping, recent):
        if facts is not None and (record := _text(facts.get("record"))) and len(names) < _SERVINGS:
            names.setdefault(DEPLOYMENT_KEY + record, (_text(facts.get("serving_name")), _text(facts.get("version"))))
    stored = session.scalars(select(Variable).where(Variable.key.in_(names)))
    found = {variable.key: _deployment(variable.get_val()) for variable in stored}
    return [
        _serving(dag_id, *name, known)
        for key, name in names.items()
        if (known := found.get(key)) is not None and _has_deployed(dag_id, known)
    ]


def _has_deployed(dag_id: str, record: Deployment) -> bool:
    """Return whether the record itself says that the DAG has deployed. Who may set its XComs could name any serving."""
    is_changing = record.rollout is not None and record.rollout.owner.dag_id == dag_id
    return is_changing or any(run_in(version.deployed_by, dag_id) for version in record.versions)


def _deployment(value: str | None) -> Deployment | None:
    try:
        return deployment_from_json(json.loads(value or ""))
    except (ValueError, ConfigurationError):
        return None


def _serving(dag_id: str, name: str, version: str, record: Deployment) -> Serving:
    versions = [_served(dag_id, each) for each in record.versions]
    current = versions[0] if record.current else None
    return Serving(name, version, current, versions[1:] if current else versions, record.rollout is not None)


def _served(dag_id: str, version: Version) -> ServedVersion:
    return ServedVersion(
        shorten(version.model_path),
        numbers_in(version.metrics),
        version.deployed_at,
        run_in(version.deployed_by, dag_id),
        version.is_withdrawn,
    )
