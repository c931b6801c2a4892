"""What a waiting task's log shows: each change of state, the begin and end of an outage, and one line every hour."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job
    from airflow_bitahub.api.servings import Serving
    from airflow_bitahub.exceptions import BitaHubError
    from airflow_bitahub.secret_digests import SecretMask

REMINDER = 3600.0  # seconds after which an unchanged state is logged again


class Journal:
    """Logs what the platform answers about one job or serving. Most answers are no news, and are not logged.

    :param log: the trigger's logger; used in the trigger's context, it writes to the task's own log
    :param description: the job or serving in words, such as ``job mnist-1``
    :param clock: returns the time in seconds, from any starting point
    :param mask: masks the task's secrets, which the platform may quote, and Airflow does not know in a triggerer
    """

    __slots__ = ("_clock", "_description", "_is_failing", "_log", "_logged_at", "_mask", "_raw_state", "_since")

    def __init__(self, log: Any, description: str, clock: Callable[[], float], mask: SecretMask) -> None:
        self._log = log
        self._description = description
        self._clock = clock
        self._mask = mask
        self._raw_state: str | None = None
        self._since = self._logged_at = clock()
        self._is_failing = False

    def answered(self, found: Job | Serving) -> None:
        """Record the platform's answer to a query."""
        now = self._clock()
        if self._is_failing:
            self._is_failing = False
            self._log.info("Queries of %s succeed again", self._description)
        if found.raw_state != self._raw_state:
            before = "" if self._raw_state is None else f", after {_duration(now - self._since)} of {self._raw_state}"
            self._log.info("The %s%s", self._hide(found), before)
            self._raw_state, self._since, self._logged_at = found.raw_state, now, now
        elif now - self._logged_at >= REMINDER:
            self._log.info("The %s, for %s now", self._hide(found), _duration(now - self._since))
            self._logged_at = now

    def failed(self, error: BitaHubError) -> None:
        """Record a failed query. It says nothing about the state of the job or serving."""
        if not self._is_failing:
            self._is_failing = True
            said = self._hide(error)
            self._log.warning("A query of %s failed, so its state is unknown for now: %s", self._description, said)

    def _hide(self, said: object) -> str:
        return self._mask.hide(str(said))


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
