"""What an answer may decide: what is temporary, for how long it is tolerated, and what a request may have done.

Nothing else in the package answers these three questions:

- Did a request take effect? See `may_have_taken_effect`. The platform's own refusal, in its envelope, says no; an
  answer that did not come from the platform, or that cannot be read, says nothing.
- What does a query say about a job or serving? See `is_query_failure`. Only the platform's own record says anything.
- Is it the author's mistake, so that another try is useless? See `is_final`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from airflow_bitahub.api.protocol import QUERIES, SUBMISSIONS, Call, Procedure, Sleep
from airflow_bitahub.exceptions import (
    APIError,
    AuthenticationError,
    BitaHubError,
    ConfigurationError,
    ConnectFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    ServingUnavailableError,
    StateUnknownError,
    TransportError,
    UnexpectedResponseError,
)

T = TypeVar("T")

# Seconds for which a new job or serving may stay invisible (assumed: creations go through a queue and a database).
GRACE_PERIOD = 30.0
# Seconds after which a second "not found" about something on record is believed.
CONFIRM_ABSENCE = 5.0
# Seconds for which the files and the log of a finished job may stay invisible: a network file system caches a folder
# for up to a minute, and a log goes through a collector. And seconds between two looks at them.
RESULT_GRACE_PERIOD, RESULT_PAUSE = 60.0, 2.0
# Seconds for which the platform may be unreachable while a job or serving is waited for.
UNREACHABLE_TIMEOUT = 900.0
# Seconds between two requests at most, also where ``Retry-After`` asks for more.
LONGEST_PAUSE = 60.0
# Seconds to send nothing after a rate limit without ``Retry-After`` (client: about so long after code 20003).
RATE_LIMIT_PAUSE = 20.0
# How often one submission is sent at most, where its outcome is unknown.
SUBMISSION_ATTEMPTS = 3

TRANSIENT_ERRORS = (TransportError, ServerError, RateLimitError)


def is_transient(error: object) -> bool:
    """Return whether a failure is temporary."""
    return isinstance(error, TRANSIENT_ERRORS)


def concerns_one_query(error: object) -> bool:
    """Return whether a query is worth repeating alone. After a rate limit, all queries have to pause instead."""
    return is_transient(error) and not isinstance(error, RateLimitError)


def may_still_start(error: BitaHubError) -> bool:
    """Return whether a served program may answer when it is asked again, since it may not have started completely."""
    is_answer = isinstance(error, UnexpectedResponseError)
    return isinstance(error, TransportError | ServingUnavailableError) and not is_answer


# Did a request take effect? ---------------------------------------------------------------------------------------


def was_refused(error: BitaHubError) -> bool:
    """Return whether the platform itself, in its envelope, refused a request, so that it had no effect.

    An unknown code is no refusal: the document does not show how a successful submission is answered.
    """
    if not isinstance(error, APIError) or isinstance(error, ServerError) or type(error) is APIError:
        return False
    return error.is_from_platform


def may_have_taken_effect(error: BitaHubError) -> bool:
    """Return whether the platform may have acted on a request although this is the answer.

    No server acts for a user it does not know. So a 401 means that it has not, also from a gateway.
    """
    return not (was_refused(error) or isinstance(error, AuthenticationError | ConnectFailedError | ConfigurationError))


def had_no_effect(error: BitaHubError) -> bool:
    """Return whether a request certainly had no effect and may have one when it is sent again."""
    return isinstance(error, ConnectFailedError) or (isinstance(error, RateLimitError) and was_refused(error))


def is_worth_resending(error: BitaHubError) -> bool:
    """Return whether the same submission may succeed when it is sent again in the same try."""
    return not (was_refused(error) or isinstance(error, AuthenticationError))


def grace_after(error: BitaHubError) -> float:
    """Return for how many seconds to search for the result of a failed submission before it is sent again."""
    if not may_have_taken_effect(error):
        return 0
    return max(GRACE_PERIOD, min(getattr(error, "retry_after", None) or 0, LONGEST_PAUSE))


def leaves_outcome_open(error: BitaHubError) -> bool:
    """Return whether a stop or removal may still work out, or have worked, so that a query must show it.

    Not where the platform itself refuses the user, unless it only refused a query sent before or after the stop.
    """
    if isinstance(error, AuthenticationError | PermissionDeniedError) and was_refused(error):
        return error.request in QUERIES
    return not isinstance(error, ConfigurationError)


# What does a query say about a job or serving? --------------------------------------------------------------------


def is_query_failure(error: BitaHubError, *, seen_before: bool) -> bool:
    """Return whether an answer to a query says nothing about the job or serving, so that it is tolerated for a while.

    :param seen_before: it is known to exist: an earlier query succeeded, or its record is confirmed. Then only what we
        ourselves found wrong before sending is no such answer. Otherwise the platform may also refuse the query, for
        example because the token or the name is wrong
    """
    if isinstance(error, ConfigurationError):
        return False
    if seen_before or is_transient(error) or isinstance(error, NotFoundError):
        return True
    # For a token that is wrong, many a gateway answers in the platform's place.
    return not (isinstance(error, AuthenticationError) or (isinstance(error, APIError) and error.is_from_platform))


# Is it the author's mistake? --------------------------------------------------------------------------------------


def is_final(error: BaseException) -> bool:
    """Return whether another try would get the same answer, or undo someone's decision.

    Of the answers of the platform, only its own refusal of a submission is final.
    """
    if not isinstance(error, BitaHubError) or not error.is_final:
        return False
    return not isinstance(error, APIError) or (was_refused(error) and error.request in SUBMISSIONS)


# Repeating, and tolerating ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Retry:
    """How often, and after which pauses, to repeat a call that is safe to repeat.

    :param attempts: the number of requests at most, the first included
    :param first_pause: seconds before the second request. The pause doubles each time, and is shortened at
        random by up to a half
    :param longest_pause: seconds between two requests at most, also where ``Retry-After`` asks for more
    """

    attempts: int = 5
    first_pause: float = 0.5
    longest_pause: float = LONGEST_PAUSE

    def pause_after(self, attempt: int) -> float:
        """Return the seconds between a failed attempt, counted from 1, and the next one."""
        return min(self.longest_pause, self.first_pause * 2.0 ** (attempt - 1))


# How a watcher repeats a failed query before the waiting task learns of the failure.
WATCHER_RETRY = Retry(attempts=3)


def rate_limit_pause(error: RateLimitError) -> float:
    """Return for how many seconds to send nothing after the platform has limited the rate of requests."""
    return RATE_LIMIT_PAUSE if error.retry_after is None else min(error.retry_after, LONGEST_PAUSE)


def retrying(call: Call[T], retry: Retry, jitter: Callable[[], float] = random.random) -> Procedure[T]:
    """Send a call, and repeat it after a transient failure where repeating is harmless."""
    attempt = 1
    while True:
        try:
            return (yield from call)
        except BitaHubError as error:
            is_harmless = had_no_effect(error) or (call.safe_to_repeat and is_transient(error))
            # A probe of a served program asks whether it answers, so no answer is a result and not a failure.
            is_in_vain = call.request.is_foreign or call.is_optional
            # Whoever denies a sign-in may count it as a wrong password.
            is_denied = getattr(error, "reason", "") == "sign-in-denied"
            if is_in_vain or is_denied or not is_harmless or attempt >= retry.attempts:
                raise
            pause = retry.pause_after(attempt) * (1 - jitter() / 2)
            retry_after = getattr(error, "retry_after", None)
            yield Sleep(pause if retry_after is None else min(retry_after, retry.longest_pause))
            attempt += 1


def find(
    query: Call[T],
    grace: float,
    clock: Callable[[], float],
    *,
    is_known: bool = False,
    may_exist: bool = True,
    timeout: float = UNREACHABLE_TIMEOUT,
) -> Procedure[T | None]:
    """Return what a query finds; None once the platform has answered "not found" for `grace` seconds.

    :param is_known: it is known to exist, see `Outage`
    :param may_exist: False: this task has not created it. There is nothing to lose, so that a refusal of the query ends
        the search at once, and any other failure after `GRACE_PERIOD`
    :param timeout: seconds for which queries may fail otherwise
    :raises StateUnknownError: queries failed for too long
    """
    outage = Outage(grace, timeout if may_exist else min(timeout, GRACE_PERIOD), is_known)
    while True:
        try:
            return (yield from query)
        except BitaHubError as error:
            if not is_query_failure(error, seen_before=may_exist):
                raise
            if outage.record_failure(error, clock()):
                if isinstance(error, NotFoundError):
                    return None
                if not may_exist:
                    raise
                raise StateUnknownError(
                    f"Could not {query.request.action} for {outage.seconds:.0f} s{outage}."
                ) from error
        yield Sleep(2)


@dataclass
class Outage:
    """How long queries have failed in a row, counted separately for "no answer" and for "not found".

    :param grace: seconds for which "not found" counts as a delay; None: always
    :param timeout: seconds for which the platform may be unreachable
    :param is_known: the job or serving is known to exist. Then all failures are tolerated for `timeout`; otherwise
        those which may mean that the token, an address or a name is wrong are only tolerated for `GRACE_PERIOD`, until
        the platform itself has answered
    """

    grace: float | None
    timeout: float = UNREACHABLE_TIMEOUT
    is_known: bool = False
    unanswered_since: float | None = None
    missing_since: float | None = None
    has_answered: bool = False  # the platform itself
    error: BitaHubError | None = None
    seconds: float = 0  # without an answer

    @classmethod
    def of_known(cls, timeout: float) -> Outage:
        """Return the outages of something on record that is to be ended within `timeout` seconds."""
        return cls(min(CONFIRM_ABSENCE, timeout), timeout, is_known=True)

    def record_success(self) -> None:
        """Record that a query succeeded."""
        self.is_known = True
        self.unanswered_since = self.missing_since = self.error = None

    def record_failure(self, error: BitaHubError, now: float) -> bool:
        """Record a failed query, and return whether queries have failed for too long."""
        self.error = error
        if isinstance(error, NotFoundError):
            self.has_answered = True
            self.unanswered_since = None
            self.missing_since = now if self.missing_since is None else self.missing_since
            return self.grace is not None and now - self.missing_since >= self.grace
        self.unanswered_since = now if self.unanswered_since is None else self.unanswered_since
        if self.grace is not None and now - self.unanswered_since >= self.grace:
            self.missing_since = None  # after so long without an answer, the next "not found" starts its own period
        self.seconds = now - self.unanswered_since
        # At a wrong address, something else may answer.
        may_be_a_mistake = isinstance(error, UnexpectedResponseError) or not is_transient(error)
        is_patient = self.is_known or self.has_answered or not may_be_a_mistake
        return self.seconds >= (self.timeout if is_patient else min(self.timeout, GRACE_PERIOD))

    def __str__(self) -> str:
        return f" (the last answer: {self.error})" if self.error else ""


def sleep_seconds(pause: float, now: float, *limits: float | None) -> float:
    """Return how long to sleep: `pause` seconds, or less where one of the limits (in clock time) comes first."""
    return min([pause, *(limit - now for limit in limits if limit is not None and limit > now)])
