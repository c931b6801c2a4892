"""Every error this package raises.

    BitaHubError
      APIError                    the platform answered, and refused the request
        AuthenticationError       it does not know the user
          SignInRefusedError      it refuses to sign the user in
        PermissionDeniedError*    it knows the user and denies the request
        NotFoundError*            it has no such job, serving or file
        ConflictError*            it already has one of that name
        InvalidRequestError*      it cannot accept what was sent
        RateLimitError            it received too many requests
        ServerError               it failed itself
      TransportError              no usable answer
        ConnectFailedError        the request never reached it
        RequestTimeoutError       it did not answer in time
        UnexpectedResponseError   something answered, but not the platform's API
        StateUnknownError         queries failed for too long, so the state of a job or serving is unknown
      JobError                    the platform worked; the job failed or was stopped
        JobFailedError            its program failed
          JobEvictedError         the platform evicted it
        JobUnderpoweredError*     the account has too little computing power
        JobStoppedError*          someone stopped it
        JobTimeoutError           it did not finish in time
          JobQueueTimeoutError    it did not start in time
        JobAliveError             it could not be stopped
        JobLostError*             the platform had it and no longer has it
        JobRefusedError*          the name belongs to a job of someone else
      ServingError                the platform worked; the serving did not
        ServingFailedError        it will not run
        ServingTimeoutError       it was not ready in time
        ServingAliveError         it could not be removed
        ServingOvertakenError     another task deploys the same serving
        ServingOutdatedError*     a newer DAG run has deployed it already
        ServingRefusedError*      the name belongs to a serving that must not be touched
        ServingCheckError*        it failed a check of its author
        InvokeError               the served program refused the request, or gave a wrong answer
          ServingUnavailableError no program listens yet, or it says that it cannot answer now
      StorageError                a file is missing, or cannot be read or written
        FileNotReadyError         it is missing or incomplete, and may only be late
      ConfigurationError*         the Airflow connection or an argument is incomplete or wrong
        MissingExtraError*        packages of an extra are not installed

An error with a star is final: the task fails immediately, without using up its retries, since another try would get the
same answer or undo someone's decision. An `APIError` is final only where the platform itself refuses a submission. A
query that fails says nothing about the job or serving: all failures of queries are tolerated for a while. See
`procedures.retry`.

The constructors take positional arguments, so that every error survives pickling. Long texts are shortened.
"""

from __future__ import annotations

from typing import Any, ClassVar

from airflow_bitahub.texts import MESSAGE_LIMIT, shorten


class BitaHubError(Exception):
    """The base of all errors of this package. The text says what was attempted, what came back and what to do.

    `is_final`: another try would get the same answer, or undo someone's decision. Ask `retry.is_final`, which also
    considers who refused what.
    """

    is_final: ClassVar[bool] = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*(shorten(each, MESSAGE_LIMIT) if isinstance(each, str) else each for each in args))


class APIError(BitaHubError):
    """The platform answered, and refused the request.

    :param status: the HTTP status of the answer
    :param code: the platform's own code; None: the answer had no envelope, so it came from the gateway
    :param message: the whole text for the user
    :param request: the operation that was requested, such as ``get_job``
    :param retry_after: seconds the platform asked to wait before the next try, or None
    """

    def __init__(
        self, status: int, code: str | None, message: str, request: str, retry_after: float | None = None
    ) -> None:
        super().__init__(status, code, message, request, retry_after)
        self.status = status
        self.code = code
        self.message: str = self.args[2]
        self.request = request
        self.retry_after = retry_after

    @property
    def is_from_platform(self) -> bool:
        """Whether the platform itself answered, in its envelope, and not the gateway in front of it."""
        return self.code is not None

    def __str__(self) -> str:
        return self.message


class AuthenticationError(APIError):
    """The platform does not know the user."""


class SignInRefusedError(AuthenticationError):
    """The platform refuses to sign the user in, or nothing was sent because it did so before.

    :param subject: what it refuses: ``password`` (or the user's name), ``client`` (this program's id or secret) or
        ``account`` (locked after too many wrong passwords)
    """

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        request: str,
        retry_after: float | None = None,
        subject: str = "password",
    ) -> None:
        super().__init__(status, code, message, request, retry_after)
        self.args = (*self.args, subject)
        self.subject = subject


class PermissionDeniedError(APIError):
    """The platform knows the user and denies the request."""

    is_final = True


class NotFoundError(APIError):
    """The platform itself answers that it has no such job, serving or file."""

    is_final = True


class ConflictError(APIError):
    """The platform already has something of that name."""

    is_final = True


class InvalidRequestError(APIError):
    """The platform cannot accept what was sent."""

    is_final = True


class RateLimitError(APIError):
    """The platform received too many requests."""


class ServerError(APIError):
    """The platform failed while answering."""


class TransportError(BitaHubError):
    """No usable answer came back; whether the request took effect is unknown."""


class ConnectFailedError(TransportError):
    """No connection could be made, so the request had no effect.

    :param message: the whole text for the user
    :param reason: why, in a word of `transport_errors`; ``sign-in``: the sign-in before it failed;
        ``sign-in-denied``: it was answered with an error that says nothing about the password; "": not known
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class RequestTimeoutError(TransportError):
    """The platform did not answer in time; whether the request took effect is unknown."""


class UnexpectedResponseError(TransportError):
    """Something answered, but in no known form of the platform's API.

    :param message: the whole text for the user
    :param status: the HTTP status of the answer; 0: not known
    :param said: the beginning of the answer, or where it redirects to
    """

    def __init__(self, message: str, status: int = 0, said: str = "") -> None:
        super().__init__(message, status, said)
        self.status = status
        self.said: str = self.args[2]

    def __str__(self) -> str:
        return str(self.args[0])


class StateUnknownError(TransportError):
    """Queries failed for too long, so the state of a job or serving is unknown. Nothing is stopped because of it."""


class JobError(BitaHubError):
    """The platform worked; the job failed or was stopped.

    :param message: the whole text for the user
    :param job_name: the job's name
    """

    def __init__(self, message: str, job_name: str) -> None:
        super().__init__(message, job_name)
        self.message: str = self.args[0]
        self.job_name = job_name

    def __str__(self) -> str:
        return self.message


class JobFailedError(JobError):
    """The job's program failed."""


class JobEvictedError(JobFailedError):
    """The platform evicted the job, or lost its machine."""


class JobUnderpoweredError(JobError):
    """The account has too little computing power left for the job."""

    is_final = True


class JobStoppedError(JobError):
    """Someone stopped the job."""

    is_final = True


class JobTimeoutError(JobError):
    """The job did not finish in time."""


class JobQueueTimeoutError(JobTimeoutError):
    """The job did not start in time."""


class JobAliveError(JobError):
    """The job could not be stopped."""


class JobLostError(JobError):
    """The platform had the job and no longer has it."""

    is_final = True


class JobRefusedError(JobError):
    """A job of this name exists and this task did not submit it."""

    is_final = True


class ServingError(BitaHubError):
    """The platform worked; the serving did not.

    :param message: the whole text for the user
    :param serving_name: the serving's name
    """

    def __init__(self, message: str, serving_name: str) -> None:
        super().__init__(message, serving_name)
        self.message: str = self.args[0]
        self.serving_name = serving_name

    def __str__(self) -> str:
        return self.message


class ServingFailedError(ServingError):
    """The serving will not run."""


class ServingTimeoutError(ServingError):
    """The serving was not ready in time."""


class ServingAliveError(ServingError):
    """The serving could not be removed."""


class ServingOvertakenError(ServingError):
    """Another task has taken over the deployment of the serving."""


class ServingOutdatedError(ServingError):
    """A newer DAG run has deployed the serving already."""

    is_final = True


class ServingRefusedError(ServingError):
    """A serving of this name exists and must not be touched."""

    is_final = True


class ServingCheckError(ServingError):
    """The serving failed a check of its author: it gave a wrong answer, came too late, or did not answer."""

    is_final = True


class InvokeError(ServingError):
    """The served program refused the request, or gave another answer than expected."""


class ServingUnavailableError(InvokeError):
    """No program listens behind the gateway, or it says that it cannot answer now. This may pass by itself."""


class StorageError(BitaHubError):
    """A file is missing, or cannot be read or written."""


class FileNotReadyError(StorageError):
    """A file is missing or incomplete. What a job has written may only be late, see `procedures.results`."""


class ConfigurationError(BitaHubError):
    """The Airflow connection or an operator's argument is incomplete or wrong."""

    is_final = True


class MissingExtraError(ConfigurationError, ImportError):
    """Packages of an extra are not installed. The text says which ones, and how to install them."""
