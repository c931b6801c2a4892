"""Buttons in the Airflow UI that lead to the platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class _StoredLink(BaseOperatorLink):
    """A link the operator pushed itself, as soon as it knew it.

    Airflow evaluates `get_link` again after every leg of a deferred task, in a fresh process, and stores the answer
    under `xcom_key`: so it must give back what was pushed, not what the operator object happens to remember.
    """

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Give the stored address, or "" before there is one."""
        from airflow.sdk.execution_time.xcom import XCom

        return XCom.get_value(key=self.xcom_key, ti_key=ti_key) or ""


class BitaHubJobLink(_StoredLink):
    """Leads to the task's job."""

    name = "BitaHub job"

    @property
    def xcom_key(self) -> str:
        """Under which the operator pushes the address."""
        return "bitahub_job_url"


class BitaHubServingLink(_StoredLink):
    """Leads to the task's serving."""

    name = "BitaHub serving"

    @property
    def xcom_key(self) -> str:
        """Under which the operator pushes the address."""
        return "bitahub_serving_url"
