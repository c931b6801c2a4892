"""Which errors are worth another try."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    JobLostError,
    JobRefusedError,
    JobStoppedError,
    NotFoundError,
    PermissionDeniedError,
    ServingRefusedError,
)

# Trying these again gives the same answer, or does what somebody did not want.
FINAL = (
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    JobLostError,
    JobRefusedError,
    JobStoppedError,
    NotFoundError,
    PermissionDeniedError,
    ServingRefusedError,
)


def airflow_error(error: BitaHubError) -> Exception:
    """Give what to raise towards Airflow: the error itself, or one that fails the task without using up retries."""
    return AirflowFailException(str(error)) if isinstance(error, FINAL) else error
