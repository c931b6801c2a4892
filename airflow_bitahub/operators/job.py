"""Any job: submitted once, found again by every later try, stopped when nobody wants it any more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferralError, TaskDeferralTimeout

from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    JobFailedError,
    JobLostError,
    JobQueueTimeoutError,
    JobStoppedError,
    JobTimeoutError,
    JobUnderpoweredError,
    TransportError,
)
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.links import BitaHubJobLink
from airflow_bitahub.operators.base import KILL_BUDGET, NO_TRIGGERER, BitaHubOperator, keep
from airflow_bitahub.operators.failures import RETRY_POLICY, airflow_error, job_error
from airflow_bitahub.triggers.events import is_about, job_subject

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context, RetryPolicy

    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.jobs import JobSpec, Mount
    from airflow_bitahub.identity import JobRecord, TaskIdentity
    from airflow_bitahub.triggers.events import JobEvent


class BitaHubJobOperator(BitaHubOperator):
    """Runs one job on BitaHub, and exactly one, whatever dies on the way.

    A retry finds the job its predecessor submitted and waits on; clearing the task stops that job and runs a new one.
    Every attempt writes to an output folder of its own. The XCom result, each of whose entries is also pushed under
    its own name, so that ``train.output["output_path"]`` hands one on, is

    .. code-block:: python

        {
            "job_name": "mnist-train-demo-20260101-abcdefghij-1",
            "status": "SUCCEEDED",
            "output_path": "/projects/_2f1f.../mnist-train-demo/outputs/20260101-abcdefghij-1",
            "queue_seconds": 12.5,  # None where the platform does not tell; likewise the next two
            "run_seconds": 640.2,
            "exit_code": 0,
        }

    In commands, paths and names of datasets and models, ``{user_id}`` and ``{user_name}`` stand for the connection's.
    All parameters but those that say how to wait are templated.

    :param project: the BitaHub project; its name begins the job's
    :param command: one shell line
    :param image: the container image; default: the connection's ``default_image``
    :param datasets: names of the user's datasets, seen at ``/data/{user_name}/{name}`` (seed); or, for any other
        folder, ``{"path": server path, "mount_path": container path}``
    :param models: names of the user's models, or server paths of a version, seen at ``/model/{user_name}/{model}``
        (seed); or folders as in `datasets`; None: the field is left out of the submission
    :param code_path: server path of the code, seen at ``/code`` (seed), where ``{project}`` stands for the project;
        None: no code
    :param accelerator: device type such as ``gtx-1080-ti`` (seed); None or "": no accelerator
    :param accelerator_count: per replica
    :param cpu: cores per replica
    :param memory_mb: MB per replica
    :param shm_mb: MB of shared memory per replica, at most `memory_mb`
    :param task_roles: for a job of several roles: fields of `api.jobs.TaskRole`, each over the ones above
    :param platform_queue: the platform's queue; ``queue`` is Airflow's own parameter
    :param job_name: use exactly this name, with a counter appended on later attempts; default: a unique one
    :param output_version: likewise, the name of the output folder; it must then differ from run to run, or an old
        result is taken for a new one
    :param extra_body: fields of the submission that this package does not know, sent as they are
    :param wait_for_completion: False: succeed as soon as the job is submitted
    :param poll_interval: seconds between two looks at the job
    :param deferrable: wait in the triggerer instead of on a worker; default: ``[operators] default_deferrable``
    :param queue_timeout: how long the job may wait for its turn, from the start of the try; then it is stopped and the
        try fails; None: for ever. ``execution_timeout`` counts likewise, also while the task is deferred
    :param unreachable_timeout: how long the platform may be unreachable while the job is waited for; then the try
        fails, and the next one finds the job
    :param retry_policy: Airflow's; default: after an eviction, the next try comes `failures.EVICTION_DELAY` later
    :param cancel_on_kill: stop the job when the task is marked, cleared or deleted; False: leave it running
    :param resubmit_stopped: let a retry submit again when somebody stopped the job on the platform
    :param bitahub_conn_id: the Airflow connection
    :param multiple_outputs: push each entry of the result under its own name, too
    """

    template_fields: Sequence[str] = (
        "project",
        "command",
        "image",
        "datasets",
        "models",
        "code_path",
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
        "bitahub_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "command": "bash",
        "task_roles": "json",
        "extra_body": "json",
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
        code_path: str | None = "/projects/{user_id}/{project}/code",
        accelerator: str | None = None,
        accelerator_count: int | str = 1,
        cpu: int | str = 2,
        memory_mb: int | str = 16384,
        shm_mb: int | str = 8192,
        task_roles: Sequence[Mapping[str, Any]] | None = None,
        platform_queue: str = "default",
        job_name: str | None = None,
        output_version: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
        wait_for_completion: bool = True,
        poll_interval: float = 10,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        queue_timeout: timedelta | None = None,
        unreachable_timeout: timedelta = timedelta(minutes=15),
        cancel_on_kill: bool = True,
        resubmit_stopped: bool = False,
        multiple_outputs: bool = True,
        retry_policy: RetryPolicy | None = RETRY_POLICY,
        bitahub_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(multiple_outputs=multiple_outputs, retry_policy=retry_policy, **kwargs)
        if poll_interval <= 0:
            raise ValueError(f"poll_interval must be more than 0 seconds, not {poll_interval!r}")
        self.project = project
        self.command = command
        self.image = image
        self.datasets = datasets
        self.models = models
        self.code_path = code_path
        self.accelerator = accelerator
        self.accelerator_count = accelerator_count
        self.cpu = cpu
        self.memory_mb = memory_mb
        self.shm_mb = shm_mb
        self.task_roles = task_roles
        self.platform_queue = platform_queue
        self.job_name = job_name
        self.output_version = output_version
        self.extra_body = extra_body
        self.wait_for_completion = wait_for_completion
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self.queue_timeout = queue_timeout
        self.unreachable_timeout = unreachable_timeout
        self.cancel_on_kill = cancel_on_kill
        self.resubmit_stopped = resubmit_stopped
        self.bitahub_conn_id = bitahub_conn_id
        self._context: Context | None = None
        self._record: JobRecord | None = None
        self._seen: Job | None = None

    # What subclasses say differently ---------------------------------------------------------------------------

    def output_root(self) -> str:
        """Give the server path under which every attempt gets an output folder of its own."""
        return self.hook.folders.outputs(self.project)

    def job_mounts(self) -> dict[str, Any]:
        """Give the code, datasets and models of the submission."""
        from airflow_bitahub import storage

        folders = self.hook.folders
        code = folders.fill(self.code_path).replace("{project}", self.project) if self.code_path else None
        return {
            "code": mount(code, storage.CODE) if code else None,
            "datasets": [self._folder(item, folders.dataset) for item in _listed("datasets", self.datasets)],
            "models": None
            if self.models is None
            else [self._folder(item, folders.model_mount) for item in _listed("models", self.models)],
        }

    def output_mount(self, record: JobRecord) -> Mount:
        """Give the folder the job writes to."""
        from airflow_bitahub import storage

        return mount(record.output_path, storage.OUTPUT)

    def job_command(self, record: JobRecord) -> str:  # noqa: ARG002
        """Give the shell line of the job."""
        return self.command

    def result(self, job: Job, record: JobRecord) -> dict[str, Any]:
        """Give the XCom result of a job that succeeded."""
        return {
            "job_name": job.name,
            "status": job.status.value,
            "output_path": record.output_path,
            "queue_seconds": job.queue_seconds,
            "run_seconds": job.run_seconds,
            "exit_code": job.exit_code,
        }

    # What Airflow calls ----------------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Submit the job or find it again, wait for it, and give its result."""
        from airflow_bitahub.procedures.jobs import wait_for_job
        from airflow_bitahub.procedures.submission import ensure_job

        self._context = context
        with self._settling():
            job, record = self.hook.run(
                ensure_job(
                    self._identity(context),
                    self._load(),
                    spec_for=self._spec,
                    save=self._save_if_wanted,
                    resubmit_stopped=self.resubmit_stopped,
                    extra_body=self.extra_body,
                )
            )
            context["ti"].xcom_push(key=BitaHubJobLink().xcom_key, value=self.hook.job_url(job.name))
            self._note(job)
            if not self.wait_for_completion:
                return self.result(job, record)
            if not job.status.is_terminal and self.deferrable:
                self._defer(job)
            if not job.status.is_terminal:
                waiting = wait_for_job(
                    job.name,
                    poll_interval=self.poll_interval,
                    queue_deadline=self._after(self.queue_timeout),  # the other one is Airflow's to keep
                    unreachable_timeout=self.unreachable_timeout.total_seconds(),
                    on_change=self._note,
                )
                job = self.hook.run(waiting)
            return self._conclude(job, record)

    def execute_complete(self, context: Context, event: JobEvent | None = None) -> dict[str, Any] | None:
        """Take up the trigger's report."""
        from airflow_bitahub.api.job_reading import Job

        self._context = context
        record = self._load()
        if record and event and not is_about(event, job_subject(record.job_name)):
            self.log.warning("Airflow hands over a report about %s, which is not waited for", event.get("subject"))
            return self.execute(context)
        with self._settling():
            if record is None or not event:
                raise ConfigurationError("The task was resumed without its job's record or the trigger's report.")
            message = event.get("message", "")
            match event.get("outcome"):
                case "finished":
                    return self._conclude(Job.model_validate(event["job"]), record)
                case "timeout" | "queue_timeout" as limit:
                    if job := self._look_for_end(record):  # which came just in time
                        return self._conclude(job, record)
                    kind = JobTimeoutError if limit == "timeout" else JobQueueTimeoutError
                    raise kind(message, record.job_name)
                case "lost":
                    raise JobLostError(message, record.job_name)
                case _ if event.get("is_final"):
                    raise AirflowFailException(message)
                case _:
                    raise TransportError(f"Nothing is known of job {record.job_name!r}: {message}")

    def take_up_failure(self, context: Context, error: TaskDeferralError | TaskDeferralTimeout) -> Any:
        """Treat a trigger that failed like any other trouble, and a deadline that nobody kept like any other."""
        self._context = context
        with self._settling():
            record = self._load()
            if record and (job := self._look_for_end(record)):
                return self._conclude(job, record)
            name = record.job_name if record else ""
            if isinstance(error, TaskDeferralTimeout):
                raise JobTimeoutError(f"Nobody has watched job {name!r}: is a triggerer running?", name) from error
            raise TransportError(f"Job {name!r} could not be watched: {error}") from error

    def on_kill(self) -> None:
        """Stop the job if somebody marked, cleared or deleted the task."""
        record = self._record
        if self._context is None or record is None or record.refused or not self.cancel_on_kill:
            return

        def stop() -> None:
            from airflow_bitahub.procedures.jobs import end_job

            with suppress(Exception):  # Airflow may no longer take anything from this task
                self._save(replace(record, stopped=True))
            # what is interrupted may be the submission, so that the job is still to appear
            ending = end_job(record.job_name, wait=False, may_appear=not record.confirmed, timeout=KILL_BUDGET)
            self.hook.new_client().run(ending)

        self.stop_if_unwanted(self._context, f"job {record.job_name}", stop)

    # How -------------------------------------------------------------------------------------------------------

    def _identity(self, context: Context) -> TaskIdentity:
        from airflow_bitahub.identity import TaskIdentity

        ti, dag_run = context["ti"], context["dag_run"]
        date = dag_run.logical_date or dag_run.run_after
        return TaskIdentity(
            project=self.project,
            run_date=date.strftime("%Y%m%d"),
            marker=self.hook.marker,
            output_root=self.output_root(),
            max_tries=ti.max_tries,
            try_number=ti.try_number,
            retries=self.retries or 0,
            clear_number=getattr(dag_run, "clear_number", 0) or 0,
            job_name=self.job_name or None,
            output_version=self.output_version or None,
        )

    def _spec(self, record: JobRecord) -> JobSpec:
        """Give the submission. Raises ConfigurationError for arguments the platform could not accept."""
        from pydantic import ValidationError

        from airflow_bitahub.api.jobs import JobSpec

        if self.extra_body is not None and (not isinstance(self.extra_body, Mapping) or "jobName" in self.extra_body):
            raise ConfigurationError("extra_body must be a mapping of fields, without jobName: the name is job_name.")
        try:
            return JobSpec.model_validate(
                {
                    "job_name": record.job_name,
                    **self.job_mounts(),
                    "output": self.output_mount(record),
                    "task_roles": [self._role(record, role) for role in _listed("task_roles", self.task_roles or [{}])],
                    "queue": self.platform_queue,
                }
            )
        except ValidationError as error:
            raise ConfigurationError(explain(error)) from error

    def _role(self, record: JobRecord, fields: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(fields, Mapping):
            raise ConfigurationError(f"A task role is a mapping of fields, not {fields!r}.")
        image = fields.get("image") or self.image or self.hook.default_image
        if not image:
            raise ConfigurationError("Give an image, or set default_image in the extra of the Airflow connection.")
        device = {"device_type": self.accelerator, "requests": self.accelerator_count} if self.accelerator else None
        return {
            "cpu": self.cpu,
            "memory_mb": self.memory_mb,
            "shm_mb": self.shm_mb,
            "acc_device": device,
            **fields,
            "image": image,
            "command": self.hook.folders.fill(fields.get("command") or self.job_command(record)),
        }

    def _folder(self, item: str | Mapping[str, str], by_name: Any) -> Mount:
        folders = self.hook.folders
        if isinstance(item, str):
            return mount(*by_name(folders.fill(item)))
        if not isinstance(item, Mapping):  # None, where the XCom of a template is missing
            raise ConfigurationError(f"A folder is a name, or has 'path' and 'mount_path'; {item!r} is neither.")
        try:
            return mount(folders.fill(item["path"]), folders.fill(item["mount_path"]))
        except KeyError as error:
            raise ConfigurationError(f"A folder needs 'path' and 'mount_path'; {dict(item)} lacks {error}.") from error

    def _defer(self, job: Job) -> None:
        from airflow_bitahub.triggers.job import BitaHubJobTrigger

        # Airflow does not enforce it while a task is deferred, and starts it anew when the task resumes.
        deadline = self._after(self.execution_timeout)
        self.defer(
            trigger=BitaHubJobTrigger(
                bitahub_conn_id=self.bitahub_conn_id,
                job_name=job.name,
                poll_interval=self.poll_interval,
                deadline=deadline,
                queue_deadline=self._after(self.queue_timeout),
                unreachable_timeout=self.unreachable_timeout.total_seconds(),
                cancel_on_kill=self.cancel_on_kill,
            ),
            method_name="execute_complete",
            timeout=None if deadline is None else timedelta(seconds=deadline - time.time()) + NO_TRIGGERER,
        )

    def _after(self, limit: timedelta | None) -> float | None:
        """Give when a limit that counts from the start of this try is reached, in seconds since the epoch."""
        if limit is None or self._context is None:
            return None
        start: datetime = self._context["ti"].start_date
        return (start + limit).timestamp()

    def _note(self, job: Job) -> None:
        if self._seen is None or self._seen.raw_state != job.raw_state:
            self.log.info("The %s", job)
        self._seen = job

    def _look_for_end(self, record: JobRecord) -> Job | None:
        """Give the job if it is over by now."""
        from airflow_bitahub.api.jobs import get_job

        try:
            job = self.hook.send(get_job(record.job_name))
        except BitaHubError:
            return None  # what is about to be done needs no answer
        return job if job.status.is_terminal else None

    def _conclude(self, job: Job, record: JobRecord) -> dict[str, Any]:
        """Turn the end of a job into the end of the task."""
        if job.status.is_successful:
            return self.result(job, record)
        raise job_error(job, self._log_tail(job.name), by_us=record.stopped or self.resubmit_stopped)

    def _log_tail(self, name: str) -> str:
        from airflow_bitahub.api.jobs import read_job_log

        try:
            text = self.hook.send(read_job_log(name, tail_lines=20)).strip()
        except BitaHubError:
            return ""  # the platform may have no such call, and the job's end is what matters
        return f" Its last lines:\n{text}" if text else ""

    @contextmanager
    def _settling(self) -> Iterator[None]:
        """Leave no job behind when the task ends for good, and tell Airflow which errors are worth another try."""
        try:
            yield
        except AirflowTaskTimeout as error:
            name = self._record.job_name if self._record else ""
            seen = f"When last seen, {self._seen}." if self._seen else "It was never seen."
            raise self._out_of_time(JobTimeoutError(f"Job {name!r} was not over in time. {seen}", name)) from error
        except JobTimeoutError as error:
            raise self._out_of_time(error) from error
        except Exception as error:
            over = isinstance(error, JobFailedError | JobUnderpoweredError | JobStoppedError | JobLostError)
            if self._is_last_try(error) and not over:
                self._stop("the task fails")
            if isinstance(error, BitaHubError):
                raise airflow_error(error) from error
            raise

    def _out_of_time(self, error: JobTimeoutError) -> JobTimeoutError:
        """Stop the job, and give the error with its limit and what has become of the job."""
        limit = "queue_timeout" if isinstance(error, JobQueueTimeoutError) else "execution_timeout"
        end = self._stop(f"{limit} has passed")
        message = f"{error.message} The limit is {limit}={getattr(self, limit)} from the start of the try; {end}."
        return type(error)(message, error.job_name)

    def _is_last_try(self, error: Exception) -> bool:
        ti = self._context["ti"] if self._context else None
        is_final = isinstance(error, AirflowFailException) or getattr(error, "is_final", False)
        return is_final or ti is None or ti.try_number > ti.max_tries

    def _stop(self, why: str) -> str:
        """Stop the job, if there is one, and say what has become of it."""
        from airflow_bitahub.procedures.jobs import end_job

        record = self._record
        if record is None or record.refused:
            return "nothing had been submitted"
        self.log.info("Stopping job %s: %s", record.job_name, why)

        def stop() -> Job | None:
            with suppress(Exception):  # a job that runs on costs more than a note that is missing
                self._save(replace(record, stopped=True))
            ending = end_job(record.job_name, may_appear=not record.confirmed, timeout=60)
            return self.hook.new_client().run(ending)

        try:
            job = self.despite_the_alarm(stop)
        except BitaHubError as error:
            self.log.error("%s", error)
            return "the job could not be stopped"
        return "the job was stopped" if job is None or job.status.value == "STOPPED" else f"the job is {job.raw_state}"

    def _load(self) -> JobRecord | None:
        from airflow_bitahub.identity import JobRecord
        from airflow_bitahub.operators.records import JOB_RECORD_KEY

        if self._context is None:
            return None
        self._record = JobRecord.from_json(self._context["task_state_store"].get(JOB_RECORD_KEY))
        return self._record

    def _save_if_wanted(self, record: JobRecord) -> None:
        self.check_still_wanted()
        self._save(record)

    def _save(self, record: JobRecord) -> None:
        from airflow_bitahub.operators.records import JOB_RECORD_KEY

        if self._context is not None:
            detached = not (self.wait_for_completion and self.cancel_on_kill)
            self._record = replace(record, detached=detached)
            keep(self._context, JOB_RECORD_KEY, self._record.to_json())


def mount(path: str, mount_path: str) -> Mount:
    """Give a folder of the platform's storage in the container."""
    from airflow_bitahub.api.jobs import Mount

    return Mount.of(path, mount_path)


def _listed(name: str, value: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"{name} must be a list, not {value!r}.")
    return list(value)


def explain(error: Any) -> str:
    """Give pydantic's complaint about arguments in one sentence."""
    problems = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
        for problem in error.errors()
    )
    return f"The platform could not accept these arguments, so nothing was sent: {problems}."
