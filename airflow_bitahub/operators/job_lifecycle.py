"""`JobLifecycle`: one job for a task instance, from its submission to the task's result."""

from __future__ import annotations

import time
from abc import abstractmethod
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_bitahub import metrics
from airflow_bitahub.exceptions import (
    BitaHubError,
    ConfigurationError,
    JobFailedError,
    JobLostError,
    JobQueueTimeoutError,
    JobStoppedError,
    JobTimeoutError,
    JobUnderpoweredError,
    StateUnknownError,
)
from airflow_bitahub.links import BitaHubJobLink
from airflow_bitahub.operators.base import KILL_BUDGET, task_url
from airflow_bitahub.operators.counting import CountedJob
from airflow_bitahub.operators.failures import job_error
from airflow_bitahub.operators.masking import digests_to_store, masked_secrets_in
from airflow_bitahub.operators.records import (
    JOB_FACTS,
    Submission,
    load_job_record,
    load_marker,
    number_in,
    push_facts,
    save_job_record,
    save_submission,
)
from airflow_bitahub.triggers.events import earliest_report, is_about, job_subject, log_late_start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.jobs import JobSpec
    from airflow_bitahub.exceptions import ServingTimeoutError
    from airflow_bitahub.identity import JobRecord, TaskIdentity
    from airflow_bitahub.operators.job_log import TaskLog
    from airflow_bitahub.triggers.events import JobEvent


class JobLifecycle(CountedJob):
    """Submits one job or finds it again, waits for it, and stops it where its task ends first.

    What the job is, and the meaning of the attributes, is defined in `BitaHubJobOperator`. This class has no
    constructor, see `BitaHubOperator`.
    """

    project: str
    job_name: str | None
    output_version: str | None
    extra_body: Mapping[str, Any] | None
    wait_for_completion: bool
    poll_interval: Any  # seconds, once the arguments have been read; likewise the other limits of time
    deferrable: bool
    defer_after: Any
    queue_timeout: Any
    unreachable_timeout: Any
    log_interval: Any
    cancel_on_kill: bool
    resubmit_stopped: bool

    _last_seen: Job | None = None
    _sent: JobSpec | None = None
    _task_log: TaskLog | None = None

    @abstractmethod
    def output_root(self) -> str:
        """Return the server path under which every attempt gets its own output folder."""

    @abstractmethod
    def spec(self, record: JobRecord) -> JobSpec:
        """Return the submission. Raises ConfigurationError for arguments that the platform could not accept."""

    @abstractmethod
    def prepare(self, record: JobRecord) -> JobRecord:
        """Make ready what a new job needs, and return its record. Raises a BitaHubError where it cannot run."""

    @abstractmethod
    def result(self, job: Job, record: JobRecord) -> Any:
        """Return the XCom result for a job that succeeded."""

    # What Airflow calls ----------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Submit the job or find it again, wait for it, and return its result."""
        from airflow_bitahub.operators.job_log import TaskLog
        from airflow_bitahub.procedures.jobs import wait_for_job
        from airflow_bitahub.procedures.pace import FIRST_LOOKS
        from airflow_bitahub.procedures.submission import ensure_job

        with self.settling(context):
            self.read_arguments()
            earlier = self._record
            job, record = self.hook.run(
                ensure_job(
                    self._identity(context),
                    self._record,
                    spec_for=self._spec_to_send,
                    save=self._save_unless_abandoned,
                    prepare=self.prepare,
                    on_end=self.count_end,
                    resubmit_stopped=self.resubmit_stopped,
                    extra_body=self.extra_body,
                    unreachable_timeout=self.unreachable_timeout,
                    first_look=min(FIRST_LOOKS[0], self.poll_interval) if self.wait_for_completion else 0,
                )
            )
            context["ti"].xcom_push(key=BitaHubJobLink().xcom_key, value=self.hook.job_url(job.name))
            self._log_change(job)
            is_new = earlier is None or earlier.job_name != job.name
            if earlier is not None and earlier.confirmed and not is_new:
                metrics.count(metrics.JOB_ADOPTED, self.metric_tags)
            if not self.wait_for_completion:
                return self.result(job, record)
            waits_since = time.monotonic()
            waiting = wait_for_job(
                job.name,
                poll_interval=self.poll_interval,
                known=job,
                is_new=is_new,
                defer_after=self.defer_after if self.deferrable else None,
                queue_deadline=self._queue_deadline(),  # Airflow itself enforces execution_timeout on a worker
                unreachable_timeout=self.unreachable_timeout,
                on_change=self._log_change,
            )
            self._task_log = TaskLog(context, self.log, job.name, self.log_interval)
            job = self.hook.run(self._task_log.follow(waiting))
            if not job.status.is_terminal:
                self._defer(context, job, time.monotonic() - waits_since)
            return self._conclude(job, record)

    def execute_complete(self, context: Context, event: JobEvent | None = None) -> Any:
        """Continue after the deferral with what the trigger reports."""
        with self.settling(context):
            record = self._record
            if record is None or not event:
                raise ConfigurationError("The task was resumed without its job's record or the trigger's report.")
            if is_about(event, job_subject(record.job_name)):
                log_late_start(event, self.log)
                return self._complete(context, event, record)
        self.log.warning("Ignoring a trigger's report about %s: this task waits for another", event.get("subject"))
        return self.execute(context)

    def on_kill(self) -> None:
        """Stop the job if the task was marked, cleared or deleted."""
        record = self._record
        if self._context is None or record is None or record.refused or not self.cancel_on_kill:
            return

        def stop() -> None:
            from airflow_bitahub.procedures.jobs import end_job

            with suppress(Exception):  # Airflow may accept nothing more from this task
                self._save(replace(record, stopped=True))
            # The submission itself may have been interrupted, and its job may appear later.
            ending = end_job(record.job_name, wait=False, may_appear=not record.confirmed, timeout=KILL_BUDGET)
            job = self.hook.new_client().run(ending)
            self.count_stop(job, record)

        self.stop_if_abandoned(self._context, stop)

    # Settling and stopping, see the base class -----------------------------------------------------------------

    @property
    def subject(self) -> str:
        """The job in words."""
        return f"job {self._record.job_name!r}" if self._record else "job"

    def restore(self, context: Context) -> None:
        """Load the job's record."""
        self._record = load_job_record(context)

    def has_ended(self, error: Exception) -> bool:
        """Return whether an error says that the job has ended."""
        return isinstance(error, JobFailedError | JobUnderpoweredError | JobStoppedError | JobLostError)

    def timeout_error(self, problem: str | None = None) -> JobTimeoutError:
        """Return the error for a time limit that has passed."""
        last_seen = f" When last seen, {self._last_seen}." if self._last_seen else ""
        name = self._record.job_name if self._record else ""
        return JobTimeoutError(f"The {self.subject} {problem or 'did not finish in time.'}{last_seen}", name)

    def limit_of(self, error: JobTimeoutError | ServingTimeoutError) -> str:
        """Return the name of the argument whose time limit an error is about."""
        return "queue_timeout" if isinstance(error, JobQueueTimeoutError) else "execution_timeout"

    def nothing_to_stop(self) -> str:
        """Return in words why there is no job to stop; "" where there is one."""
        record, seen = self._record, self._last_seen
        if record is None or record.refused:
            return "no job had been submitted"
        has_finished = seen is not None and seen.name == record.job_name and seen.status.is_terminal
        return f"the job is {seen.raw_state}" if seen and has_finished else ""

    def how_to_stop(self) -> str:
        """Return in words how a user finds and stops the job."""
        if self.job_name:
            return "Look for it on the platform. Clearing the task stops it and runs it again."
        return (
            "'airflow-bitahub jobs list' shows whether it is, and 'airflow-bitahub jobs reap' stops it. Clearing the "
            "task stops it, too, and runs it again."
        )

    def stop(self) -> str:
        """Stop the job, and return in words what became of it."""
        from airflow_bitahub.procedures.jobs import end_job

        if (record := self._record) is None:
            return self.nothing_to_stop()
        with suppress(Exception):  # a job that runs on costs more than a missing note
            self._save(replace(record, stopped=True))
        ending = end_job(record.job_name, may_appear=not record.confirmed, timeout=60)
        job = self.hook.new_client().run(ending)
        self.count_stop(job, record)
        if job is None:
            return "the platform no longer has the job"
        return "the job was stopped" if job.status.value == "STOPPED" else f"the job is {job.raw_state}"

    def result_if_finished(self) -> tuple[Any] | None:
        """Return the result, in a tuple, if the job has succeeded meanwhile; raise if it has failed; None otherwise."""
        from airflow_bitahub.api.jobs import get_job

        if self._record is None:
            return None
        try:
            job = self.hook.send(get_job(self._record.job_name))
        except BitaHubError:
            return None  # the caller has an error of its own to raise
        return (self._conclude(job, self._record),) if job.status.is_terminal else None

    # Steps -----------------------------------------------------------------------------------------------------

    def _identity(self, context: Context) -> TaskIdentity:
        from airflow_bitahub.identity import TaskIdentity

        ti, dag_run = context["ti"], context["dag_run"]
        date = dag_run.logical_date or dag_run.run_after
        return TaskIdentity(
            project=self.project,
            run_date=date.strftime("%Y%m%d"),
            marker=load_marker,
            output_root=self.output_root(),
            max_tries=ti.max_tries,
            try_number=ti.try_number,
            retries=self.retries or 0,
            clear_number=getattr(dag_run, "clear_number", 0) or 0,
            job_name=self.job_name,
            output_version=self.output_version,
            bundle_version=getattr(getattr(ti, "bundle_instance", None), "version", None) or "",
            url=task_url(context),
        )

    def _complete(self, context: Context, event: JobEvent, record: JobRecord) -> Any:
        """Return the result that a trigger's report leads to, defer the task again, or raise the report's error."""
        from airflow_bitahub.api.job_reading import Job

        message = event.get("message", "")
        match event.get("outcome"):
            case "finished":
                return self._conclude(Job.model_validate(event["job"]), record)
            case "timeout":
                if finished := self.result_if_finished():  # just in time
                    return finished[0]
                raise JobTimeoutError(message, record.job_name)
            case "queue_timeout":
                return self._complete_if_late(context, message, record)
            case "lost":
                raise JobLostError(message, record.job_name)
            case _:
                raise StateUnknownError(f"The state of job {record.job_name!r} is unknown: {message}")

    def _complete_if_late(self, context: Context, message: str, record: JobRecord) -> Any:
        """Raise if the job still waits for its turn at the queue's limit; otherwise return its result or wait for it.

        What the trigger knows may come from a list of jobs that is late, and the task may have resumed long after.
        """
        from airflow_bitahub.api.jobs import get_job
        from airflow_bitahub.procedures import retry
        from airflow_bitahub.procedures.jobs import lost_job
        from airflow_bitahub.procedures.pace import has_begun

        self.read_arguments()
        query, timeout = get_job(record.job_name), self.unreachable_timeout
        finding = retry.find(query, retry.CONFIRM_ABSENCE, time.time, is_known=True, timeout=timeout)
        try:
            job = self.hook.run(finding)
        except BitaHubError as error:
            raise StateUnknownError(f"{message} Whether it has started since then is unknown: {error}") from error
        if job is None:
            raise lost_job(record.job_name)
        if job.status.is_terminal:
            return self._conclude(job, record)
        if job.status.value == "WAITING" and not has_begun(job):
            raise JobQueueTimeoutError(message, record.job_name)
        self._log_change(job)
        self._defer(context, job, 0)
        return None

    def _defer(self, context: Context, job: Job, waited: float) -> None:
        from airflow_bitahub.procedures.pace import has_begun
        from airflow_bitahub.triggers.job import BitaHubJobTrigger

        # Airflow does not enforce execution_timeout while a task is deferred, and restarts it when the task resumes.
        timeout = self.execution_timeout
        deadline = self.deadline(None if timeout is None else timeout.total_seconds())
        if self._task_log is not None:
            self._task_log.keep()
        self.defer(
            trigger=BitaHubJobTrigger(
                bitahub_conn_id=self.bitahub_conn_id,
                job_name=job.name,
                poll_interval=self.poll_interval,
                deadline=deadline,
                # A list of jobs that is late may still show the trigger a job in the queue.
                queue_deadline=None if has_begun(job) else self._queue_deadline(),
                unreachable_timeout=self.unreachable_timeout,
                cancel_on_kill=self.cancel_on_kill,
                earliest_report=earliest_report(context["ti"].start_date, waited),
                log_interval=self.log_interval,
                log_masks=self._log_masks(),
            ),
            method_name="execute_complete",
            timeout=self.deferral_timeout(deadline),
        )

    def _log_masks(self) -> dict[str, Any]:
        """Return what lets the trigger mask the secrets that this task has given to its job."""
        from airflow_bitahub.secret_digests import digests_of

        return digests_of(self._given_secrets())

    def _given_secrets(self) -> set[str]:
        return masked_secrets_in(getattr(self, name, None) for name in self.template_fields)

    def _queue_deadline(self) -> float | None:
        return self.deadline(self.queue_timeout)

    def _log_change(self, job: Job) -> None:
        if self._last_seen is None or self._last_seen.raw_state != job.raw_state:
            self.log.info("The %s", job)
        self._last_seen = job

    def _conclude(self, job: Job, record: JobRecord) -> Any:
        """Return the result of a job that succeeded; raise the error for any other end."""
        self._last_seen = job
        self._push_facts(job, record)
        self.count_end(job, record)
        last_line = self._log_last_lines(job)
        if job.status.is_successful:
            return self.result(job, record)
        raise job_error(job, last_line, may_resubmit=record.stopped or self.resubmit_stopped)

    def _push_facts(self, job: Job, record: JobRecord) -> None:
        if self._context is not None:
            facts = {
                "job_name": job.name,
                "status": job.status.value,
                "queue_seconds": number_in(job.queue_seconds),
                "run_seconds": number_in(job.run_seconds),
                "accelerator": record.accelerator,
                "accelerators": record.accelerators,
                "output_path": record.output_path,
            }
            push_facts(self._context, JOB_FACTS, facts)

    def _log_last_lines(self, job: Job) -> str:
        """Log the last lines of a job that has ended, and return the very last; "" where there is none."""
        from airflow_bitahub.operators.job_log import TaskLog

        if self._task_log is None and self._context is not None:
            self.read_arguments("log_interval")
            self._task_log = TaskLog(self._context, self.log, job.name, self.log_interval)
            self._task_log.resume()
        if self._task_log is None:
            return ""
        self._task_log.conclude(self.hook)
        return self._task_log.last_line

    def _spec_to_send(self, record: JobRecord) -> JobSpec:
        self._sent = self.spec(record)
        return self._sent

    def _save_unless_abandoned(self, record: JobRecord) -> None:
        self.raise_if_abandoned()
        known = self._record
        is_new = known is None or known.job_name != record.job_name
        self._save(record)
        if record.confirmed and (is_new or known is None or not known.confirmed):
            metrics.count(metrics.JOB_SUBMITTED, self.metric_tags)
        if is_new and self._context is not None and self._sent is not None:
            submission = Submission(
                job_name=record.job_name,
                output_path=record.output_path,
                attempt=record.attempt,
                try_number=self._context["ti"].try_number,
                time=time.time(),
                body={**self._sent.body(), **(self.extra_body or {})},
                masks=digests_to_store(self._given_secrets()),
            )
            save_submission(self._context, submission)

    def _save(self, record: JobRecord) -> None:
        if self._context is not None:
            detached = not (self.wait_for_completion and self.cancel_on_kill)
            self._record = replace(record, detached=detached)
            save_job_record(self._context, self._record)
