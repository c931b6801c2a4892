"""The DAG runs that tests wait for. All are started before the first test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_bitahub.demo.airflow import AirflowError, LocalAirflow

LIFECYCLE, NIGHTLY_CHECK, ON_NEW_MODEL = "mnist_lifecycle", "nightly_check", "on_new_model"
SCRIPTED = "scripted_lifecycle"  # the same DAG, with jobs and a serving that are scripted instead of programs


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
    """One run for each of some days, all of them side by side."""

    dag_id: str
    first_day: datetime
    last_day: datetime
    conf: Mapping[str, Any] = field(default_factory=dict)

    def start(self, airflow: LocalAirflow, reprocess: str = "none") -> str:
        """Start the backfill and return its id.

        :param reprocess: which earlier runs of these days run again: ``none`` or ``completed`` ones
        """
        body = {
            "dag_id": self.dag_id,
            "from_date": self.first_day.isoformat(),
            "to_date": self.last_day.isoformat(),
            "max_active_runs": 3,
            "reprocess_behavior": reprocess,
            "dag_run_conf": self.conf,
        }
        try:
            return str(airflow.call("POST", "/backfills", body)["id"])
        except AirflowError as error:
            if "HTTP 409" not in str(error):
                raise
        # An attempt that failed since the database was locked left half a backfill.
        for half in airflow.call("GET", f"/backfills?dag_id={self.dag_id}")["backfills"]:
            if half["completed_at"] is None:
                airflow.call("PUT", f"/backfills/{half['id']}/cancel")
        return str(airflow.call("POST", "/backfills", body)["id"])


_TODAY = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
_ONE_DAY = datetime(2026, 1, 5, tzinfo=timezone.utc)

# Started before the scheduler: if SQLite refuses a write because the scheduler writes too, Airflow removes the runs
# that it has created already, which ends the scheduler if it has seen them.
BACKFILLS = {
    "three days": Backfill(
        SCRIPTED, _TODAY - timedelta(days=2), _TODAY, {"threshold": 0.5, "serving_name": "backfilled"}
    ),
    "one day": Backfill("again", _ONE_DAY, _ONE_DAY),
}
# In the order in which they are started: the longest first.
MANUAL = {
    "deployments": Manual("deployments"),
    "gate opens": Manual(LIFECYCLE, {"serving_name": "opened"}),
    "gate closes": Manual(SCRIPTED, {"threshold": 1, "serving_name": "closed"}),
    "sweep": Manual("parameter_sweep", {"learning_rates": [0.5, 0.4, 0.1, 0.2], "serving_name": "swept"}),
    "approval": Manual("release_with_approval", {"serving_name": "approved"}),
    "rejection": Manual("release_with_approval", {"serving_name": "approved"}),
    "gates": Manual("gates"),
    "saves": Manual("saves"),
    "endings": Manual("endings"),
    "function": Manual("python_function", {"image": "python:3"}),
}
ALL: dict[str, Manual | Backfill] = {**BACKFILLS, **MANUAL}
# DAGs that run after one of these: a test triggers the first, and a model that was saved starts the second.
LATER = (NIGHTLY_CHECK, ON_NEW_MODEL)
