"""Offline inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow_bitahub.operators.arguments import Check, as_model
from airflow_bitahub.operators.job import BitaHubJobOperator


class BitaHubInferOperator(BitaHubJobOperator):
    """Runs an offline inference job.

    The model is mounted at ``/model/{user_name}/{model}``, predictions go to ``/output`` (seed).

    Parameters and result are those of `BitaHubJobOperator`, except:

    :param model: the model's name, or the server path of one of its versions, such as the ``model_path`` in the
        result of `BitaHubSaveModelOperator`; or a folder, as in `datasets`
    """

    template_fields: Sequence[str] = (*BitaHubJobOperator.template_fields, "model")
    argument_checks: ClassVar[Mapping[str, Check]] = {**BitaHubJobOperator.argument_checks, "model": as_model}

    def __init__(self, *, model: str | Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.check_arguments()

    def job_mounts(self) -> dict[str, Any]:
        """Return the folders of any job, and the model first among the models."""
        from airflow_bitahub.operators.job_spec import folder_mount

        mounts = super().job_mounts()
        folders = self.hook.folders
        model = folder_mount(folders, self.model, folders.model_mount)
        return {**mounts, "models": [model, *(mounts["models"] or [])]}

    def inputs(self) -> dict[str, str]:
        """Return the server paths that must exist, by the arguments that name them."""
        return {"model": self.job_mounts()["models"][0].mount_source.path, **super().inputs()}
