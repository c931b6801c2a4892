"""An Airflow for tests that start much at once, which is a lot for its database."""

from __future__ import annotations

import time
from typing import Any

from airflow_bitahub.demo.airflow import AirflowError, LocalAirflow


class PatientAirflow(LocalAirflow):
    """Repeats a request that Airflow could not serve because its database (SQLite) was locked."""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer of Airflow's REST API. Raise AirflowError if it refuses, or fails again and again."""
        for _ in range(5):
            try:
                return super().call(method, path, body)
            except AirflowError as error:
                if "HTTP 5" not in str(error):
                    raise
                time.sleep(1)
        return super().call(method, path, body)
