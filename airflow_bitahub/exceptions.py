"""Every error this package raises.

    BitaHubError
      APIError                    the platform answered, and refused
        AuthenticationError       it does not know who asks
        PermissionDeniedError*    it knows, and says no
        NotFoundError*            it has no such thing
        ConflictError*            it already has one of that name
        InvalidRequestError*      it cannot accept what was sent
        RateLimitError            it was asked too often
        ServerError               it failed itself
      TransportError              no usable answer
        ConnectFailedError        the request never reached it
        RequestTimeoutError       it did not answer in time
        UnexpectedResponseError   something answered, but not the platform's API
      JobError                    the platform did its part, the job did not
        JobFailedError            its program failed
          JobEvictedError         the platform took its place away
        JobUnderpoweredError*     the account cannot pay for it
        JobStoppedError*          somebody stopped it
        JobTimeoutError           it was not over in time
          JobQueueTimeoutError    it did not begin in time
        JobAliveError             it could not be stopped
        JobLostError*             the platform no longer knows it
        JobRefusedError*          the name belongs to somebody else's job
      ServingError                likewise for a serving
        ServingFailedError        it will not run
        ServingTimeoutError       it was not ready in time
        ServingRefusedError*      the name belongs to a serving that must not be touched
        InvokeError               the served program refused, or answered wrongly
      StorageError                a file that should be there is not, or cannot be read
      ConfigurationError*         the Airflow connection or an argument is incomplete or wrong
        MissingExtraError*        packages of an extra are not installed

After those with a star a task fails at once, without using up its retries: trying again gives the same answer, or does
what somebody did not want. Before the others have that effect, trouble that may pass (`TransportError`, `ServerError`,
`RateLimitError`, and `AuthenticationError` where signing in has worked before) is ridden out while a job is waited for.

Arguments are positional, so that every error survives pickling.
"""

from __future__ import annotations

from typing import ClassVar


class BitaHubError(Exception):
    """Root of all errors of this package. Its text says what was attempted, what came back and what to do.

    `is_final`: trying again gives the same answer, or does what somebody did not want.
    """

    is_final: ClassVar[bool] = False


class APIError(BitaHubError):
    """The platform answered, and refused.

    :param status: the HTTP status of the answer
    :param code: the platform's own code, or None
    :param message: the whole sentence for the user
    :param request: what was asked, such as ``GET /lapis/...``
    :param retry_after: seconds the platform asked to wait before the next try, or None
    """

    def __init__(
        self, status: int, code: str | None, message: str, request: str, retry_after: float | None = None
    ) -> None:
        super().__init__(status, code, message, request, retry_after)
        self.status = status
        self.code = code
        self.message = message
        self.request = request
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


class AuthenticationError(APIError):
    """The platform does not know who asks."""


class PermissionDeniedError(APIError):
    """The platform knows who asks, and says no."""

    is_final = True


class NotFoundError(APIError):
    """The platform itself says that it has no such thing."""

    is_final = True


class ConflictError(APIError):
    """The platform already has something of that name."""

    is_final = True


class InvalidRequestError(APIError):
    """The platform cannot accept what was sent."""

    is_final = True


class RateLimitError(APIError):
    """The platform was asked too often."""


class ServerError(APIError):
    """The platform failed while answering."""


class TransportError(BitaHubError):
    """No usable answer; whether the request took effect is unknown."""


class ConnectFailedError(TransportError):
    """No connection could be made, so the request had no effect."""


class RequestTimeoutError(TransportError):
    """The platform did not answer in time; whether the request took effect is unknown."""


class UnexpectedResponseError(TransportError):
    """Something answered, but not in any form the platform's API is known to use."""


class JobError(BitaHubError):
    """The platform did its part, the job did not.

    :param message: the whole sentence for the user
    :param job_name: the job's name
    """

    def __init__(self, message: str, job_name: str) -> None:
        super().__init__(message, job_name)
        self.message = message
        self.job_name = job_name

    def __str__(self) -> str:
        return self.message


class JobFailedError(JobError):
    """The job's program failed."""


class JobEvictedError(JobFailedError):
    """The platform took the job's place away, or lost its machine."""


class JobUnderpoweredError(JobError):
    """The account has not enough computing power left for the job."""

    is_final = True


class JobStoppedError(JobError):
    """Somebody stopped the job."""

    is_final = True


class JobTimeoutError(JobError):
    """The job was not over in time."""


class JobQueueTimeoutError(JobTimeoutError):
    """The job did not begin in time."""


class JobAliveError(JobError):
    """The job could not be stopped."""


class JobLostError(JobError):
    """The platform had the job and no longer knows it."""

    is_final = True


class JobRefusedError(JobError):
    """A job of this name exists and this task did not submit it."""

    is_final = True


class ServingError(BitaHubError):
    """The platform did its part, the serving did not.

    :param message: the whole sentence for the user
    :param serving_name: the serving's name
    """

    def __init__(self, message: str, serving_name: str) -> None:
        super().__init__(message, serving_name)
        self.message = message
        self.serving_name = serving_name

    def __str__(self) -> str:
        return self.message


class ServingFailedError(ServingError):
    """The serving will not run."""


class ServingTimeoutError(ServingError):
    """The serving was not ready in time."""


class ServingRefusedError(ServingError):
    """A serving of this name exists and must not be touched."""

    is_final = True


class InvokeError(ServingError):
    """The served program refused the request, or its answer was not the expected one."""


class StorageError(BitaHubError):
    """A file that should be there is not, or cannot be read."""


class ConfigurationError(BitaHubError):
    """The Airflow connection or an operator's argument is incomplete or wrong."""

    is_final = True


class MissingExtraError(ConfigurationError, ImportError):
    """Packages of an extra are not installed. The text says which ones, and how to install them."""
