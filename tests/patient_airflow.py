"""An Airflow for tests that start much at once, and that may be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from airflow_bitahub.demo.airflow import AirflowError, LocalAirflow


class PatientAirflow(LocalAirflow):
    """An Airflow that repeats refused requests and that ends when the process of the tests is killed.

    Airflow refuses a request with HTTP 5xx while its database (SQLite) is locked. When the first task starts, Airflow
    builds its API for workers, and on a busy machine it answers nothing for a minute. pytest-xdist kills its processes
    if someone presses Ctrl-C; a second process then ends what they started.
    """

    _watchman: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Make the database, start every component and return once the API answers."""
        command = [sys.executable, str(Path(__file__))]
        self._watchman = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        super().start()

    def start_component(self, component: str, name: str = "") -> None:
        """Start one component."""
        super().start_component(component, name)
        self._tell_watchman(str(self.processes[name or component].pid))

    def stop(self) -> None:
        """End every component."""
        super().stop()
        if self._watchman is not None:
            self._tell_watchman("stopped")
            self._watchman.communicate()
            self._watchman = None

    def _tell_watchman(self, line: str) -> None:
        assert self._watchman is not None
        assert self._watchman.stdin is not None
        self._watchman.stdin.write(f"{line}\n")
        self._watchman.stdin.flush()

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


def watch() -> None:
    """Read the ids of sessions from the tests; if they end without saying that all has stopped, kill the sessions."""
    lines = sys.stdin.read().split()
    if lines[-1:] == ["stopped"]:
        return
    sessions = set(map(int, lines))
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) in sessions:
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    watch()
