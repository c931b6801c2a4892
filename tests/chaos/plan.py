"""The plan of what goes wrong, and when. It is drawn before a round begins: the same seed gives the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass

# How often each kind is drawn, relative to the others.
WORKERS = {
    "kill -9 task process": 6,
    "kill -9 worker": 3,
    "SIGTERM worker": 3,
}
PARTS = {
    "kill -9 triggerer": 3,
    "SIGTERM triggerer": 2,
    "SIGSTOP triggerer": 2,
    "kill -9 scheduler": 2,
    "kill -9 scheduler and its workers": 1,
    "SIGTERM scheduler": 1,
    "kill -9 emulator": 3,
    "SIGTERM emulator": 1,
    "kill -9 api-server": 1,
}
MACHINE = "kill -9 all of Airflow"
PEOPLE = {
    "clear": 7,
    "mark failed": 3,
    "mark success": 3,
    "delete run": 1,
}
# The connection is deleted, and made again after a while: until then nobody can look it up.
CONNECTION = "connection missing"
# What a gateway may answer in place of the platform, whatever the request.
GATEWAY_STATUSES = (400, 401, 403, 408, 409, 421, 423, 425, 499)
PLATFORM = {
    "submission: answer lost": 3,
    "submission: refused connection": 1,
    "submission: 504 after it took effect": 2,
    "submission: 503": 1,
    "submission: 429": 1,
    "submission: truncated JSON": 2,
    "query: connection closed": 2,
    "query: 502": 2,
    "query: slow": 1,
    "query: unknown state": 2,
    "query: web page": 1,
    "record appears late": 2,
    "stop: answer lost": 2,
    "stop: 503": 2,
    "query: unknown code": 1,
    "submission: 408 after it took effect": 2,
    **{f"query: gateway {status}": 0.5 for status in GATEWAY_STATUSES},
    **{f"submission: gateway {status}": 0.3 for status in GATEWAY_STATUSES},
    **{f"stop: gateway {status}": 0.3 for status in GATEWAY_STATUSES},
    "serving query: gateway 403": 2,
    "serving query: 502": 1,
    "serving creation: answer lost": 1,
    "serving creation: 504 after it took effect": 1,
    "serving removal: answer lost": 1,
}
KINDS = {**WORKERS, **PARTS, MACHINE: 1, CONNECTION: 2, **PEOPLE, **PLATFORM}
_PAUSE = 1.3  # seconds between two strikes, on average


@dataclass(frozen=True)
class Strike:
    """One thing that goes wrong.

    :param at: seconds since the round began
    :param choice: chooses the victim among those there are then, from 0 to 1
    :param lasts: seconds until a killed part is started again, a frozen one continues, or the connection is back
    """

    at: float
    kind: str
    choice: float
    lasts: float


def draw_round(seed: int, number: int, size: int, pace: float = 1) -> list[Strike]:
    """Return the strikes of a round, ordered by time.

    :param pace: factor to the time between two
    """
    dice = random.Random(f"{seed}-{number}")
    strikes, at = [], 0.0
    for _ in range(size):
        at += pace * min(dice.expovariate(1 / _PAUSE), 4 * _PAUSE)
        [kind] = dice.choices(list(KINDS), weights=list(KINDS.values()))
        lasts = dice.uniform(12, 20) if kind == "SIGSTOP triggerer" else dice.uniform(0, 5)
        strikes.append(Strike(round(at, 2), kind, dice.random(), round(lasts, 1)))
    return strikes
