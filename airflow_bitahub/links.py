"""Buttons in the Airflow UI that lead to the platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class _StoredLink(BaseOperatorLink):
    """A link whose address the operator pushed to XCom as soon as it knew it.

    Airflow calls `get_link` again after every leg of a deferred task, in a new process, and stores the result under
    `xcom_key`. So `get_link` must return what was pushed; the new operator object does not know the address.
    """

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Return the stored address; "" before there is one."""
        from airflow.sdk.execution_time.xcom import XCom

        return XCom.get_value(key=self.xcom_key, ti_key=ti_key) or ""


class BitaHubJobLink(_StoredLink):
    """A link to the task's job."""

    name = "BitaHub job"

    @property
    def xcom_key(self) -> str:
        """The XCom key under which the operator pushes the address."""
        return "bitahub_job_url"


class BitaHubServingLink(_StoredLink):
    """A link to the task's serving."""

    name = "BitaHub serving"

    @property
    def xcom_key(self) -> str:
        """The XCom key under which the operator pushes the address."""
        return "bitahub_serving_url"


class BitaHubModelLink(_StoredLink):
    """A link to the task's model; "" where the connection does not say which page of the console shows models."""

    name = "BitaHub model"

    @property
    def xcom_key(self) -> str:
        """The XCom key under which the operator pushes the address."""
        return "bitahub_model_url"
