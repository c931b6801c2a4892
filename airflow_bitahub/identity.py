"""Which job belongs to which task instance: generation, token, attempt and names.

The platform identifies a job by a name that the client chooses, so the name is the idempotency key. It is chosen and
recorded before anything is sent:

    {project}-{yyyymmdd of the run}-{token}-{attempt}

*Generation*: clearing a task means "run it again", retrying means "get me the result of this run"; only the first
starts a new generation. *Token*: random, one per generation; it begins with a marker, which is random too, and the same
for all jobs of one Airflow. *Attempt*: counts up only after a job that failed, or that we ourselves stopped.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.storage.paths import path_part

MAX_NAME = 40
MAX_GIVEN_NAME = 58  # a counter may follow, and Kubernetes takes 63
_MARKER_LENGTH, _RANDOM_LENGTH = 5, 7  # so two Airflows have the same marker in one of 33 million cases
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # base32: letters and digits that Kubernetes accepts in names
_UNIQUE = rf"\d{{8}}-([a-z2-7]{{{_MARKER_LENGTH}}})[a-z2-7]{{{_RANDOM_LENGTH}}}-\d+"
_OUR_NAME = re.compile(rf".+-{_UNIQUE}", re.ASCII)


def slug(text: str) -> str:
    """Return `text` as a part of a DNS-1123 name; "job" where it has no usable letter or digit."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "job"


def new_marker() -> str:
    """Return a few random letters or digits that tell one Airflow's jobs from another's in the shared namespace."""
    return _random_characters(_MARKER_LENGTH)


def is_marker(text: str) -> bool:
    """Return whether a text has the form of a marker."""
    return len(text) == _MARKER_LENGTH and set(text) <= set(_ALPHABET)


def new_token(marker: str) -> str:
    """Return a random token that begins with the marker."""
    return marker + _random_characters(_RANDOM_LENGTH)


def marker_in(job_name: str) -> str:
    """Return the marker in a name that this package chose; "" for any other name."""
    match = _OUR_NAME.fullmatch(job_name)
    return match[1] if match else ""


def is_unique_part(text: str) -> bool:
    """Return whether a text has the form of the part of names and folders that contains a token."""
    return re.fullmatch(_UNIQUE, text, re.ASCII) is not None


def is_counted(text: str, name: object) -> bool:
    """Return whether a text is a name that the DAG's author gave, or that name with a counter."""
    return isinstance(name, str) and re.fullmatch(rf"{re.escape(name)}(-\d+)?", text, re.ASCII) is not None


@dataclass(frozen=True)
class JobRecord:
    """What a task instance remembers of its job from one try to the next.

    :param job_name: the full name on the platform
    :param output_path: server path of the output folder, unique to this attempt
    :param token: the random part, one per generation
    :param attempt: counts within the generation, from 1
    :param submission: the number of the submission, counted over all generations from 1; appended to a name that the
        DAG's author gave
    :param max_tries: the task instance's ``max_tries`` when the generation began
    :param clear_number: the DAG run's ``clear_number`` when last seen
    :param confirmed: the platform has shown the job
    :param stopped: we stopped the job ourselves
    :param refused: the platform refused the submission, so this job does not exist or is not ours
    :param closed: the generation has ended, and the next one has begun to stop its job
    :param detached: the job may outlive its task
    :param code_digest: the digest of the code that the operator's `code` was when the generation began; "": it has none
    :param bundle_version: the version of the DAG's bundle that submitted the job; "": it has none
    :param accelerator: the device type of its accelerators; "": it has none, or several types
    :param accelerators: how many it has, in all replicas
    :param counted: its end is in Airflow's metrics, see `metrics`
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
    code_digest: str = ""
    bundle_version: str = ""
    accelerator: str = ""
    accelerators: int = 0
    counted: bool = False

    @property
    def version(self) -> str:
        """The last part of the output path, which is unique to this attempt."""
        return self.output_path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class TaskIdentity:
    """What a task instance knows about itself when a try starts.

    :param project: the BitaHub project, for the name
    :param run_date: the day of the run, ``yyyymmdd``
    :param marker: returns the marker of this Airflow's jobs, see `new_marker`; called only for a new token
    :param output_root: server path under which each attempt gets its own folder
    :param max_tries: what Airflow knows about the task instance, as are `try_number`, `retries` and `clear_number`
    :param job_name: a name given by the DAG's author: used unchanged first, with a counter appended later
    :param output_version: a name for the output folder, likewise
    :param bundle_version: the version of the DAG's bundle; "": it has none
    :param url: its page in Airflow; "": not known
    """

    project: str
    run_date: str
    marker: Callable[[], str]
    output_root: str
    max_tries: int
    try_number: int
    retries: int
    clear_number: int
    job_name: str | None = None
    output_version: str | None = None
    bundle_version: str = ""
    url: str = ""

    def is_new_generation(self, record: JobRecord) -> bool:
        """Return whether the task was cleared since the record was made.

        A clear raises `max_tries`, except where the DAG's `retries` became smaller meanwhile. It also raises the run's
        `clear_number`; but so does the clear of any other task of the run, so that counts only on the first try of a
        generation.
        """
        if record.closed or self.max_tries != record.max_tries:
            return True
        first_try = self.try_number == self.max_tries - self.retries + 1
        return first_try and self.clear_number != record.clear_number

    def first_attempt(self, previous: JobRecord | None) -> JobRecord:
        """Return the record that opens a new generation."""
        return self._record(new_token(self.marker()), 1, _next_submission(previous) if previous else 1)

    def next_attempt(self, record: JobRecord) -> JobRecord:
        """Return the record of the next attempt in the same generation, which runs the same code."""
        following = self._record(record.token, record.attempt + 1, _next_submission(record))
        return replace(following, code_digest=record.code_digest)

    def refresh(self, record: JobRecord) -> JobRecord:
        """Return the record with the current clear number."""
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
                f"job_name {self.job_name!r} is longer than {MAX_GIVEN_NAME} characters, which leaves no room for "
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
            bundle_version=self.bundle_version,
        )


def _random_characters(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


def _next_submission(record: JobRecord) -> int:
    return record.submission if record.refused else record.submission + 1


def _counted(name: str, submission: int) -> str:
    return name if submission == 1 else f"{name}-{submission}"
