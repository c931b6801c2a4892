"""What operators store in Airflow.

Between tries it is in the task instance's state store, between runs in Variables. What only pages read is in XComs.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import Variable

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.links import BitaHubModelLink

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from _typeshed import DataclassInstance
    from airflow.sdk import Context

    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.procedures.deployments import Rollout


R = TypeVar("R", bound="DataclassInstance")

log = logging.getLogger(__name__)

# Keys in the task state store.
JOB_RECORD_KEY = "bitahub_job"  # another name would orphan running jobs
SUBMISSIONS_KEY = "bitahub_submissions"
ROLLOUT_KEY = "bitahub_rollout"  # for the task's page
_CODE_KEY = "bitahub_code"
_AWAITED_SERVING_KEY = "bitahub_awaited_serving"
_MAX_SUBMISSIONS = 20  # that are kept for each task instance

MARKER_KEY = "bitahub_marker."  # a Variable's key; the marker follows

# Keys of XComs for pages. Each is a small mapping without secrets, which a task has whatever its own result is.
JOB_FACTS = "bitahub_job_facts"  # how a job has ended, also one that has failed
METRICS_FACTS = "bitahub_metrics_facts"  # numbers by their names
MODEL_FACTS = "bitahub_model_facts"  # a saved version
GATE_FACTS = "bitahub_gate_facts"  # the outcome, and what was compared
DEPLOYMENT_FACTS = "bitahub_deployment_facts"  # the outcome for a serving
_MOST_METRICS = 50
_LONGEST_NAME = 200  # characters of a metric's name


def read_record(kind: type[R], value: Any) -> R | None:
    """Return a record from its JSON value; None for None.

    :raises ConfigurationError: the value is something else
    """
    if value is None:
        return None
    try:
        return kind(**{each.name: value[each.name] for each in fields(kind) if each.name in value})
    except TypeError as error:
        raise ConfigurationError(
            f"Airflow's store contains {value!r} instead of a {kind.__name__} ({error})."
        ) from error


def load_job_record(context: Context) -> JobRecord | None:
    """Return the job record of a task instance; None before its first submission."""
    from airflow_bitahub.identity import JobRecord

    return read_record(JobRecord, _load(context, JOB_RECORD_KEY))


def save_job_record(context: Context, record: JobRecord) -> None:
    """Store the job record of a task instance."""
    _save(context, JOB_RECORD_KEY, asdict(record))


@dataclass(frozen=True)
class Submission:
    """What a task instance submitted, for people who look at it.

    :param try_number: the task's try that submitted it
    :param time: seconds since the epoch
    :param body: what was sent, without its secrets; None where a later submission is kept
    :param masks: digests of the secrets that the job may print, and the name of their key, see `secret_digests` and
        `mask_keys`; empty: there are none
    """

    job_name: str
    output_path: str
    attempt: int
    try_number: int
    time: float
    body: dict[str, Any] | None = None
    masks: dict[str, Any] = field(default_factory=dict)


def save_submission(context: Context, submission: Submission) -> None:
    """Store what a task instance submits, after its earlier submissions. Airflow's masker removes the secrets.

    Nothing but pages for people reads it, so a failure is only logged.
    """
    from airflow.sdk._shared.secrets_masker import redact

    from airflow_bitahub.texts import shorten_all

    try:
        body = shorten_all(redact(submission.body, max_depth=20))
        earlier = [{**asdict(each), "body": None} for each in read_submissions(_load(context, SUBMISSIONS_KEY))]
        kept = [*earlier, asdict(replace(submission, body=body))][-_MAX_SUBMISSIONS:]
        _save(context, SUBMISSIONS_KEY, {"submissions": kept})
    except Exception as error:
        log.warning("What was submitted could not be stored for the page of the job: %s", error)


def read_submissions(value: Any) -> list[Submission]:
    """Return the stored submissions of a task instance, the last one last.

    :raises ConfigurationError: the value is something else
    """
    found = value.get("submissions") if isinstance(value, dict) else None
    records = (read_record(Submission, each) for each in (found if isinstance(found, list) else ()))
    return [each for each in records if each is not None]


def load_code(context: Context, digest: str) -> str:
    """Return the packed code that a task instance has stored; "" where it has none of this digest."""
    stored = _load(context, _CODE_KEY)
    if not isinstance(stored, dict) or stored.get("digest") != digest:
        return ""
    return str(stored.get("archive", ""))


def save_code(context: Context, digest: str, archive: str) -> None:
    """Store the packed code of a task instance's job, so that a later attempt runs the same."""
    _save(context, _CODE_KEY, {"digest": digest, "archive": archive})


@dataclass(frozen=True)
class AwaitedServing:
    """The serving that a task waits for.

    :param created_at: its time of creation, which distinguishes it from others of the same name; None: not known
    :param max_tries: Airflow's `ti.max_tries`, which differs after the task was cleared
    :param is_started: this task has started it, and must stop it if it fails
    """

    created_at: float | None
    max_tries: int
    is_started: bool = False


def load_awaited_serving(context: Context) -> AwaitedServing | None:
    """Return the serving that a task instance waits for; None where it has not begun to, or was cleared since."""
    awaited = read_record(AwaitedServing, _load(context, _AWAITED_SERVING_KEY))
    return awaited if awaited is not None and awaited.max_tries == context["ti"].max_tries else None


def save_awaited_serving(context: Context, awaited: AwaitedServing) -> None:
    """Store which serving a task instance waits for."""
    _save(context, _AWAITED_SERVING_KEY, asdict(awaited))


@dataclass(frozen=True)
class TaskRollout:
    """What a task instance did to give a serving another version.

    :param steps: each step's name, as in `procedures.deployments.Step`, and when it began; as a list, since Airflow's
        store takes no tuple. All times are seconds since the epoch
    :param ended_at: when the last one ended; None: it goes on, or another task or command has ended it
    :param digest: the new version's
    :param model_path: the server path of the new version's model
    """

    steps: list[list[Any]]
    ended_at: float | None
    digest: str
    model_path: str

    @property
    def has_succeeded(self) -> bool:
        """Whether the new version was seen to work under the public name."""
        return bool(self.steps) and self.steps[-1][0] == "tidy"

    @classmethod
    def of(cls, rollout: Rollout, ended_at: float | None = None) -> TaskRollout:
        """Return what there is to see of a replacement."""
        steps = [[step.name, step.at] for step in rollout.steps]
        return cls(steps, ended_at, rollout.version.digest, rollout.version.model_path)


def save_rollout(context: Context, rollout: TaskRollout) -> None:
    """Store what a task instance did to give a serving another version."""
    _save(context, ROLLOUT_KEY, asdict(rollout))


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


def push_facts(context: Context, key: str, facts: dict[str, Any]) -> None:
    """Push an XCom for pages, under one of the keys above. Nothing else depends on it, so a failure is only logged."""
    try:
        context["ti"].xcom_push(key=key, value=facts)
    except Exception as error:
        log.warning("The page of the DAG's models will not show this task: XCom %s was not stored (%s).", key, error)


def push_model_link(context: Context, hook: BitaHubHook, model_path: str) -> None:
    """Push the address of a model's page, if there is one. Nothing but a button needs it, so a failure is only logged.

    :param model_path: the server path of a version
    """
    match model_path.split("/"):
        case ["", "models", _, model, *_]:
            try:
                if url := hook.model_url(model):
                    context["ti"].xcom_push(key=BitaHubModelLink().xcom_key, value=url)
            except Exception as error:
                log.warning("The link to the model could not be stored: %s", error)


def number_in(value: Any) -> float | int | None:
    """Return a number that every database stores in JSON; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if abs(value) < 2**53 else None
    return value if math.isfinite(value) else None


def numbers_in(metrics: Mapping[str, Any]) -> dict[str, float | int]:
    """Return the first numbers among metrics by their names, such as ``test.accuracy`` for one within ``test``."""
    found: dict[str, float | int] = {}
    left: list[tuple[str, Any]] = list(metrics.items())[::-1]
    while left and len(found) < _MOST_METRICS:
        name, value = left.pop()
        if hasattr(value, "items"):
            left += [(f"{name}.{inner}", each) for inner, each in list(value.items())[::-1]]
        elif (number := number_in(value)) is not None and len(name) <= _LONGEST_NAME:
            found[name] = number
    return found


def _markers() -> set[str]:
    return markers_in(Variable.keys(prefix=MARKER_KEY))


def _load(context: Context, key: str) -> Any:
    return context["task_state_store"].get(key)


def _save(context: Context, key: str, value: dict[str, Any]) -> None:
    from airflow.sdk.execution_time.context import NEVER_EXPIRE

    # It is removed with the DAG run and no sooner: a job, or its time in the queue, may outlast the store's retention.
    context["task_state_store"].set(key, value, retention=NEVER_EXPIRE)
