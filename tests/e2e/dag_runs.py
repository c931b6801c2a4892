"""The DAG runs that tests only wait for. All are started at once, before the first test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_bitahub.demo.airflow import LocalAirflow

LIFECYCLE = "mnist_lifecycle"
_BACKFILLED_DAYS = 3


@dataclass(frozen=True)
class Manual:
    """One run of a DAG, triggered by hand."""

    dag_id: str
    conf: Mapping[str, Any] = field(default_factory=dict)

    def start(self, airflow: LocalAirflow) -> str:
        """Start the run and return its id."""
        return airflow.trigger(self.dag_id, self.conf)


@dataclass(frozen=True)
class Backfill:
    """One run for each of the last days, today included; all of them side by side."""

    dag_id: str
    conf: Mapping[str, Any]

    def start(self, airflow: LocalAirflow) -> str:
        """Start the backfill and return its id."""
        today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
        body = {
            "dag_id": self.dag_id,
            "from_date": (today - timedelta(days=_BACKFILLED_DAYS - 1)).isoformat(),
            "to_date": today.isoformat(),
            "max_active_runs": _BACKFILLED_DAYS,
            "dag_run_conf": self.conf,
        }
        return str(airflow.call("POST", "/backfills", body)["id"])


# In the order in which they are started: the longest first.
DAG_RUNS: dict[str, Manual | Backfill] = {
    "backfill": Backfill(LIFECYCLE, {"epochs": 1, "threshold": 0.5, "serving_name": "backfilled"}),
    "gate opens": Manual(LIFECYCLE, {"serving_name": "opened"}),
    "gate closes": Manual(LIFECYCLE, {"threshold": 1, "epochs": 1, "serving_name": "closed"}),
    "gates": Manual("gates"),
    "endings": Manual("endings"),
    "marked": Manual("both_ways"),
    "reaped": Manual("both_ways"),
    "searched for secrets": Manual("both_ways"),
}
