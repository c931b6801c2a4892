"""What an error means to Airflow."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.exceptions import BitaHubError


def airflow_error(error: BitaHubError) -> Exception:
    """Give what to raise towards Airflow: the error itself, or one that fails the task without using up retries."""
    return AirflowFailException(str(error)) if error.is_final else error
