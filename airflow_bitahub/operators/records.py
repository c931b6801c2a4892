"""What operators store in Airflow: between tries in the task instance's state store, between runs in Variables."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow.sdk import Variable

from airflow_bitahub.exceptions import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from airflow.sdk import Context

    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.procedures.rollout import ServingRecord


R = TypeVar("R", bound="DataclassInstance")

JOB_RECORD_KEY = "bitahub_job"  # in the task state store; another name would orphan running jobs
_AWAITED_KEY = "bitahub_serving"  # likewise


class AwaitedServing(NamedTuple):
    """The serving that a task instance waits for.

    :param own: its record if the task must stop the serving should it fail; None: the serving is not the task's
    :param created_at: the platform's time of creation, in seconds since the epoch; None: not known
    """

    own: ServingRecord | None = None
    created_at: float | None = None


def read_record(kind: type[R], value: Any) -> R | None:
    """Return a record from its JSON value; None for None.

    :raises ConfigurationError: the value is something else
    """
    if value is None:
        return None
    try:
        return kind(**{field.name: value[field.name] for field in fields(kind) if field.name in value})
    except TypeError as error:
        raise ConfigurationError(
            f"Airflow's store contains {value!r} instead of a {kind.__name__} ({error})."
        ) from error


def load_job_record(context: Context) -> JobRecord | None:
    """Return the job record of a task instance; None before its first submission."""
    from airflow_bitahub.identity import JobRecord

    return read_record(JobRecord, context["task_state_store"].get(JOB_RECORD_KEY))


def save_job_record(context: Context, record: JobRecord) -> None:
    """Store the job record of a task instance."""
    _save(context, JOB_RECORD_KEY, asdict(record))


def load_awaited_serving(context: Context) -> AwaitedServing:
    """Return the serving that a task instance waits for, as stored by an earlier leg or try."""
    from airflow_bitahub.procedures.rollout import ServingRecord

    stored: Any = context["task_state_store"].get(_AWAITED_KEY) or {}
    return AwaitedServing(read_record(ServingRecord, stored.get("own")), stored.get("created_at"))


def save_awaited_serving(context: Context, awaited: AwaitedServing) -> None:
    """Store the serving that a task instance waits for."""
    own = None if awaited.own is None else asdict(awaited.own)
    _save(context, _AWAITED_KEY, {"own": own, "created_at": awaited.created_at})


def load_serving_record(bitahub_conn_id: str, name: str, version: str) -> ServingRecord | None:
    """Return the record of a serving that this Airflow created; None where it created none."""
    from airflow_bitahub.procedures.rollout import ServingRecord

    variable = _serving_variable(bitahub_conn_id, name, version)
    return read_record(ServingRecord, Variable.get(variable, default=None, deserialize_json=True))


def save_serving_record(bitahub_conn_id: str, name: str, version: str, record: ServingRecord) -> None:
    """Store the record of a serving that this Airflow created."""
    Variable.set(
        _serving_variable(bitahub_conn_id, name, version),
        asdict(record),
        description="How BitaHubDeployServingOperator recognizes the serving that it created",
        serialize_json=True,
    )


def _serving_variable(bitahub_conn_id: str, name: str, version: str) -> str:
    return f"bitahub_serving.{bitahub_conn_id}.{name}.{version}"


def _save(context: Context, key: str, value: dict[str, Any]) -> None:
    from airflow.sdk.execution_time.context import NEVER_EXPIRE

    # It is removed with the DAG run and no sooner: a job, or its time in the queue, may outlast the store's retention.
    context["task_state_store"].set(key, value, retention=NEVER_EXPIRE)
