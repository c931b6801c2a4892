"""Evaluation of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_bitahub.exceptions import StorageError
from airflow_bitahub.operators.job import BitaHubJobOperator, mount

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.identity import JobRecord


class BitaHubEvaluateOperator(BitaHubJobOperator):
    """Runs an evaluation job: predictions at ``/prediction``, labels as a dataset (seed), and reads its metrics.

    Parameters are those of `BitaHubJobOperator`, except:

    :param predictions: server path of an inference job's output, such as the ``output_path`` in its result
    :param result_file: what the job writes into ``/output``: a JSON object of metrics (seed). It is read through the
        connection's ``storage_uri``

    The XCom result has one more entry, ``metrics``: that object, such as ``{"accuracy": 0.903}``. It is missing where
    the job was not waited for.
    """

    template_fields: Sequence[str] = (*BitaHubJobOperator.template_fields, "predictions", "result_file")

    def __init__(
        self,
        *,
        predictions: str,
        result_file: str = "evaluation_result.json",
        models: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(models=models, **kwargs)
        self.predictions = predictions
        self.result_file = result_file

    def job_mounts(self) -> dict[str, Any]:
        """Give the folders of any job, and the predictions last among the datasets."""
        from airflow_bitahub import storage

        mounts = super().job_mounts()
        predictions = mount(self.hook.folders.fill(self.predictions), storage.PREDICTION)
        return {**mounts, "datasets": [*mounts["datasets"], predictions]}

    def _spec(self, record: JobRecord) -> Any:
        self.hook.storage.path(record.output_path)  # an evaluation nobody could read is not worth a submission
        return super()._spec(record)

    def result(self, job: Job, record: JobRecord) -> dict[str, Any]:
        """Give the result of any job, and the metrics. Raises StorageError when there are none to be read."""
        if not self.wait_for_completion:
            return super().result(job, record)
        path = f"{record.output_path}/{self.result_file}"
        metrics = self.hook.storage.read_json(path)
        if not isinstance(metrics, dict):
            raise StorageError(f"{path} holds no JSON object of metrics, but {str(metrics)[:100]!r}.")
        self.log.info("Metrics of job %s: %s", job.name, metrics)
        return {**super().result(job, record), "metrics": metrics}
