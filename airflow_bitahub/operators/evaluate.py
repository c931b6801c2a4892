"""Evaluation of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_bitahub.exceptions import StorageError
from airflow_bitahub.operators.arguments import Check, as_path, as_text
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.xcom import problem_as_xcom
from airflow_bitahub.texts import shorten

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.jobs import JobSpec
    from airflow_bitahub.identity import JobRecord


class BitaHubEvaluateOperator(BitaHubJobOperator):
    """Runs an evaluation job and reads its metrics.

    Predictions are mounted at ``/prediction``, labels are a dataset (seed).

    Parameters are those of `BitaHubJobOperator`, except:

    :param predictions: server path of an inference job's output, such as the ``output_path`` in its result
    :param result_file: the file in ``/output`` to which the job writes a JSON object of metrics (seed), of at most
        1 MiB. It is read through the connection's ``storage_uri``. A link is not followed

    The XCom result has one more entry, ``metrics``: that object, such as ``{"accuracy": 0.903}``. The entry is missing
    with ``wait_for_completion=False``. A number that is NaN, infinite or too large is None in it.
    """

    template_fields: Sequence[str] = (*BitaHubJobOperator.template_fields, "predictions", "result_file")
    argument_checks: ClassVar[Mapping[str, Check]] = {
        **BitaHubJobOperator.argument_checks,
        "predictions": as_path,
        "result_file": as_text,
    }

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
        self.check_arguments()

    def job_mounts(self) -> dict[str, Any]:
        """Return the folders of any job, and the predictions last among the datasets."""
        from airflow_bitahub.operators.job_spec import mount
        from airflow_bitahub.storage import paths

        mounts = super().job_mounts()
        predictions = mount(self.hook.folders.fill(self.predictions), paths.PREDICTION)
        return {**mounts, "datasets": [*mounts["datasets"], predictions]}

    def inputs(self) -> dict[str, str]:
        """Return the server paths that must exist, by the arguments that name them."""
        return {**super().inputs(), "predictions": self.hook.folders.fill(self.predictions)}

    def spec(self, record: JobRecord) -> JobSpec:
        """Return the submission. Raises ConfigurationError also when its result is wanted and could not be read."""
        if self.wait_for_completion:
            self.hook.storage.path(self._result_path(record))
        return super().spec(record)

    def result(self, job: Job, record: JobRecord) -> dict[str, Any]:
        """Return the result of any job, and the metrics. Raises StorageError when they cannot be read."""
        if not self.wait_for_completion:
            return super().result(job, record)
        from airflow_bitahub.storage.storage import RESULT_LIMIT

        path = self._result_path(record)
        metrics = self.hook.storage.read_json("result_file", path, RESULT_LIMIT)
        if not isinstance(metrics, dict):
            raise StorageError(
                f"result_file: {path} contains {shorten(str(metrics), 100)!r} instead of a JSON object of metrics."
            )
        if problem := problem_as_xcom(metrics):
            raise StorageError(f"result_file: {path} cannot become a result in Airflow: {problem}.")
        self.log.info("Metrics of job %s: %s", job.name, shorten(str(metrics)))
        return {**super().result(job, record), "metrics": metrics}

    def _result_path(self, record: JobRecord) -> str:
        return f"{record.output_path}/{self.result_file}"
