"""The task instances of a round, and what is known of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from airflow_bitahub.identity import slug

DAG = "chaos"
# The tasks of each run whose job never ends by itself.
ENDLESS = ("we", "de", "wl", "dl")
# The tasks that deploy a serving instead of submitting a job.
DEPLOYING = ("ws", "ds")
OVER = ("success", "failed", "skipped")
NAMES = (*(f"{way}{number}" for way in "wd" for number in "123f"), *ENDLESS, *DEPLOYING)
MAPPED = (("wm", 2), ("dm", 3), ("wv", 3), ("dv", 3), ("wb", 2), ("db", 2))
# The mapped tasks that deploy a version of a serving that other runs deploy, too: good versions, and bad ones.
SHARED, SPOILING = ("wv", "dv"), ("wb", "db")
_JOB_NAME = re.compile(r"(?P<owner>.+)-\d{8}-(?P<token>[a-z2-7]{12})-(?P<attempt>\d+)")


class Task(NamedTuple):
    """A task instance."""

    run: str
    name: str
    map_index: int = -1

    @property
    def owner(self) -> str:
        """The beginning of the names of its jobs."""
        return slug(f"{self.run}-{self.name}-{self.map_index}")

    def __str__(self) -> str:
        return f"{self.run}.{self.name}" + (f"[{self.map_index}]" if self.map_index >= 0 else "")

    @property
    def is_endless(self) -> bool:
        """Whether its job does not end by itself."""
        return self.name in ENDLESS

    @property
    def submits(self) -> bool:
        """Whether it submits jobs."""
        return self.name not in (*DEPLOYING, *SHARED, *SPOILING)

    @property
    def is_bad(self) -> bool:
        """Whether the version that it deploys does not work."""
        return self.name in SPOILING

    @property
    def serving(self) -> str:
        """The name of its serving; "" where it submits a job."""
        return f"{self.run}-{self.name}" if self.name in DEPLOYING else ""


def tasks_of(run: str) -> list[Task]:
    """Return every task instance of a run, in a fixed order."""
    plain = [Task(run, name) for name in NAMES]
    return plain + [Task(run, name, index) for name, size in MAPPED for index in range(size)]


@dataclass(frozen=True)
class Job:
    """A job of the emulator's ledger. Times are seconds since the epoch; 0 means not yet."""

    name: str
    owner: str
    token: str
    attempt: int
    state: str
    created: float
    ended: float
    requests: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Job:
        """Read an entry of the ledger."""
        match = _JOB_NAME.fullmatch(entry["name"])
        assert match, f"{entry['name']!r} is not a name that this package makes"
        return cls(
            entry["name"],
            match["owner"],
            match["token"],
            int(match["attempt"]),
            entry["state"],
            entry["createdTime"] / 1000,
            entry["stopedTime"] / 1000,
            tuple(entry["requests"]),
        )

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.ended == 0

    def looks(self, since: float) -> int:
        """Return how many queries about it arrived since then; 0 if it does not run."""
        asked = [request for request in self.requests if request["method"] == "GET" and request["time"] / 1000 > since]
        return len(asked) if self.state == "RUNNING" else 0

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether it was stopped through the platform's API."""
        return any(asked["method"] == "DELETE" and asked["reached"] for asked in self.requests)
