"""What operators tell OpenLineage, where its Airflow provider is installed and on: that calls the methods here.

The provider calls them in a process of its own, which it forks from the task's: at the start, before the operator has
done anything, and at the end. What they tell at the end is what the operator remembers then. Nothing is asked of the
platform. After an error, only less is told.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.operators.arguments import is_template
from airflow_bitahub.operators.records import numbers_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.lineage.names import Material
    from airflow_bitahub.operators.job_code import JobCode
    from airflow_bitahub.procedures.deployments import Version


class LineageOperator:
    """Tells what it reads and writes. It has no constructor, see `BitaHubOperator`."""

    log: Any
    read_arguments: Any

    @property
    @abstractmethod
    def hook(self) -> BitaHubHook:
        """The hook that this operator talks through."""

    def lineage_inputs(self) -> Iterable[Material]:
        """Return what the task reads, as far as that is known."""
        return ()

    def lineage_outputs(self) -> Iterable[Material]:
        """Return what the task writes, as far as that is known."""
        return ()

    def lineage_job(self) -> Mapping[str, Any] | None:
        """Return the fields of the facet about the task's job; None: it has none, or none yet."""
        return None

    def get_openlineage_facets_on_start(self) -> Any:
        """Return what is known before the operator does anything, as an ``OperatorLineage`` of the provider."""
        return self._lineage(has_succeeded=False)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002
        """Return what the operator has done, likewise."""
        return self._lineage(has_succeeded=True)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:  # noqa: ARG002
        """Return what the operator has tried, likewise."""
        return self._lineage(has_succeeded=False)

    def _lineage(self, *, has_succeeded: bool) -> Any:
        from airflow_bitahub.lineage.facets import operator_lineage

        try:
            self.read_arguments()
            inputs, outputs = self.lineage_inputs(), self.lineage_outputs()
        except BitaHubError as error:  # a wrong argument, with which the task fails anyway
            self.log.debug("OpenLineage is told neither inputs nor outputs: %s", error)
            inputs = outputs = ()
        return operator_lineage(
            self.hook,
            _known(inputs),
            _known(outputs),
            self.lineage_job(),
            has_succeeded=has_succeeded,
        )


class ServingLineage(LineageOperator):
    """Tells that it changes a serving."""

    serving_name: str

    def lineage_outputs(self) -> Iterable[Material]:
        """Return the serving."""
        from airflow_bitahub.lineage.names import Material

        return [Material(f"/servings/{self.serving_name}")]


class DeploymentLineage(ServingLineage):
    """Tells which model and which version it gives to a serving."""

    _deployed: Version | None = None  # once it serves

    def lineage_inputs(self) -> Iterable[Material]:
        """Return the model that is served."""
        from airflow_bitahub.lineage.names import Material

        return [Material(self._deployed.model_path)] if self._deployed is not None else []

    def lineage_outputs(self) -> Iterable[Material]:
        """Return the serving; at the end, with its version."""
        if (version := self._deployed) is None:
            return super().lineage_outputs()
        metrics = numbers_in(version.metrics)
        return [replace(serving, version=version.digest, metrics=metrics) for serving in super().lineage_outputs()]


class JobLineage(LineageOperator):
    """Tells of a job, too."""

    code: Any
    image: str | None
    task_roles: Sequence[Mapping[str, Any]] | None
    _context: Any
    _record: JobRecord | None
    _last_seen: Job | None

    @property
    @abstractmethod
    def _code(self) -> JobCode | None:
        """The code of the worker that the job runs; None where there is none."""

    @abstractmethod
    def job_mounts(self) -> dict[str, Any]:
        """Return the code, datasets and models of the submission."""

    def lineage_inputs(self) -> Iterable[Material]:
        """Return the code, the datasets and the models of the job."""
        from airflow_bitahub.lineage.names import Material

        mounts = self.job_mounts()
        found = [mounts["code"], *mounts["datasets"], *(mounts["models"] or ())]
        paths = [each.mount_source.path for each in found if each is not None]
        # Before the operator has a context, its code is not known, and must not be taken for none.
        if self._record is not None and self._context is not None and self._code is not None:
            paths.insert(0, self._code.server_path(self._record.code_digest) or "")
        return [Material(path) for path in dict.fromkeys(paths) if path]

    def lineage_outputs(self) -> Iterable[Material]:
        """Return the job's output folder."""
        from airflow_bitahub.lineage.names import Material

        return [Material(self._record.output_path)] if self._record is not None else []

    def lineage_job(self) -> Mapping[str, Any] | None:
        """Return the job as it was last seen."""
        record, job = self._record, self._last_seen
        if record is None or record.refused:
            return None
        images = {role.get("image") or self.image or self.hook.default_image for role in self.task_roles or [{}]}
        facts: dict[str, Any] = {
            "jobName": record.job_name,
            "url": self.hook.job_url(record.job_name),
            "image": images.pop() if len(images) == 1 else None,
            "accelerator": record.accelerator or None,
            "acceleratorCount": record.accelerators,
            "attempt": record.attempt,
            "codeDigest": record.code_digest or None,
        }
        if job is not None and job.name == record.job_name:
            facts |= {
                "status": job.status.value,
                "exitCode": job.exit_code,
                "queueSeconds": job.queue_seconds,
                "runSeconds": job.run_seconds,
            }
        return facts


def _known(materials: Iterable[Material]) -> list[Material]:
    """Return those whose paths have no template, as they have where the task failed before it was rendered."""
    return [each for each in materials if not is_template(each.path)]
