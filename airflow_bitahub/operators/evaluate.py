"""Evaluation of predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_bitahub.exceptions import StorageError
from airflow_bitahub.operators.arguments import Check, as_path, as_text, one_of, optional
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.outputs import OutputFile, as_outputs
from airflow_bitahub.operators.records import METRICS_FACTS, numbers_in, push_facts
from airflow_bitahub.operators.xcom import problem_as_xcom
from airflow_bitahub.texts import shorten

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.lineage.names import Material


class BitaHubEvaluateOperator(BitaHubJobOperator):
    """Runs an evaluation job and reads its metrics.

    Predictions are mounted at ``/prediction``, labels are a dataset (seed).

    Parameters are those of `BitaHubJobOperator`, except:

    :param predictions: server path of an inference job's output, such as the ``output_path`` in its result
    :param result_file: the file in ``/output`` to which the job writes a JSON object of metrics (seed); it is read as
        `outputs` are
    :param metrics_from: ``"storage"``: read the metrics from `result_file`. ``"log"``: they are the last line of the
        job's log that is a JSON object, among its last 500 lines; this needs no ``storage_uri``. Either may become
        visible some seconds after the job has finished, and is waited for

    The XCom result has one more entry, ``metrics``: that object, such as ``{"accuracy": 0.903}``. The entry is missing
    with ``wait_for_completion=False``. A number that is NaN, infinite or too large is None in it.
    """

    template_fields: Sequence[str] = (*BitaHubJobOperator.template_fields, "predictions", "result_file")
    argument_checks: ClassVar[Mapping[str, Check]] = {
        **BitaHubJobOperator.argument_checks,
        "outputs": optional(as_outputs("metrics"), default={}),
        "predictions": as_path,
        "result_file": as_text,
        "metrics_from": one_of("storage", "log"),
    }

    _metrics: dict[str, float | int] | None = None

    def __init__(
        self,
        *,
        predictions: str,
        result_file: str = "evaluation_result.json",
        metrics_from: Literal["storage", "log"] = "storage",
        models: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(models=models, **kwargs)
        self.predictions = predictions
        self.result_file = result_file
        self.metrics_from = metrics_from
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

    def output_files(self) -> Mapping[str, OutputFile]:
        """Return the files of any job, and the one with the metrics where they are not in the log."""
        files = super().output_files()
        if self.metrics_from == "log":
            return files
        return {**files, "metrics": OutputFile("result_file", self.result_file, is_metrics=True)}

    def result(self, job: Job, record: JobRecord) -> dict[str, Any]:
        """Return the result of any job, and the metrics. Raises StorageError when they cannot be read."""
        result = super().result(job, record)
        if not self.wait_for_completion:
            return result
        if self.metrics_from == "log":
            result["metrics"] = self._metrics_in_log(job.name)
        self._metrics = numbers_in(result["metrics"])
        if self._context is not None:
            push_facts(self._context, METRICS_FACTS, self._metrics)
        self.log.info("Metrics of job %s: %s", job.name, shorten(str(result["metrics"])))
        return result

    def lineage_outputs(self) -> Iterable[Material]:
        """Return the job's output folder, with the metrics."""
        return [replace(each, metrics=self._metrics or {}) for each in super().lineage_outputs()]

    def _metrics_in_log(self, name: str) -> dict[str, Any]:
        from airflow_bitahub.procedures.results import read_metrics_in_log

        metrics = self.hook.run(read_metrics_in_log(name))
        if problem := problem_as_xcom(metrics):
            raise StorageError(f"metrics_from: the metrics in the log of job {name!r} cannot be stored: {problem}.")
        return metrics
