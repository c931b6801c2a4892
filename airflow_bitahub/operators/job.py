"""`BitaHubJobOperator`: any job, from its arguments to its submission."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.identity import MAX_GIVEN_NAME
from airflow_bitahub.links import BitaHubJobLink
from airflow_bitahub.operators.arguments import (
    Check,
    as_count,
    as_dataset,
    as_dns_label,
    as_extra_body,
    as_flag,
    as_list,
    as_model,
    as_path,
    as_path_part,
    as_seconds,
    as_seconds_or_zero,
    as_task_role,
    as_text,
    optional,
)
from airflow_bitahub.operators.base import DEFER_AFTER, LOG_INTERVAL
from airflow_bitahub.operators.failures import RETRY_POLICY
from airflow_bitahub.operators.job_lifecycle import JobLifecycle
from airflow_bitahub.operators.lineage import JobLineage
from airflow_bitahub.operators.outputs import OutputFile, as_outputs, read_outputs
from airflow_bitahub.procedures.retry import UNREACHABLE_TIMEOUT

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, RetryPolicy

    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.jobs import JobSpec, Mount
    from airflow_bitahub.identity import JobRecord
    from airflow_bitahub.operators.job_code import JobCode

_PROJECTS_CODE = "/projects/{user_id}/{project}/code"


class BitaHubJobOperator(JobLifecycle, JobLineage):
    """Runs exactly one job on BitaHub, whatever fails on the way.

    A retry finds the job that an earlier try submitted, and waits for it. Clearing the task stops that job and runs a
    new one. Every attempt writes to its own output folder. The XCom result is the following; each entry is also pushed
    under its own name, so that ``train.output["output_path"]`` passes one on:

    .. code-block:: python

        {
            "job_name": "mnist-train-demo-20260101-abcdefghijkl-1",
            "status": "SUCCEEDED",
            "output_path": "/projects/_2f1f.../mnist-train-demo/outputs/20260101-abcdefghijkl-1",
            "queue_seconds": 12.5,  # None where the platform does not report it; likewise the next two
            "run_seconds": 640.2,
            "exit_code": 0,
            "code_digest": "5fa3b9d24e7c0a16",  # only with `code`
            "bundle_version": "9c1e7d2...",  # only where the DAG's bundle has versions: a Git commit, for example
        }

    In commands, paths, and names of datasets and models, ``{user_id}`` and ``{user_name}`` stand for the connection's.
    All parameters are templated, except those about waiting. A limit of time is a ``timedelta`` or a number of seconds.

    :param project: the BitaHub project; the job's name begins with it
    :param command: one shell line
    :param image: the container image; default: the connection's ``default_image``
    :param datasets: names of the user's datasets, mounted at ``/data/{user_name}/{name}`` (seed). For any other folder:
        ``{"path": server path, "mount_path": container path}``
    :param models: names of the user's models, or server paths of a version, mounted at ``/model/{user_name}/{model}``
        (seed); or folders as in `datasets`. None: the field is left out of the submission
    :param code_path: server path of the code, mounted at ``/code`` (seed); ``{project}`` stands for the project.
        None: no code
    :param code: instead of `code_path`, code of the worker, as it is when the task runs: a folder, a file, or a
        function, which stands for the file that defines it. A relative path begins beside the DAG's file. The command
        starts in this folder. What a ``.gitignore`` or ``.bitahubignore`` names is left out. A retry runs the code that
        the first try read; a clear reads it again. The files are uploaded, once for all jobs with the same code, to
        ``/projects/{user_id}/{project}/code-{digest}``, and mounted at ``/code``. Without a ``storage_uri`` in the
        connection, a small folder travels inside the command
    :param accelerator: device type such as ``gtx-1080-ti`` (seed); None or "": no accelerator
    :param accelerator_count: accelerators per replica
    :param cpu: cores per replica
    :param memory_mb: memory per replica in MB
    :param shm_mb: shared memory per replica in MB, at most `memory_mb`; default: half of it
    :param task_roles: for a job of several roles: one mapping for each, with fields of `api.jobs.TaskRole`; they
        replace the arguments above
    :param platform_queue: the platform's queue; ``queue`` is Airflow's own parameter
    :param job_name: a name to use exactly, with a counter appended on later attempts; default: a unique name
    :param output_version: the name of the output folder, likewise. It must differ from run to run, or an old result is
        taken for a new one
    :param preflight: before anything is submitted, look the inputs up through the connection's ``storage_uri``, and
        compare accelerator, cores and memory with what the connection says the installation has. What is missing or
        impossible fails the task at once. A job that an earlier try submitted does not depend on this
    :param extra_body: fields of the submission that this package does not know, sent unchanged
    :param outputs: files that the job writes to ``/output``, whose contents become entries of the result:
        ``{"scores": "scores.json", "report": "report.md"}``. A ``.json`` file is parsed, any other is text. Each has at
        most 1 MiB and is read through the connection's ``storage_uri``; a link is not followed. They are missing from
        the result with ``wait_for_completion=False``
    :param wait_for_completion: False: succeed as soon as the job is submitted
    :param poll_interval: the longest pause between two queries of the job. A young job is queried more often: the pause
        is a tenth of its age, and at least 0.5 s
    :param deferrable: wait in the triggerer instead of on a worker; default: ``[operators] default_deferrable``
    :param defer_after: how long a deferrable task waits on its worker first, while its job is young and runs. A job
        that waits for its turn, or a platform that does not answer, is left to the triggerer at once. 0: so is every
        job. The limits of time go on counting
    :param queue_timeout: how long the job may stay in the queue, from the start of the try. Then it is stopped and the
        try fails. None: no limit. ``execution_timeout`` works likewise, also while the task is deferred
    :param unreachable_timeout: how long the platform may be unreachable during the wait. Then the try fails, and the
        next one finds the job
    :param log_interval: the pause between two looks at the job's log, whose new lines go to the task's log. 0: only its
        last lines do, when the job has ended
    :param retry_policy: Airflow's; default: after an eviction, the next try starts `failures.EVICTION_DELAY` later
    :param cancel_on_kill: stop the job when the task is marked, cleared or deleted; False: leave it running
    :param resubmit_stopped: let a retry submit again after someone stopped the job on the platform
    :param bitahub_conn_id: the Airflow connection
    :param multiple_outputs: also push each entry of the result under its own name
    """

    template_fields: Sequence[str] = (
        "bitahub_conn_id",  # the first: where another cannot be rendered, the job may have to be stopped
        "project",
        "command",
        "image",
        "datasets",
        "models",
        "code_path",
        "code",
        "accelerator",
        "accelerator_count",
        "cpu",
        "memory_mb",
        "shm_mb",
        "task_roles",
        "platform_queue",
        "job_name",
        "output_version",
        "extra_body",
        "outputs",
    )
    argument_checks: ClassVar[Mapping[str, Check]] = {
        "bitahub_conn_id": as_text,
        "project": as_path_part,
        "command": as_text,
        "image": optional(as_text),
        "datasets": optional(as_list(as_dataset), default=[]),
        "models": optional(as_list(as_model)),
        "code_path": optional(as_path),
        "code": optional(as_text),
        "accelerator": optional(as_text),
        "accelerator_count": as_count(),
        "cpu": as_count(),
        "memory_mb": as_count(),
        "shm_mb": optional(as_count(0)),
        "task_roles": optional(as_list(as_task_role)),
        "platform_queue": as_text,
        "job_name": optional(as_dns_label(MAX_GIVEN_NAME)),
        "output_version": optional(as_path_part),
        "preflight": as_flag,
        "extra_body": optional(as_extra_body),
        "outputs": optional(as_outputs(), default={}),
        "wait_for_completion": as_flag,
        "poll_interval": as_seconds,
        "deferrable": as_flag,
        "defer_after": as_seconds_or_zero,
        "queue_timeout": optional(as_seconds),
        "unreachable_timeout": as_seconds_or_zero,
        "log_interval": as_seconds_or_zero,
        "cancel_on_kill": as_flag,
        "resubmit_stopped": as_flag,
    }
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "command": "bash",
        "task_roles": "json",
        "extra_body": "json",
        "outputs": "json",
    }
    operator_extra_links: Sequence[BaseOperatorLink] = (BitaHubJobLink(),)
    ui_color = "#d6ecff"

    def __init__(
        self,
        *,
        project: str,
        command: str,
        image: str | None = None,
        datasets: Sequence[str | Mapping[str, str]] = (),
        models: Sequence[str | Mapping[str, str]] | None = (),
        code_path: str | None = _PROJECTS_CODE,
        code: str | os.PathLike[str] | Callable[..., Any] | None = None,
        accelerator: str | None = None,
        accelerator_count: int | str = 1,
        cpu: int | str = 2,
        memory_mb: int | str = 16384,
        shm_mb: int | str | None = None,
        task_roles: Sequence[Mapping[str, Any]] | None = None,
        platform_queue: str = "default",
        job_name: str | None = None,
        output_version: str | None = None,
        preflight: bool = True,
        extra_body: Mapping[str, Any] | None = None,
        outputs: Mapping[str, str] | None = None,
        wait_for_completion: bool = True,
        poll_interval: timedelta | float = 10,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: timedelta | float = DEFER_AFTER,
        queue_timeout: timedelta | float | None = None,
        unreachable_timeout: timedelta | float = UNREACHABLE_TIMEOUT,
        log_interval: timedelta | float = LOG_INTERVAL,
        cancel_on_kill: bool = True,
        resubmit_stopped: bool = False,
        multiple_outputs: bool = True,
        retry_policy: RetryPolicy | None = RETRY_POLICY,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(multiple_outputs=multiple_outputs, retry_policy=retry_policy, **kwargs)
        self.project = project
        self.command = command
        self.image = image
        self.datasets = datasets
        self.models = models
        self.code_path = code_path
        self.code = _path_of(code)  # Airflow would call a function in a template field
        self.accelerator = accelerator
        self.accelerator_count = accelerator_count
        self.cpu = cpu
        self.memory_mb = memory_mb
        self.shm_mb = shm_mb
        self.task_roles = task_roles
        self.platform_queue = platform_queue
        self.job_name = job_name
        self.output_version = output_version
        self.preflight = preflight
        self.extra_body = extra_body
        self.outputs = outputs
        self.wait_for_completion = wait_for_completion
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self.defer_after = defer_after
        self.queue_timeout = queue_timeout
        self.unreachable_timeout = unreachable_timeout
        self.log_interval = log_interval
        self.cancel_on_kill = cancel_on_kill
        self.resubmit_stopped = resubmit_stopped
        self.bitahub_conn_id = bitahub_conn_id
        self.check_arguments()

    def check_combinations(self) -> None:
        """Raise ConfigurationError for arguments that exclude each other."""
        if self.code is not None and self.code_path not in (None, _PROJECTS_CODE):
            raise ConfigurationError("Give code or code_path, not both.")

    # What subclasses replace -----------------------------------------------------------------------------------

    def output_root(self) -> str:
        """Return the server path under which every attempt gets its own output folder."""
        return self.hook.folders.outputs(self.project)

    def job_mounts(self) -> dict[str, Any]:
        """Return the code, datasets and models of the submission."""
        from airflow_bitahub.operators.job_spec import input_mounts

        return input_mounts(
            self.hook.folders,
            project=self.project,
            code_path=None if self.code else self.code_path,
            datasets=self.datasets,
            models=self.models,
        )

    def inputs(self) -> dict[str, str]:
        """Return the server paths that must exist, by the arguments that name them."""
        mounts = BitaHubJobOperator.job_mounts(self)
        named = {"code_path": mounts["code"]}
        for argument in ("datasets", "models"):
            named |= {f"{argument}[{number}]": each for number, each in enumerate(mounts[argument] or ())}
        return {argument: mount.mount_source.path for argument, mount in named.items() if mount is not None}

    def output_mount(self, record: JobRecord) -> Mount:
        """Return the mount of the folder that the job writes to."""
        from airflow_bitahub.operators.job_spec import mount
        from airflow_bitahub.storage import paths

        return mount(record.output_path, paths.OUTPUT)

    def job_command(self, record: JobRecord) -> str:  # noqa: ARG002
        """Return the shell line of the job."""
        return self.command

    def output_files(self) -> Mapping[str, OutputFile]:
        """Return the files that become entries of the result, by the entries' names."""
        return {name: OutputFile(f"outputs[{name!r}]", file) for name, file in (self.outputs or {}).items()}

    def result(self, job: Job, record: JobRecord) -> dict[str, Any]:
        """Return the XCom result for a job that succeeded. Raises StorageError when an output cannot be read."""
        result = {
            "job_name": job.name,
            "status": job.status.value,
            "output_path": record.output_path,
            "queue_seconds": job.queue_seconds,
            "run_seconds": job.run_seconds,
            "exit_code": job.exit_code,
            **{name: value for name in ("code_digest", "bundle_version") if (value := getattr(record, name))},
        }
        if not self.wait_for_completion:
            return result
        if self.outputs:
            self.read_arguments("outputs")  # a resumed task has only rendered it
        return {**result, **read_outputs(self.hook, record.output_path, self.output_files())}

    def spec(self, record: JobRecord) -> JobSpec:
        """Return the submission. Raises ConfigurationError for arguments that the platform could not accept."""
        from airflow_bitahub.lineage.parent import parent_variables
        from airflow_bitahub.operators import job_spec
        from airflow_bitahub.storage import paths

        if self.wait_for_completion:  # an output that nobody could read is found before the job costs anything
            for file in self.output_files().values():
                self.hook.storage.path(file.path_in(record.output_path))
        defaults = {
            "cpu": self.cpu,
            "memory_mb": self.memory_mb,
            "shm_mb": self.shm_mb,
            "image": self.image or self.hook.default_image,
            "command": self.job_command(record),
        }
        accelerator = job_spec.accelerator(self.accelerator, self.accelerator_count)
        roles = [
            job_spec.task_role(self.hook.folders, role, defaults=defaults, accelerator=accelerator)
            for role in self.task_roles or [{}]
        ]
        mounts = self.job_mounts()
        if self._code is not None:
            start, folder = self._code.command_start(), self._code.server_path(record.code_digest)
            roles = [{**role, "command": start + role["command"]} for role in roles]
            mounts["code"] = job_spec.mount(folder, paths.CODE) if folder else None
        if self._context is not None and (exports := job_spec.exports(parent_variables(self._context))):
            roles = [{**role, "command": exports + role["command"]} for role in roles]
        return job_spec.job_spec(
            job_name=record.job_name,
            **mounts,
            output=self.output_mount(record),
            task_roles=roles,
            queue=self.platform_queue,
        )

    def prepare(self, record: JobRecord) -> JobRecord:
        """Look inputs up, and put the code where the job finds it. Return the record with what the job gets."""
        record = replace(record, code_digest="") if self._code is None else self._code.pin(record)
        spec = self.spec(record)
        if self.preflight:
            from airflow_bitahub.operators import preflight

            replicas = preflight.replicas_of(spec.task_roles, self.task_roles)
            preflight.look(self.hook, replicas, self.inputs())
        if self._code is not None:
            self._code.deliver()
        devices = spec.accelerators
        kind = next(iter(devices)) if len(devices) == 1 else ""
        return replace(record, accelerator=kind, accelerators=devices.total())

    @cached_property
    def _code(self) -> JobCode | None:
        """The code of the worker that the job runs; None where there is none."""
        if self.code is None or self._context is None:
            return None
        from airflow_bitahub.operators.job_code import code_of

        has_storage = bool(self.hook.settings.text("storage_uri"))
        storage, folder = self.hook.storage if has_storage else None, self.hook.folders.code(self.project)
        return code_of(self.code, self.dag.folder, self._context, storage, folder)


def _path_of(code: Any) -> Any:
    """Return the path that `code` stands for; for a function, that of the file which defines it."""
    if isinstance(code, os.PathLike):
        return os.fspath(code)
    if not callable(code):
        return code
    with suppress(TypeError):  # not every callable is made of Python
        if file := inspect.getsourcefile(inspect.unwrap(code)):
            return file
    raise ConfigurationError(f"code must be a folder, a file, or a function that a file defines, not {code!r}.")
