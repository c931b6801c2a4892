"""Saving a trained model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_bitahub.assets import BitaHubModel
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.links import BitaHubJobLink, BitaHubModelLink
from airflow_bitahub.operators.announcing import announce, declare
from airflow_bitahub.operators.arguments import (
    Check,
    as_flag,
    as_metrics,
    as_model_name,
    as_path,
    as_path_part,
    is_none,
    one_of,
    optional,
)
from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.records import MODEL_FACTS, numbers_in, push_facts, push_model_link
from airflow_bitahub.texts import parse_json

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.jobs import Mount
    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.lineage.names import Material

_NOT_TAKEN = ("command", "datasets", "models", "code_path", "code", "task_roles", "outputs")
_METRICS_LIMIT = 16 * 2**10  # bytes as JSON; they are part of the job's command


def _as_source(name: str, value: Any) -> str | dict[str, Any]:
    """Take a server path, or the result of a job."""
    if not isinstance(value, Mapping):
        return as_path(name, value)
    if "output_path" not in value:
        raise ConfigurationError(f"{name} must be a server path, or the result of a job, which has an output_path.")
    return {**value, "output_path": as_path(f"{name}['output_path']", value["output_path"])}


def _as_short_metrics(name: str, value: Any) -> dict[str, Any]:
    metrics = json.dumps(as_metrics(name, value))
    if len(metrics) > _METRICS_LIMIT:
        raise ConfigurationError(f"{name} must have at most {_METRICS_LIMIT} bytes as JSON: give the important ones.")
    return dict(parse_json(metrics.encode()))  # NaN becomes None


class BitaHubSaveModelOperator(BitaHubJobOperator):
    """Saves a job's output as a new version of a model, complete or not at all, on the platform itself.

    A reader never sees a part of a model: the copy goes into a temporary folder beside it, which is then renamed. Its
    files are described in a manifest, ``bitahub_manifest.json``: the size and SHA-256 digest of each, and where the
    model comes from. The task may be interrupted anywhere, and the next try completes it.

    Parameters are those of `BitaHubJobOperator` without ``command``, ``datasets``, ``models``, ``code_path``,
    ``code``, ``task_roles`` and ``outputs``, and:

    :param model: the model's name; its versions are the folders of ``/models/{user_id}/{model}``
    :param source: server path of a job's output, such as the ``output_path`` in its result; or the whole result, such
        as ``train.output``, whose ``job_name`` and ``code_digest`` then go into the manifest
    :param source_folder: the folder inside `source` that is the model, such as ``dense-mnist-tf``; it keeps its name
        inside the version. None: the whole output is the model
    :param versioned: False: the model has no versions; ``/models/{user_id}/{model}`` itself is it, as in the platform's
        document
    :param if_exists: what to do where another job has saved the same version (`output_version`), or the same model
        without versions: ``"refuse"``: fail. ``"keep"``: leave it and succeed. ``"replace"``: move it aside, to the
        hidden folder ``.{name}.previous``, and put the new one in; only the last one of these is kept. With
        ``"refuse"``, later attempts append a counter to `output_version`, as for any job
    :param metrics: goes into the manifest, such as ``evaluate.output["metrics"]``
    :param copy_by: ``"job"``: a small job copies on the platform. ``"storage"``: the worker copies through the
        connection's ``storage_uri``, without any job; on an object store, whose files appear one by one, the model's
        main file comes last, and then the manifest. Arguments about the job have no effect then
    :param image: any image that has a shell; default: the connection's ``default_image``. Without ``sha256sum`` or
        ``wc`` in it, digests or sizes in the manifest are null

    The XCom result has two more entries: ``model_path``, the server path of the version, such as
    ``/models/_2f1f.../dense-mnist-tf/20260101-abcdefghijkl-1``, and ``version``, which is None without versions. With
    ``copy_by="storage"``, the entries about the job are None.

    The task emits an event of the asset ``BitaHubModel(model).asset``, see `airflow_bitahub.assets`; with
    ``wait_for_completion=False`` it does not, since the version does not exist yet.
    """

    template_fields: Sequence[str] = (
        *(name for name in BitaHubJobOperator.template_fields if name not in _NOT_TAKEN),
        "model",
        "source",
        "source_folder",
        "metrics",
    )
    argument_checks: ClassVar[Mapping[str, Check]] = {
        **{name: check for name, check in BitaHubJobOperator.argument_checks.items() if name not in _NOT_TAKEN},
        "model": as_model_name,
        "source": _as_source,
        "source_folder": optional(as_path_part),
        "versioned": as_flag,
        "if_exists": one_of("refuse", "keep", "replace"),
        "metrics": optional(_as_short_metrics),
        "copy_by": one_of("job", "storage"),
    }
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubJobLink(), BitaHubModelLink())

    def __init__(
        self,
        *,
        model: str,
        source: str | Mapping[str, Any],
        source_folder: str | None = None,
        versioned: bool = True,
        if_exists: Literal["refuse", "keep", "replace"] = "refuse",
        metrics: Mapping[str, Any] | None = None,
        copy_by: Literal["job", "storage"] = "job",
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
        self.versioned = versioned
        self.if_exists = if_exists
        self.metrics = metrics
        self.copy_by = copy_by
        self.check_arguments()
        if self.wait_for_completion:
            declare(self, BitaHubModel, model, self.bitahub_conn_id)

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Save the model, by a job or through the storage, and return where it is."""
        return self._execute_through_storage(context) if self.copy_by == "storage" else super().execute(context)

    # By a job --------------------------------------------------------------------------------------------------

    def output_root(self) -> str:
        """Return the model's folder, in which every version is a folder."""
        folders = self.hook.folders
        return folders.model(folders.fill(self.model))[0]

    def job_mounts(self) -> dict[str, Any]:
        """Return the trained model as the only input."""
        from airflow_bitahub.operators import model_script
        from airflow_bitahub.operators.job_spec import mount

        return {"code": None, "datasets": [mount(self._source_path(), model_script.SOURCE)], "models": []}

    def inputs(self) -> dict[str, str]:
        """Return the server paths that must exist, by the arguments that name them."""
        source = self._source_path()
        return {
            "source": source,
            **({"source_folder": f"{source}/{self.source_folder}"} if self.source_folder else {}),
        }

    def output_mount(self, record: JobRecord) -> Mount:
        """Return the mount of the folder in which the finished copy is renamed."""
        from airflow_bitahub.operators import model_script
        from airflow_bitahub.operators.job_spec import mount

        return mount(self._model_path(record).rsplit("/", 1)[0], model_script.TARGET)

    def job_command(self, record: JobRecord) -> str:
        """Return a copy that may be interrupted anywhere and run again, as the platform does after an eviction."""
        from airflow_bitahub.operators.model_script import ModelScript

        return ModelScript(
            name=self._model_path(record).rsplit("/", 1)[1],
            folder=self.source_folder,
            first_line=self._first_line(record),
            token=record.token,
            attempt=record.attempt,
            if_exists=self.if_exists,
        ).line()

    def result(self, job: Job, record: JobRecord) -> dict[str, Any]:
        """Return the result of any job, and where the model is."""
        place = self._place(record)
        result = {**super().result(job, record), **place}
        if self.wait_for_completion:
            self.log.info("The model is at %s", place["model_path"])
            self._push_model_facts(place)
            self._announce(record)
        return result

    def lineage_outputs(self) -> Iterable[Material]:
        """Return the model; at the end, with its version."""
        from airflow_bitahub.lineage.names import Material

        record = self._record if self.wait_for_completion else None
        path = self.output_root() if record is None else self._model_path(record)
        return [Material(path, metrics=numbers_in(self.metrics or {}))]

    # Through the storage ---------------------------------------------------------------------------------------

    def _execute_through_storage(self, context: Context) -> dict[str, Any]:
        from airflow_bitahub.procedures.results import read_when_visible
        from airflow_bitahub.storage.saving import Saving

        with self.settling(context):
            self.read_arguments()
            record = self._attempt(context)
            source = self._source_path()
            saving = Saving(
                source=f"{source}/{self.source_folder}" if self.source_folder else source,
                target=self._model_path(record),
                inner=self.source_folder or "",
                first_line=self._first_line(record),
                owner=self._owner(context),
                if_exists=self.if_exists,
            )
            start = time.monotonic()
            outcome = self.hook.run(read_when_visible(lambda: self.hook.storage.save_folder("source", saving)))
            seconds = round(time.monotonic() - start, 1)
            self._push_model_facts(self._place(record))
            self.log.info("The model is at %s (%s, %s s)", saving.target, outcome, seconds)
            self._announce(record)
            return {
                "job_name": None,
                "status": "SUCCEEDED",
                "output_path": saving.target,
                "queue_seconds": None,
                "run_seconds": seconds,
                "exit_code": None,
                **self._place(record),
            }

    def _attempt(self, context: Context) -> JobRecord:
        """Return what an earlier try of this generation has recorded, or a new record."""
        identity, record = self._identity(context), self._record
        if record is None or identity.is_new_generation(record) or not record.refused:
            # It is marked as refused: the platform has no such job, so there is nothing to find or to stop.
            record = replace(identity.first_attempt(record and replace(record, refused=False)), refused=True)
            self._save_unless_abandoned(record)
        return self._record or record

    @staticmethod
    def _owner(context: Context) -> str:
        """Return a short text that is the same for all tries of a task instance, and different for any other."""
        ti = context["ti"]
        names = (ti.dag_id, ti.run_id, ti.task_id, str(ti.map_index))
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]

    # Both ways -------------------------------------------------------------------------------------------------

    def _source_path(self) -> str:
        source = self.source["output_path"] if isinstance(self.source, Mapping) else self.source
        return self.hook.folders.fill(source).rstrip("/")

    def _model_path(self, record: JobRecord) -> str:
        if not self.versioned:
            return self.output_root()
        # A version that may be kept or replaced is given exactly. Otherwise no attempt meets what another one saved.
        is_exact = self.if_exists != "refuse" and not is_none(self.output_version)
        return f"{self.output_root()}/{self.output_version}" if is_exact else record.output_path

    def _place(self, record: JobRecord) -> dict[str, Any]:
        path = self._model_path(record)
        return {"output_path": path, "model_path": path, "version": path.split("/")[4] if self.versioned else None}

    def _push_model_facts(self, place: Mapping[str, Any]) -> None:
        if self._context is not None:
            trained = self.source if isinstance(self.source, Mapping) else {}
            facts = {
                "model": place["model_path"].split("/")[3],
                "version": place["version"],
                "model_path": place["model_path"],
                "job_name": trained.get("job_name"),
                "source": self._source_path(),
                "metrics": numbers_in(self.metrics or {}),
            }
            push_facts(self._context, MODEL_FACTS, facts)

    def _first_line(self, record: JobRecord) -> str:
        """Return the first line of the manifest: where the model comes from."""
        from airflow_bitahub.storage.manifest import head

        return head(self._origin(record))

    def _announce(self, record: JobRecord) -> None:
        """Tell Airflow that the version is there."""
        if self._context is None:
            return
        path = self._place(record)["model_path"]
        push_model_link(self._context, self.hook, path)

        def details() -> dict[str, Any]:
            self.read_arguments("source", "metrics")  # a resumed task has only rendered them
            folder = self.hook.folders.model(path.split("/")[3])[0]
            return {"uri": self.hook.uri(folder), "path": path, **self._origin(record)}

        announce(self, self._context, BitaHubModel, details)

    def _origin(self, record: JobRecord) -> dict[str, Any]:
        """Return where the model comes from."""
        ti = self._context["ti"] if self._context else None
        trained = self.source if isinstance(self.source, Mapping) else {}
        run = ti and {name: getattr(ti, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
        place = self._place(record)
        return {
            "saved_by": record.job_name,
            "model": place["model_path"].split("/")[3],
            "version": place["version"],
            "run": run,
            "source": self._source_path(),
            "job": trained.get("job_name"),
            "code_digest": trained.get("code_digest"),
            "metrics": self.metrics,
        }
