"""Offline inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_bitahub.operators.job import BitaHubJobOperator


class BitaHubInferOperator(BitaHubJobOperator):
    """Runs an offline inference job: a model at ``/model/{user_name}/{model}``, predictions in ``/output`` (seed).

    Parameters and result are those of `BitaHubJobOperator`, except:

    :param model: the model's name, or the server path of one of its versions, such as the ``model_path`` that
        `BitaHubSaveModelOperator` gives
    """

    template_fields: Sequence[str] = (*BitaHubJobOperator.template_fields, "model")

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def job_mounts(self) -> dict[str, Any]:
        """Give the folders of any job, and the model first among the models."""
        mounts = super().job_mounts()
        model = self._folder(self.model, self.hook.folders.model_mount)
        return {**mounts, "models": [model, *(mounts["models"] or [])]}
