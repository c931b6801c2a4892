"""Which job belongs to which task instance: generation, token, attempt and names.

The platform keys a job by a name that the client chooses, so the name is the idempotency key. It is fixed and written
down before anything is sent:

    {project}-{yyyymmdd of the run}-{token}-{attempt}

*Generation*: clearing a task means "run it again", retrying means "get me the result of this run"; only the first
starts a new generation. *Token*: random, one per generation, beginning with a marker of the deployment. *Attempt*:
moves on only past a job that failed, or that we ourselves stopped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.storage import path_part

RECORD_KEY = "bitahub_job"  # in Airflow's task state store; renaming it would orphan running jobs
MAX_NAME = 40
MAX_GIVEN_NAME = 58  # a counter may follow, and Kubernetes takes 63
_MARKER, _RANDOM = 3, 7
_CLOCK_SKEW, _LONGEST_CREATION = 60, 600  # seconds, between the platform's clock and ours
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # base32: letters and digits that Kubernetes accepts in names


def slug(text: str) -> str:
    """Give `text` as part of a DNS-1123 name; "job" when nothing of it can be used."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "job"


def deployment_marker(deployment: str) -> str:
    """Give the few letters that tell this deployment's jobs from a neighbour's in the shared namespace."""
    digest = hashlib.sha256(deployment.encode()).digest()
    return base64.b32encode(digest).decode().lower()[:_MARKER]


def new_token(marker: str) -> str:
    """Give a random token that begins with the marker."""
    return marker + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))


def is_marked(job_name: str, marker: str) -> bool:
    """Tell whether a name was made by a deployment with that marker."""
    pattern = rf".+-\d{{8}}-{re.escape(marker)}[{_ALPHABET}]{{{_RANDOM}}}-\d+"
    return re.fullmatch(pattern, job_name) is not None


@dataclass(frozen=True)
class JobRecord:
    """What a task instance remembers of its job, from one try to the next.

    :param job_name: full name on the platform
    :param output_path: server path of the output folder, unique to this attempt
    :param token: random part, one per generation
    :param attempt: counts within the generation, from 1
    :param submission: counts over all generations, from 1; the counter behind a name given by the DAG's author
    :param max_tries: Airflow's, when the generation began
    :param clear_number: the DAG run's, when last seen
    :param confirmed: whether the platform has shown that it has the job
    :param stopped: whether we stopped it ourselves
    :param refused: whether the platform refused the submission, so that there is no such job of ours
    :param closed: whether its generation is over, and the next has begun to end its job
    :param detached: whether the job is to outlive its task
    """

    job_name: str
    output_path: str
    token: str
    attempt: int
    submission: int
    max_tries: int
    clear_number: int
    confirmed: bool = False
    stopped: bool = False
    refused: bool = False
    closed: bool = False
    detached: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give the record as Airflow's task state store keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> JobRecord | None:
        """Read a stored record; None when there is none. Raises ConfigurationError when it is something else."""
        return _from_json(cls, value)

    @property
    def version(self) -> str:
        """The part of the output path that is this attempt's own."""
        return self.output_path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class TaskIdentity:
    """What a task instance knows of itself when it starts or starts again.

    :param project: the BitaHub project, for the name
    :param run_date: day of the run, ``yyyymmdd``
    :param marker: see `deployment_marker`
    :param output_root: server path under which each attempt gets its own folder
    :param max_tries: and the next three: what Airflow says of this task instance
    :param job_name: a name wished for by the DAG's author; used as it is, then with a counter appended
    :param output_version: likewise for the output folder
    """

    project: str
    run_date: str
    marker: str
    output_root: str
    max_tries: int
    try_number: int
    retries: int
    clear_number: int
    job_name: str | None = None
    output_version: str | None = None

    def is_new_generation(self, record: JobRecord) -> bool:
        """Tell whether somebody asked for the task to be run again since the record was made.

        A clear raises `max_tries`, except where `retries` was edited downwards in between. Then it still shows in the
        run's `clear_number`; but that also moves when only a neighbour was cleared, so it counts on the first try of
        a generation only.
        """
        if record.closed or self.max_tries != record.max_tries:
            return True
        first_try = self.try_number == self.max_tries - self.retries + 1
        return first_try and self.clear_number != record.clear_number

    def first_attempt(self, previous: JobRecord | None) -> JobRecord:
        """Give the record that opens a new generation."""
        return self._record(new_token(self.marker), 1, _next_submission(previous) if previous else 1)

    def next_attempt(self, record: JobRecord) -> JobRecord:
        """Give the record of the next attempt in the same generation."""
        return self._record(record.token, record.attempt + 1, _next_submission(record))

    def refresh(self, record: JobRecord) -> JobRecord:
        """Note the clear number that this generation has now seen."""
        return replace(record, clear_number=self.clear_number)

    def _record(self, token: str, attempt: int, submission: int) -> JobRecord:
        unique = f"{self.run_date}-{token}-{attempt}"
        room = MAX_NAME - len(unique) - 1
        project = slug(self.project)[:room].rstrip("-")
        version = (
            _counted(path_part("output_version", self.output_version), submission) if self.output_version else unique
        )
        if self.job_name and len(self.job_name) > MAX_GIVEN_NAME:
            raise ConfigurationError(
                f"job_name {self.job_name!r} is longer than {MAX_GIVEN_NAME} characters, so that there is no room for "
                f"the counter of a later attempt."
            )
        return JobRecord(
            job_name=_counted(self.job_name, submission) if self.job_name else f"{project}-{unique}",
            output_path=f"{self.output_root}/{version}",
            token=token,
            attempt=attempt,
            submission=submission,
            max_tries=self.max_tries,
            clear_number=self.clear_number,
        )


@dataclass(frozen=True)
class ServingRecord:
    """What this deployment remembers of a serving it created, from one DAG run to the next.

    The platform tells neither model nor image of a serving, so this is how our own is known again.

    :param digest: of the specification that was created last, or is being created; "": none, so that nothing is ours
    :param created_at: the platform's time of creation of the one that is surely ours
    :param since: since when the creation of another one has been on its way, by our clock; None: none is
    :param ready: whether it was seen to answer; until then the tasks that wait for it are to stop it if they fail
    """

    digest: str
    created_at: float | None = None
    since: float | None = None
    ready: bool = False

    @classmethod
    def from_json(cls, value: Any) -> ServingRecord | None:
        """Read a stored record; None when there is none. Raises ConfigurationError when it is something else."""
        return _from_json(cls, value)

    def to_json(self) -> dict[str, Any]:
        """Give the record as it is stored."""
        return asdict(self)

    def owns(self, created_at: float | None) -> bool:
        """Tell whether the serving created at that time is ours."""
        return bool(self.digest) and (created_at == self.created_at or self._is_on_its_way(created_at))

    def describes(self, created_at: float | None) -> bool:
        """Tell whether the serving created at that time is ours and has this record's specification."""
        if self.since is None:
            return bool(self.digest) and created_at == self.created_at
        return self._is_on_its_way(created_at)

    def replaces(self, created_at: float | None) -> bool:
        """Tell whether another serving is being created in place of the one created at that time."""
        return self.since is not None and self.created_at == created_at

    def _is_on_its_way(self, created_at: float | None) -> bool:
        if self.since is None:
            return False
        if created_at is None:
            return True  # a platform that tells no times
        # A stranger's, of any other time, must not become ours just because our own creation was cut off.
        return created_at != self.created_at and -_CLOCK_SKEW <= created_at - self.since <= _LONGEST_CREATION


def digest(body: Mapping[str, Any]) -> str:
    """Give a short text that differs for different specifications."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


R = TypeVar("R", "JobRecord", "ServingRecord")


def _from_json(record: type[R], value: Any) -> R | None:
    if value is None:
        return None
    try:
        return record(**{field.name: value[field.name] for field in fields(record) if field.name in value})
    except TypeError as error:
        raise ConfigurationError(f"What Airflow has kept is no {record.__name__}: {value!r} ({error}).") from error


def _next_submission(record: JobRecord) -> int:
    return record.submission if record.refused else record.submission + 1


def _counted(name: str, submission: int) -> str:
    return name if submission == 1 else f"{name}-{submission}"
