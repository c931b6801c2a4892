"""What the end of a job, and an error, mean to Airflow. Which errors are final is told by `exceptions`."""

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

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job

# Where a job was evicted, there is rarely room for it a moment later.
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
    """Give what to raise towards Airflow: the error itself, or one that fails the task without using up retries."""
    return AirflowFailException(str(error)) if error.is_final else error


def job_error(job: Job, log: str, *, by_us: bool) -> JobError:
    """Give the error for a job that is over and did not succeed.

    :param log: its last lines, as the end of a sentence; "" where there are none
    :param by_us: it was stopped by us, or by somebody whose wish does not count
    """
    if job.is_underpowered:
        return JobUnderpoweredError(
            f"The {job}. The account has not enough computing power left: top it up, ask for less, or wait for other "
            f"jobs to end, then clear the task.",
            job.name,
        )
    if job.is_evicted:
        return JobEvictedError(
            f"The {job}. The platform took its place away; its program is not to blame.{log}", job.name
        )
    if job.status.value == "FAILED" or by_us:
        return JobFailedError(f"The {job}.{log}", job.name)
    return JobStoppedError(
        f"The {job}. Somebody stopped it on the platform, so it is not submitted again. Clear the task to run it "
        f"again, or set resubmit_stopped=True.",
        job.name,
    )
