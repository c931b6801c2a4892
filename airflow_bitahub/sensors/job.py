"""`BitaHubJobSensor`: waiting for a job that another system or another DAG submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.exceptions import JobTimeoutError
from airflow_bitahub.operators.arguments import Check, as_text
from airflow_bitahub.sensors.base import BitaHubSensor

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.triggers.job import BitaHubJobTrigger


class BitaHubJobSensor(BitaHubSensor):
    """Succeeds when a job has succeeded, and fails when it has failed or was stopped. It never stops the job.

    The job need not exist yet. The XCom result has ``job_name``, ``status``, ``queue_seconds``,
    ``run_seconds`` and ``exit_code``.

    :param job_name: the job
    :param poke_interval: seconds between two queries; when deferred, the longest pause: young
        jobs are queried more often
    :param timeout: seconds after which the sensor fails
    :param deferrable: wait in the triggerer; default: ``[operators] default_deferrable``
    :param bitahub_conn_id: the Airflow connection
    """

    template_fields: Sequence[str] = ("job_name", "bitahub_conn_id")
    argument_checks: ClassVar[Mapping[str, Check]] = {**BitaHubSensor.argument_checks, "job_name": as_text}
    ui_color = "#d6ecff"

    def __init__(self, *, job_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.check_arguments()

    def query(self) -> dict[str, Any] | None:
        """Query the job once."""
        from airflow_bitahub.procedures.jobs import wait_for_job

        try:
            job = self.hook.run(wait_for_job(self.job_name, poll_interval=0, deadline=0, grace=None))
        except JobTimeoutError as error:
            self.log.info("%s", error)
            return None
        return _result(job)

    def trigger(self, deadline: float, earliest_report: float | None = None) -> BitaHubJobTrigger:
        """Return the trigger that waits for the job."""
        from airflow_bitahub.triggers.job import BitaHubJobTrigger

        return BitaHubJobTrigger(
            bitahub_conn_id=self.bitahub_conn_id,
            job_name=self.job_name,
            poll_interval=self.poke_interval,
            deadline=deadline,
            grace=None,
            cancel_on_kill=False,
            earliest_report=earliest_report,
        )

    def read(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of the finished job."""
        from airflow_bitahub.api.job_reading import Job

        return _result(Job.model_validate(event["job"]))


def _result(job: Job) -> dict[str, Any]:
    if not job.status.is_successful:
        raise AirflowFailException(f"The {job}.")
    return {
        "job_name": job.name,
        "status": job.status.value,
        "queue_seconds": job.queue_seconds,
        "run_seconds": job.run_seconds,
        "exit_code": job.exit_code,
    }
