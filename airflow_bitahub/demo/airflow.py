"""A real Airflow on this machine: api-server, scheduler, dag-processor and triggerer, with their own folder."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from airflow_bitahub.exceptions import BitaHubError

LOOPBACK = "127.0.0.1"
USER = "admin"
# By default, workers and triggerers serve logs on all interfaces. Here the api-server reads the log files directly.
COMPONENTS = {
    "api-server": [],
    "scheduler": ["--skip-serve-logs"],
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}
_FINAL_STATES = ("success", "failed")
_START_SECONDS = 300  # on a busy machine; usually it is about 20


class AirflowError(BitaHubError):
    """This Airflow does not work as expected. The text names the part that fails and its log."""


class LocalAirflow:
    """Runs Airflow inside a `with` block, on the loopback interface only.

        with LocalAirflow(home, dags) as airflow:
            run_id = airflow.trigger("mnist_lifecycle", {"epochs": 1})

    :param home: the folder for database, logs and configuration; not removed at the end
    :param dags: the folder with the DAGs
    :param port: the api-server's port; 0: any free port
    :param config: further settings, as ``{"section.key": "value"}``
    """

    def __init__(self, home: Path, dags: Path, *, port: int = 0, config: Mapping[str, str] | None = None) -> None:
        self.home = home.resolve()
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.components = tuple(COMPONENTS)  # what `start` starts
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._passwords = self.home / "passwords.json"
        settings = {
            "core.dags_folder": str(dags.resolve()),
            "core.load_examples": "False",
            "core.executor": "LocalExecutor",
            "core.parallelism": "8",
            "core.simple_auth_manager_users": f"{USER}:admin",
            "core.simple_auth_manager_passwords_file": str(self._passwords),
            "core.execution_api_server_url": f"{self.url}/execution/",
            "api.base_url": self.url,
            "api.host": LOOPBACK,
            "api.port": str(self.port),
            "api.workers": "1",
            "scheduler.scheduler_idle_sleep_time": "0.5",
            "dag_processor.refresh_interval": "10",
            "usage_data_collection.enabled": "False",
            **(config or {}),
        }
        variables = {f"AIRFLOW__{key.upper().replace('.', '__')}": value for key, value in settings.items()}
        # The caller's AIRFLOW variables, including connections, are meant for another Airflow.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        # All traffic goes to the loopback interface, which no proxy can reach.
        inherited["NO_PROXY"] = inherited["no_proxy"] = f"{LOOPBACK},localhost"
        self.environment = {**inherited, "AIRFLOW_HOME": str(self.home), **variables, "PYTHONUNBUFFERED": "1"}
        self._client: httpx.Client | None = None

    def __enter__(self) -> LocalAirflow:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def password(self) -> str:
        """The password of the user `USER`."""
        return str(json.loads(self._passwords.read_text())[USER])

    def start(self) -> None:
        """Create the database, start `components`, and wait until the API answers.

        :raises AirflowError: a component ended, or the API did not answer in time
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._passwords.exists():
            self._passwords.touch(mode=0o600)
            self._passwords.write_text(json.dumps({USER: secrets.token_urlsafe(9)}))
        # The first command also writes airflow.cfg, with the secrets that all components share.
        if self._run(["db", "migrate"], self._log("db-migrate")).wait():
            raise AirflowError(f"Airflow could not create its database; see {self._log('db-migrate')}.")
        for component in self.components:
            self.start_component(component)
        self._wait_until("answer", self._is_healthy, _START_SECONDS)

    def start_component(self, component: str, name: str = "") -> None:
        """Start one component.

        :param name: its name in `processes` and of its log file, for a second one of a kind; default: the component
        """
        name = name or component
        self.processes[name] = self._run([component, *COMPONENTS[component]], self._log(name))

    def _run(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command of Airflow in its own process group, so Ctrl-C does not reach it."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "airflow", *arguments],
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Stop every component: with SIGTERM, then with SIGKILL after 15 s."""
        for component in self.processes:
            self._signal(component, signal.SIGTERM)
        deadline = time.monotonic() + 15
        for component, process in self.processes.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            self._signal(component, signal.SIGKILL)  # also kills what is left of the process group
            process.wait()
        self.processes.clear()
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to Airflow's REST API and return the answer. Raises AirflowError if it fails."""
        try:
            answer = self._session().request(method, f"/api/v2{path}", json=body)
        except httpx.HTTPError as error:
            raise AirflowError(f"Airflow did not answer {method} {path}: {error or type(error).__name__}") from error
        if answer.status_code >= 400:
            raise AirflowError(f"Airflow refused {method} {path} (HTTP {answer.status_code}): {answer.text[:500]}")
        return answer.json() if answer.content else None

    def _session(self) -> httpx.Client:
        if self._client is None:
            client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
            answer = client.post("/auth/token", json={"username": USER, "password": self.password})
            client.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
            self._client = client
        return self._client

    def set_connection(self, connection: Mapping[str, Any]) -> None:
        """Create a connection, or update it if it exists."""
        known = self.call("GET", "/connections?limit=1000")["connections"]
        if any(other["connection_id"] == connection["connection_id"] for other in known):
            self.call("PATCH", f"/connections/{connection['connection_id']}", dict(connection))
        else:
            self.call("POST", "/connections", dict(connection))

    def await_dag(self, dag_id: str, seconds: float = 120) -> None:
        """Wait until Airflow has parsed a DAG, and unpause it. Raises AirflowError if a file cannot be imported."""

        def is_parsed() -> bool:
            for error in self.call("GET", "/importErrors")["import_errors"]:
                raise AirflowError(f"{error['filename']} cannot be imported:\n{error['stack_trace']}")
            found = self.call("GET", f"/dags?dag_id_pattern={dag_id}")["dags"]
            return any(dag["dag_id"] == dag_id for dag in found)

        self._wait_until(f"parse the DAG {dag_id}", is_parsed, seconds)
        self.call("PATCH", f"/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a manual run and return its id. It has no logical date, as when the API or command line starts one."""
        run = self.call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf or {})})
        return str(run["dag_run_id"])

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the API's entry of each task instance of a run, by name; a mapped one is called ``name[index]``."""
        found = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=200")["task_instances"]
        return {f"{ti['task_id']}[{ti['map_index']}]" if ti["map_index"] >= 0 else ti["task_id"]: ti for ti in found}

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return an XCom value; None when there is none."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        try:
            return self.call("GET", f"{path}?deserialize=true&map_index={map_index}")["value"]
        except AirflowError:
            return None

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        seconds: float,
        on_change: Callable[[str, str, dict[str, Any]], None] | None = None,
    ) -> str:
        """Wait until a run has finished and return its state.

        :param on_change: called with the name, state and API entry of a task whenever its state has changed
        :raises AirflowError: the run has not finished after so many seconds, or a component ended
        """
        seen: dict[str, str] = {}

        def has_finished() -> bool:
            finished = self.state(dag_id, run_id) in _FINAL_STATES
            if on_change is None:
                return finished
            for name, ti in sorted(self.tasks(dag_id, run_id).items(), key=lambda item: item[1]["start_date"] or "~"):
                state = ti["state"] or "none"
                if seen.get(name, "none") != state:
                    seen[name] = state
                    on_change(name, state, ti)
            return finished

        self._wait_until(f"finish {dag_id} {run_id}", has_finished, seconds)
        return self.state(dag_id, run_id)

    def _is_healthy(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/api/v2/version", timeout=5, trust_env=False).status_code == 200
        return False

    def _wait_until(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.check_components()
            if time.monotonic() > deadline:
                raise AirflowError(f"Airflow did not {what} within {seconds:.0f} s; see the logs in {self.home}.")
            time.sleep(0.5)

    def check_components(self) -> None:
        """Raise AirflowError if a component has ended."""
        for component, process in list(self.processes.items()):
            if process.poll() is not None:
                self._handle_end(component, process.returncode)

    def _handle_end(self, component: str, code: int) -> None:
        """Raise AirflowError, since a component has ended."""
        raise AirflowError(f"Airflow's {component} ended unexpectedly (exit code {code}); see {self._log(component)}.")

    def _signal(self, component: str, number: signal.Signals) -> None:
        process = self.processes.get(component)
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"


def free_port() -> int:
    """Return a port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int, owner: str, variable: str) -> None:
    """Raise AirflowError if a port is in use.

    :param owner: who needs the port, for the error's text, such as ``Airflow``
    :param variable: the variable of ``make demo`` that sets the port
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise AirflowError(
                f"{owner} cannot use port {port} ({error.strerror}). Choose another: make demo {variable}=..."
            ) from None
