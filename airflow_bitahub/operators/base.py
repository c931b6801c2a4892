"""What operators share: the hook; and stopping what they started when their task fails for good."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferralError, TaskDeferralTimeout

from airflow_bitahub.exceptions import BitaHubError, JobTimeoutError, ServingTimeoutError, StateUnknownError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.operators.arguments import CheckedArguments
from airflow_bitahub.operators.failures import airflow_error
from airflow_bitahub.operators.lineage import LineageOperator
from airflow_bitahub.operators.masking import hide_secrets
from airflow_bitahub.procedures import retry
from airflow_bitahub.triggers.events import TRIGGERER_MARGIN

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_bitahub.hooks.bitahub import BitaHubHook

# Seconds that `on_kill` may take: Airflow kills a task process 5 seconds after its SIGTERM.
KILL_BUDGET = 4.0
# Seconds for which a task that may be deferred waits on its worker first: the default of `defer_after`. A deferral
# takes about ten seconds itself, most of them for Airflow's scheduler to record it.
DEFER_AFTER = 20.0
LOG_INTERVAL = 30.0  # seconds between two looks at the log of a job: the default of `log_interval`


def task_url(context: Context) -> str:
    """Return the address of the task instance's page in Airflow, which shows its latest try."""
    return context["ti"].log_url.partition("?")[0]


class BitaHubOperator(BaseOperator, CheckedArguments, LineageOperator):
    """Talks to BitaHub through a connection, and tells OpenLineage what it reads and writes.

    It has no constructor: Airflow copies all of a DAG's params for every constructor among an operator's ancestors.
    """

    bitahub_conn_id: str = DEFAULT_CONN_ID

    @cached_property
    def hook(self) -> BitaHubHook:
        """The hook that this operator talks through."""
        from airflow_bitahub.hooks.bitahub import BitaHubHook

        return BitaHubHook(self.bitahub_conn_id)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Render the templates, and let Airflow mask the secrets in them before it stores what they became.

        Airflow calls this for a mapped task instance, too, unlike `render_template_fields`.
        """
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        for name, value in hide_secrets({name: getattr(parent, name) for name in template_fields}).items():
            setattr(parent, name, value)


class ResourceLifecycle(BitaHubOperator):
    """Starts a job or a serving, waits for it, and stops it when the task fails for good.

    It has no constructor, see `BitaHubOperator`.
    """

    cancel_on_kill: bool

    _context: Context | None = None
    _is_abandoned = False

    # What subclasses implement ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def subject(self) -> str:
        """The job or serving in words, such as ``job 'mnist-1'``."""

    @abstractmethod
    def restore(self, context: Context) -> None:
        """Load what this task stored before a deferral or in an earlier try."""

    @abstractmethod
    def nothing_to_stop(self) -> str:
        """Return in words why this task has nothing to stop; "" where it has started something."""

    @abstractmethod
    def stop(self) -> str:
        """Stop what this task started, and return in words what became of it."""

    @abstractmethod
    def timeout_error(self, problem: str | None = None) -> JobTimeoutError | ServingTimeoutError:
        """Return the error for a time limit that has passed.

        :param problem: what happened, such as ``was not watched: is a triggerer running?``; None: the job did not
            finish, or the serving was not ready, in time
        """

    @abstractmethod
    def limit_of(self, error: JobTimeoutError | ServingTimeoutError) -> str:
        """Return the name of the argument whose time limit an error is about."""

    @abstractmethod
    def how_to_stop(self) -> str:
        """Return in words how a user finds and stops what this task has left running."""

    def has_ended(self, error: Exception) -> bool:  # noqa: ARG002
        """Return whether an error means that nothing is left to stop."""
        return False

    def result_if_finished(self) -> tuple[Any] | None:
        """Return the task's result, as the one entry of a tuple, if its job has finished meanwhile; None otherwise."""
        return None

    # Settling --------------------------------------------------------------------------------------------------

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Render the templates. If one fails for good, stop what an earlier try started."""
        try:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        except Exception:
            with self.settling(context):
                raise

    @contextmanager
    def settling(self, context: Context) -> Iterator[None]:
        """Restore what was stored; stop what was started when the task fails for good; convert errors for Airflow.

        Where it is not known how the job or serving is, it is left alone: it may be fine.
        """
        self._context = context
        try:
            self.restore(context)
            self._look_up_connection()
            yield
        except StateUnknownError as error:
            raise self._left_alone(error) from None
        except AirflowTaskTimeout:
            raise self._timed_out(self.timeout_error(), "execution_timeout") from None
        except (JobTimeoutError, ServingTimeoutError) as error:
            raise self._timed_out(error, self.limit_of(error)) from None
        except KeyboardInterrupt:
            # Ctrl-C in `dag.test()`, after which Airflow fails the task without calling `on_kill`.
            if self.cancel_on_kill:
                self.stop_own("the task was interrupted")
            raise
        except Exception as error:
            if self.is_last_try(error) and not self.has_ended(error):
                self.stop_own("the task failed")
            if isinstance(error, BitaHubError):
                raise airflow_error(error) from None
            raise

    def is_last_try(self, error: Exception) -> bool:
        """Return whether no other try of the task follows after this error."""
        if isinstance(error, AirflowFailException) or retry.is_final(error) or self._context is None:
            return True
        ti = self._context["ti"]
        return bool(ti.try_number > ti.max_tries)

    def _look_up_connection(self) -> None:
        """Look the connection up before anything is sent. A failed look-up says nothing about the job or serving."""
        try:
            self.hook.settings  # noqa: B018  reads the connection
        except BitaHubError:
            raise
        except Exception as error:
            raise StateUnknownError(
                f"The Airflow connection {self.bitahub_conn_id!r} could not be looked up: {error}"
            ) from error

    def _left_alone(self, error: StateUnknownError) -> StateUnknownError:
        """Return the error with what became of the job or serving."""
        if self.nothing_to_stop():
            return error
        what_next = self.how_to_stop() if self.is_last_try(error) else "The next try queries it again."
        subject = self.subject[0].upper() + self.subject[1:]
        return StateUnknownError(f"{error} {subject} was left alone, and may be running. {what_next}")

    def _timed_out(self, error: JobTimeoutError | ServingTimeoutError, limit_name: str) -> BitaHubError:
        """Stop what was started, and return the error with the limit and with what became of the job or serving."""
        end = self.stop_own(f"{limit_name} has passed")
        limit = getattr(self, limit_name)
        if isinstance(limit, int | float):
            limit = timedelta(seconds=limit)
        message = f"{error.message} The limit is {limit_name}={limit} from the start of the try; {end}."
        return type(error)(message, error.args[1])

    # Deferral --------------------------------------------------------------------------------------------------

    def deadline(self, limit: float | None) -> float | None:
        """Return when a limit of so many seconds from the start of this try passes, in seconds since the epoch."""
        if limit is None or self._context is None:
            return None
        start: datetime = self._context["ti"].start_date
        return start.timestamp() + limit

    @staticmethod
    def deferral_timeout(deadline: float | None) -> timedelta | None:
        """Return the timeout of the deferral itself: a little after the trigger's deadline; None: no limit."""
        return None if deadline is None else timedelta(seconds=deadline - time.time()) + TRIGGERER_MARGIN

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume a deferred task, also where its trigger failed or Airflow itself ended the deferral."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            return self.on_deferral_failure(context, error)

    def on_deferral_failure(self, context: Context, error: TaskDeferralError | TaskDeferralTimeout) -> Any:
        """Return the result if the job finished anyway; otherwise raise the error for the failed or missing trigger."""
        with self.settling(context):
            if finished := self.result_if_finished():
                return finished[0]
            if isinstance(error, TaskDeferralTimeout):
                raise self.timeout_error("was not watched: is a triggerer running?") from error
            raise StateUnknownError(f"Watching {self.subject} failed: {error}") from error

    # Stopping --------------------------------------------------------------------------------------------------

    def stop_own(self, reason: str) -> str:
        """Stop what this task started, if anything, and return in words what became of it."""
        if nothing := self.nothing_to_stop():
            return nothing
        self.log.info("Stopping %s: %s", self.subject, reason)
        try:
            try:
                return self.stop()
            except AirflowTaskTimeout:  # Airflow's signal for execution_timeout may interrupt the stop, but only once
                return self.stop()
        except Exception as error:  # the error that the task fails with matters more
            self.log.error("%s", error)
            return "it could not be stopped"

    def stop_if_abandoned(self, context: Context, stop: Callable[[], object]) -> None:
        """Call `stop` if the task was marked, cleared or deleted, for use in `on_kill`.

        `on_kill` also runs when a worker is merely drained. Then the job or serving must go on, and the next try finds
        it. `on_kill` is a signal handler. The code that it interrupted may hold the lock of the channel to Airflow,
        which is never released while the handler waits for it; hence the thread with a time limit.
        """
        from airflow_bitahub.triggers.task_state import is_task_active

        def work() -> None:
            if is_task_active(context["ti"], when_reset=True):
                self.log.info("Not stopping %s: its task is still active", self.subject)
                return
            self._is_abandoned = True
            self.log.info("Stopping %s: its task was marked, cleared or deleted", self.subject)
            stop()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(KILL_BUDGET)

    def raise_if_abandoned(self) -> None:
        """Raise if `stop_if_abandoned` has found that the task was marked, cleared or deleted.

        Airflow lets the task run on for some seconds after `on_kill`. It must not start anything new in that time.
        """
        if self._is_abandoned:
            raise AirflowFailException("The task was marked, cleared or deleted, so it starts nothing new.")


class ServingLifecycle(ResourceLifecycle):
    """A `ResourceLifecycle` whose resource is a serving."""

    serving_name: str

    @property
    def subject(self) -> str:
        """The serving in words."""
        return f"serving {self.serving_name!r}"

    def timeout_error(self, problem: str | None = None) -> ServingTimeoutError:
        """Return the error for a time limit that has passed."""
        return ServingTimeoutError(f"The {self.subject} {problem or 'was not ready in time.'}", self.serving_name)
