"""What operators store in Airflow: between tries in the task instance's state store, between runs in Variables."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import Variable

from airflow_bitahub.exceptions import ConfigurationError, StateUnknownError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import DataclassInstance
    from airflow.sdk import Context

    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.procedures.deployments import Deployment, Intent


R = TypeVar("R", bound="DataclassInstance")

log = logging.getLogger(__name__)

JOB_RECORD_KEY = "bitahub_job"  # in the task state store; another name would orphan running jobs
DEPLOYMENT_KEY = "bitahub_serving."  # a Variable's key; the platform, the name and the version follow
INTENT_KEY = "bitahub_serving_intent."  # likewise
MARKER_KEY = "bitahub_marker."  # a Variable's key; the marker follows


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


def load_marker() -> str:
    """Return the marker of this Airflow's jobs, which its first task makes.

    It is kept in the key of a Variable, not in its value. Keys are read from Airflow's database only, so no secrets
    backend can replace them. A failed query of keys is an error, whereas a failed query of a value looks like a missing
    Variable, and a new marker would replace the old one. If two first tasks make a marker at the same time, both stay,
    and all later tasks use the same one of them.
    """
    from airflow_bitahub.identity import new_marker

    try:
        markers = _markers()
        if not markers:
            marker = new_marker()
            Variable.set(MARKER_KEY + marker, marker, description="In the names of the jobs that this Airflow submits")
            markers = _markers()
        return min(markers)
    except Exception as error:  # the job is on record too, so it must not fail for this
        log.warning(
            "The job's name gets a marker of its own, because this Airflow's marker could not be kept in a Variable "
            "(%s). If the DAG run is deleted while the job runs, `airflow-bitahub jobs` does not recognize the job.",
            error,
        )
        return new_marker()


def markers_in(keys: Iterable[str]) -> set[str]:
    """Return the markers in keys of Variables."""
    from airflow_bitahub.identity import is_marker

    return {marker for key in keys if key.startswith(MARKER_KEY) and is_marker(marker := key.removeprefix(MARKER_KEY))}


def _markers() -> set[str]:
    return markers_in(Variable.keys(prefix=MARKER_KEY))


class VariableRecords:
    """The record of one serving, in two of Airflow's Variables: it outlasts tasks, runs and DAGs.

    Their keys contain the platform and not the connection: every connection to the same platform finds them.
    """

    def __init__(self, hook: BitaHubHook, name: str, version: str) -> None:
        self._key = f"{hook.platform_id}.{name}.{version}"

    def load(self) -> Deployment | None:
        """Return the record; None: this Airflow deployed no such serving."""
        from airflow_bitahub.procedures.deployments import deployment_from_json

        stored = self._get(DEPLOYMENT_KEY)
        return None if stored is None else deployment_from_json(stored)

    def save(self, record: Deployment) -> None:
        """Store the record."""
        self._set(DEPLOYMENT_KEY, record, "The versions of a serving that BitaHubDeployServingOperator deployed")

    def load_intent(self) -> Intent | None:
        """Return the creation that was last begun; None: there was none."""
        from airflow_bitahub.procedures.deployments import intent_from_json

        stored = self._get(INTENT_KEY)
        return None if stored is None else intent_from_json(stored)

    def save_intent(self, intent: Intent) -> None:
        """Store that a creation begins."""
        self._set(INTENT_KEY, intent, "How BitaHubDeployServingOperator recognizes a serving that it is creating")

    def _get(self, prefix: str) -> Any:
        """Return the JSON value of a Variable; None: there is none.

        To Airflow, a failed query of a value looks like a missing Variable, but a failed query of keys is an error.
        """
        key = prefix + self._key
        stored = Variable.get(key, default=None, deserialize_json=True)
        if stored is None and key in Variable.keys(prefix=key):
            raise StateUnknownError(f"Airflow has the Variable {key!r}, but did not return its value. Try again.")
        return stored

    def _set(self, prefix: str, record: Deployment | Intent, description: str) -> None:
        from airflow_bitahub.procedures.deployments import to_json

        Variable.set(prefix + self._key, to_json(record), description=description, serialize_json=True)


def _save(context: Context, key: str, value: dict[str, Any]) -> None:
    from airflow.sdk.execution_time.context import NEVER_EXPIRE

    # It is removed with the DAG run and no sooner: a job, or its time in the queue, may outlast the store's retention.
    context["task_state_store"].set(key, value, retention=NEVER_EXPIRE)
