"""Saving a trained model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_bitahub.operators.arguments import Check, as_model_name, as_path, as_path_part
from airflow_bitahub.operators.job import BitaHubJobOperator

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.jobs import Mount
    from airflow_bitahub.identity import JobRecord

_SOURCE, _TARGET = "/source", "/output"
_NOT_TAKEN = ("command", "datasets", "models", "code_path", "code", "task_roles")


class BitaHubSaveModelOperator(BitaHubJobOperator):
    """Copies a job's output into a new version of a model, on the platform itself.

    A version never changes once it exists, and a reader never sees a part of one: the copy goes into a temporary folder
    beside it, which is then renamed. Saving again makes another version.

    Parameters are those of `BitaHubJobOperator` without ``command``, ``datasets``, ``models``, ``code_path``,
    ``code`` and ``task_roles``, and:

    :param model: the model's name; its versions are the folders of ``/models/{user_id}/{model}``
    :param source: server path of a job's output, such as the ``output_path`` in its result
    :param source_folder: the folder inside `source` that is the model, such as ``dense-mnist-tf``; it keeps its name
        inside the version
    :param image: any image that has a shell; default: the connection's ``default_image``

    The XCom result has two more entries: ``model_path``, the server path of the version, such as
    ``/models/_2f1f.../dense-mnist-tf/20260101-abcdefghij-1``, and ``version``.
    """

    template_fields: Sequence[str] = (
        *(name for name in BitaHubJobOperator.template_fields if name not in _NOT_TAKEN),
        "model",
        "source",
        "source_folder",
    )
    argument_checks: ClassVar[Mapping[str, Check]] = {
        **{name: check for name, check in BitaHubJobOperator.argument_checks.items() if name not in _NOT_TAKEN},
        "model": as_model_name,
        "source": as_path,
        "source_folder": as_path_part,
    }

    def __init__(
        self,
        *,
        model: str,
        source: str,
        source_folder: str,
        project: str = "save-model",
        cpu: int | str = 1,
        memory_mb: int | str = 2048,
        **kwargs: Any,
    ) -> None:
        if wrong := set(_NOT_TAKEN) & kwargs.keys():
            raise TypeError(f"BitaHubSaveModelOperator defines its own job and takes no {', '.join(sorted(wrong))}")
        super().__init__(project=project, command="", cpu=cpu, memory_mb=memory_mb, **kwargs)
        self.model = model
        self.source = source
        self.source_folder = source_folder
        self.check_arguments()

    def output_root(self) -> str:
        """Return the model's folder, in which every version is a folder."""
        folders = self.hook.folders
        return folders.model(folders.fill(self.model))[0]

    def job_mounts(self) -> dict[str, Any]:
        """Return the trained model as the only input."""
        from airflow_bitahub.operators.job_spec import mount

        return {"code": None, "datasets": [mount(self.hook.folders.fill(self.source), _SOURCE)], "models": []}

    def inputs(self) -> dict[str, str]:
        """Return the server paths that must exist, by the arguments that name them."""
        source = self.hook.folders.fill(self.source)
        return {"source": source, "source_folder": f"{source}/{self.source_folder}"}

    def output_mount(self, record: JobRecord) -> Mount:
        """Return the mount of the folder that contains the versions, in which the finished copy is renamed."""
        from airflow_bitahub.operators.job_spec import mount

        return mount(record.output_path.rsplit("/", 1)[0], _TARGET)

    def job_command(self, record: JobRecord) -> str:
        """Return a copy that may be interrupted anywhere and run again, as the platform does after an eviction."""
        version = shlex.quote(record.version)
        folder = shlex.quote(self.source_folder)
        half = f".{version}.partial"
        by = f"{half}/.saved-by"
        return (
            f"set -e; cd {_TARGET}; "
            # An existing version is this job's own, from before an eviction, or another job's model.
            f'if [ "$(cat {version}/.saved-by 2>/dev/null)" = {record.job_name} ]; then echo saved before; exit 0; fi; '
            f"if [ -e {version} ]; then echo version {version} exists, and another job made it >&2; exit 1; fi; "
            f"rm -rf {half}; mkdir {half}; cp -R {_SOURCE}/{folder} {half}/; echo {record.job_name} > {by}; "
            f"mv {half} {version}; echo saved {version}"
        )

    def result(self, job: Job, record: JobRecord) -> dict[str, Any]:
        """Return the result of any job, and where the model is."""
        return {**super().result(job, record), "model_path": record.output_path, "version": record.version}
