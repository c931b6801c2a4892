"""An Airflow for tests that start much at once, and that may be killed."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow_bitahub.demo.airflow import COMPONENTS, AirflowError, LocalAirflow
from tests.airflow_forks import Forks

# Why components end on a busy machine: they cannot write to the database (SQLite) for five seconds; somebody deletes a
# DAG run that the scheduler works on.
_REASONS = ("database is locked", "ObjectDeletedError")


class PatientAirflow(LocalAirflow):
    """An Airflow that repeats refused requests and that ends when the process of the tests is killed.

    Airflow refuses a request with HTTP 5xx while its database (SQLite) is locked, and on a busy machine it may answer
    late. Its components are forks of one process, so Airflow is imported once. It reads each DAG file once.

    :param later: components that the caller starts when it is time
    """

    _forks: Forks | None = None

    def __init__(
        self, home: Path, dags: Path, *, port: int, config: Mapping[str, str], later: Collection[str] = ()
    ) -> None:
        config = {
            "scheduler.scheduler_idle_sleep_time": "1",
            "dag_processor.min_file_process_interval": "300",
            "dag_processor.refresh_interval": "300",
            **config,
        }
        super().__init__(home, dags, port=port, config=config)
        self.components = tuple(component for component in COMPONENTS if component not in later)

    def start(self) -> None:
        """Make the database, start `components` and return once the API answers."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._forks = Forks(self.environment, self.home)
        super().start()

    def stop(self) -> None:
        """End every component."""
        super().stop()
        if self._forks is not None:
            self._forks.close()
            self._forks = None

    def bitahub(self, *arguments: str) -> str:
        """Run ``airflow-bitahub`` beside this Airflow, and return what it prints. Raise AirflowError if it fails."""
        assert self._forks is not None
        with TemporaryDirectory() as folder:
            output, errors = Path(folder, "output"), Path(folder, "errors")
            if self._forks.run(["airflow-bitahub", *arguments], output, errors).wait():
                raise AirflowError(f"airflow-bitahub {' '.join(arguments)} failed: {errors.read_text()}")
            return output.read_text()

    def _run(self, arguments: Sequence[str], log: Path) -> Any:
        assert self._forks is not None
        return self._forks.run(["airflow", *arguments], log)

    def _handle_end(self, component: str, code: int) -> None:
        """Start a component again that ended for one of `_REASONS`, as systemd or Kubernetes would."""
        log = self._log(component).read_text(errors="replace")[-20_000:]
        if not any(reason in log for reason in _REASONS):
            super()._handle_end(component, code)
        self.start_component(component)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer of Airflow's REST API. Raise AirflowError if it refuses, or fails again and again."""
        for _ in range(5):
            try:
                return super().call(method, path, body)
            except AirflowError as error:
                is_late = method == "GET" and "did not answer" in str(error)
                if "HTTP 5" not in str(error) and not is_late:
                    raise
                time.sleep(1)
        return super().call(method, path, body)
