"""What a waiting task's log says: every change of state once, trouble once, and a sign of life now and then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.servings import Serving
    from airflow_bitahub.exceptions import BitaHubError

SIGN_OF_LIFE = 3600.0  # seconds


class Journal:
    """Logs what a trigger hears of its job or serving. Whoever hears something most often hears nothing new.

    :param log: the trigger's, which leads to the task's own log where it is used in the context of the trigger
    :param subject: what is waited for, in words
    :param clock: seconds since any moment
    """

    __slots__ = ("_clock", "_in_trouble", "_log", "_said_at", "_since", "_subject", "_word")

    def __init__(self, log: Any, subject: str, clock: Callable[[], float]) -> None:
        self._log = log
        self._subject = subject
        self._clock = clock
        self._word: str | None = None
        self._since = self._said_at = clock()
        self._in_trouble = False

    def heard(self, told: Job | Serving) -> None:
        """Take note of what the platform has told."""
        now = self._clock()
        if self._in_trouble:
            self._in_trouble = False
            self._log.info("The %s is known again", self._subject)
        if told.raw_state != self._word:
            before = "" if self._word is None else f", after {_span(now - self._since)} of {self._word}"
            self._log.info("The %s%s", told, before)
            self._word, self._since, self._said_at = told.raw_state, now, now
        elif now - self._said_at >= SIGN_OF_LIFE:
            self._log.info("The %s, for %s now", told, _span(now - self._since))
            self._said_at = now

    def failed(self, error: BitaHubError) -> None:
        """Take note that the platform could not be asked, or knew nothing. That says nothing about the job."""
        if not self._in_trouble:
            self._in_trouble = True
            self._log.warning("Nothing is known of the %s, which is asked for again: %s", self._subject, error)


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
