"""What a failed job, or an error, means to Airflow. `procedures.retry` decides which errors are final."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.exceptions import (
    BitaHubError,
    JobError,
    JobEvictedError,
    JobFailedError,
    JobStoppedError,
    JobUnderpoweredError,
)
from airflow_bitahub.procedures import retry

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job

# After an eviction, the platform rarely has room for the job again immediately.
EVICTION_DELAY = timedelta(minutes=5)
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=JobEvictedError,
            action=RetryAction.RETRY,
            retry_delay=EVICTION_DELAY,
            reason="The platform took the job's place away.",
        )
    ]
)


def airflow_error(error: BitaHubError) -> Exception:
    """Return the error to raise in a task: for a final error, one that fails the task without using up its retries.

    Raise it ``from None``. The text says all that a user needs, and Airflow logs one traceback for each error in a
    chain of causes.
    """
    return AirflowFailException(str(error)).with_traceback(error.__traceback__) if retry.is_final(error) else error


def job_error(job: Job, last_line: str, *, may_resubmit: bool) -> JobError:
    """Return the error for a job that finished without success.

    :param last_line: of what it printed; the task's log has more of them. "": not known
    :param may_resubmit: whether a stopped job counts as failed, so that a retry submits again: we stopped it, or
        `resubmit_stopped` is set
    """
    if job.is_underpowered:
        return JobUnderpoweredError(
            f"The {job}. The account has too little computing power left: top it up, request less, or wait for other "
            f"jobs to finish, then clear the task.",
            job.name,
        )
    said = f" Its last line: {last_line}" if last_line else ""
    if job.is_evicted:
        return JobEvictedError(
            f"The {job}. The platform evicted it; the job's program is not the cause.{said}", job.name
        )
    if job.status.value == "FAILED" or may_resubmit:
        return JobFailedError(f"The {job}.{said}", job.name)
    return JobStoppedError(
        f"The {job}. Someone stopped it on the platform, so it is not submitted again. Clear the task to run it "
        f"again, or set resubmit_stopped=True.",
        job.name,
    )
