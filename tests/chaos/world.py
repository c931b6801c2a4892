"""A real Airflow with two triggerers, and an emulator in a separate process. Each part can be killed and restarted.

Beside it, there may be a second Airflow with the same connection, which nobody strikes.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from airflow_bitahub.api.platform import Platform
from airflow_bitahub.demo.airflow import AirflowError
from airflow_bitahub.demo.platform import FOLDERS, connection, server_folder
from airflow_bitahub.emulator.credentials import TOKEN_VARIABLE
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from tests.chaos.tasks import DAG, Job, Task, tasks_of
from tests.leaks import ProcessArguments, leaks
from tests.patient_airflow import PatientAirflow
from tests.ports import free_port

TRIGGERERS = ("triggerer", "triggerer-2")
NEIGHBOUR = "n"  # the runs of the second Airflow begin with it
SHARED_NAMES = ("shared-", "neighbour-")  # the servings that several runs deploy
AIRFLOW = ("api-server", "scheduler", *TRIGGERERS, "dag-processor")
_CONFIG = {
    "core.parallelism": "12",
    "scheduler.task_instance_heartbeat_timeout": "10",
    "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
    "scheduler.orphaned_tasks_check_interval": "5",
    "scheduler.scheduler_heartbeat_sec": "2",
    "scheduler.job_heartbeat_sec": "2",
    "scheduler.scheduler_health_check_threshold": "8",
    "triggerer.job_heartbeat_sec": "2",
    "triggerer.triggerer_health_check_threshold": "8",
}

_SERVINGS = Platform().locate("list_servings", {})[1]


class ChaosError(Exception):
    """The test environment failed, so the result says nothing about the package."""


def until(what: str, condition: Callable[[], Any], seconds: float) -> Any:
    """Wait until a condition is true and return its value. Raise ChaosError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise ChaosError(f"it did not happen within {seconds:.0f} s: {what}")
        time.sleep(1)
    return value


class World:
    """Runs all parts while the ``with`` block lasts.

    :param home: for everything; emptied first
    :param neighbour: start the second Airflow, too
    """

    def __init__(self, home: Path, *, neighbour: bool = False) -> None:
        self.home = home.resolve()
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True, mode=0o700)
        self.token = secrets.token_urlsafe(32)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage = self.home / "emulator" / "storage"
        dags = Path(__file__).parent / "dags"
        self.airflow = PatientAirflow(self.home / "airflow", dags, port=free_port(), config=_CONFIG)
        self.neighbour = (
            PatientAirflow(self.home / "neighbour", dags, port=free_port(), config={}) if neighbour else None
        )
        self.processes = self.airflow.processes
        self.acts: list[Any] = []  # the strikes of earlier rounds, whose servings still exist
        self._sessions: list[int] = []  # of every part ever started; killed ones may have left children
        self._stack = ExitStack()
        self.arguments = ProcessArguments()
        self._http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    def __enter__(self) -> World:
        try:
            self._stack.enter_context(self.arguments)
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        server_folder(self.storage, FOLDERS.model("chaos")[0]).mkdir(parents=True)
        images = self.home / "images.toml"
        images.write_text(f'[[image]]\npattern = "*"\npython = {json.dumps(sys.executable)}\n')
        self.start("emulator")
        self.airflow.start()
        self.start("triggerer-2")
        if self.neighbour is not None:
            self._stack.callback(self.neighbour.stop)
            self.neighbour.start()
        self.set_connection()
        for airflow in self.airflows:
            airflow.await_dag(DAG)
        self._sessions += [process.pid for process in self.processes.values()]

    def close(self) -> None:
        """End everything, including what killed parts left running."""
        emulator = self.processes.pop("emulator", None)
        if emulator is not None:
            emulator.send_signal(signal.SIGCONT)
            emulator.terminate()  # with all its jobs
            with suppress(subprocess.TimeoutExpired):
                emulator.wait(20)
        sessions = [*self._sessions, *(process.pid for process in self.processes.values())]
        self.airflow.stop()
        self._kill(self.members(sessions))
        if emulator is not None:
            emulator.kill()
            emulator.wait()
        self._http.close()
        self._stack.close()

    # Processes -------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start one part."""
        if name == "emulator":
            self.processes[name] = self._start_emulator()
            until("the emulator answers", self._emulator_answers, 60)
        else:
            self.airflow.start_component(name.removesuffix("-2"), name)
        self._sessions.append(self.processes[name].pid)

    def _start_emulator(self) -> subprocess.Popen[bytes]:
        command = ["-m", "airflow_bitahub.cli", "emulator", "--home", str(self.home / "emulator")]
        command += ["--port", str(self.port), "--images", str(self.home / "images.toml"), "--max-running", "300"]
        with (self.home / "emulator.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, TOKEN_VARIABLE: self.token},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _emulator_answers(self) -> bool:
        if self.processes["emulator"].poll() is not None:
            raise ChaosError(f"the emulator ended unexpectedly; see {self.home / 'emulator.log'}")
        with suppress(httpx.HTTPError):
            return self._http.get("/healthz").status_code == 200
        return False

    def is_up(self, name: str) -> bool:
        """Return whether a part runs."""
        return self.processes[name].poll() is None

    def kill(self, name: str, *, family: bool = False) -> None:
        """Kill a part with SIGKILL; with `family`, also all its descendants."""
        pid = self.processes[name].pid
        self._kill([pid, *(self.members([pid]) if family else [])])
        self.processes[name].wait()

    def members(self, sessions: Iterable[int]) -> list[int]:
        """Return the processes of those sessions: the parts and their descendants."""
        chosen, found = set(sessions), []
        for pid in psutil.pids():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) in chosen:
                    found.append(pid)
        return found

    def workers(self) -> list[tuple[psutil.Process, str]]:
        """Return the processes that supervise a task, with the task instance's id; the task runs in their child."""
        found = []
        for pid in self.members(self._sessions):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                title = " ".join(process.cmdline()).strip()
                if "LocalExecutor" in title and process.children():
                    found.append((process, title.split()[-1]))
        return sorted(found, key=lambda worker: (worker[0].create_time(), worker[0].pid))

    def remove_leftovers(self) -> None:
        """Kill what killed parts left running."""
        current = {process.pid for process in self.processes.values()}
        self._kill(self.members(set(self._sessions) - current))

    @staticmethod
    def _kill(pids: Iterable[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # The emulator ----------------------------------------------------------------------------------------------

    def ask_emulator(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the emulator and return the data of its answer."""
        answer = self._http.request(method, path, json=body, headers={"Authorization": f"Bearer {self.token}"})
        return answer.raise_for_status().json()["data"]

    def jobs(self, runs: Iterable[str]) -> list[Job]:
        """Return every job of these runs that ever existed, oldest first."""
        prefixes = tuple(f"{run}-" for run in runs)
        ledger = self.ask_emulator("GET", "/emulator/ledger")
        return [Job.of(entry) for entry in ledger if entry["name"].startswith(prefixes)]

    def servings(self) -> dict[str, str]:
        """Return the state of every serving that exists, by name."""
        found = self.ask_emulator("GET", _SERVINGS)["items"]
        return {serving["name"]: serving["status"] for serving in found}

    def addresses(self) -> dict[str, str]:
        """Return the address of every serving that has one, by name."""
        found = self.ask_emulator("GET", _SERVINGS)["items"]
        return {serving["name"]: serving["hosts"] for serving in found if serving["hosts"]}

    def answers(self) -> dict[str, str]:
        """Return what the program of each serving answers; nothing for one that does not answer."""
        found = {}
        for name, url in self.addresses().items():
            with suppress(httpx.HTTPError):
                found[name] = self._http.get(url).text
        return found

    def deployments(self) -> dict[str, dict[str, Any]]:
        """Return the records of the servings that several runs deploy, in every Airflow, by name."""
        found = {}
        for airflow in self.airflows:
            for variable in airflow.call("GET", "/variables?limit=1000")["variables"]:
                name = variable["key"].split(".")[2:3]
                if variable["key"].startswith("bitahub_serving.") and name[0].startswith(SHARED_NAMES):
                    found[name[0]] = json.loads(variable["value"])
        return found

    def remove_servings(self) -> None:
        """Remove every serving."""
        for name in self.servings():
            if name.startswith(SHARED_NAMES):
                continue  # the next round deploys them again
            self.ask_emulator("DELETE", f"{_SERVINGS}/{name}")

    def leaks(self) -> list[str]:
        """Return each place where the platform's token must not be but is."""
        found = [f"the token is an argument of {line}" for line in self.arguments.seen if self.token in line]
        return found + [leak for airflow in self.airflows for leak in leaks(airflow.home, {"the token": self.token})]

    # Airflow ---------------------------------------------------------------------------------------------------

    @property
    def airflows(self) -> list[PatientAirflow]:
        """Every Airflow, the one that is struck first."""
        return [self.airflow, *([self.neighbour] if self.neighbour else [])]

    def call(self, method: str, path: str, body: Any = None, *, run: str) -> Any:
        """Return the answer of a run's Airflow to a request about the DAG."""
        airflow = self.neighbour if self.neighbour and run.startswith(NEIGHBOUR) else self.airflow
        return airflow.call(method, f"/dags/{DAG}{path}", body)

    def set_connection(self) -> None:
        """Create the connection in every Airflow that has none."""
        emulator = Emulator(self.home / "emulator", port=self.port, token=self.token)
        for airflow in self.airflows:
            airflow.set_connection(connection(emulator))

    def remove_connection(self) -> None:
        """Delete the connection from the Airflow that is struck."""
        self.airflow.call("DELETE", f"/connections/{DEFAULT_CONN_ID}")

    def reap(self) -> None:
        """End the jobs and deployments that no task waits for, by the command for administrators, in every Airflow."""
        for airflow, what in itertools.product(self.airflows, ("jobs", "servings")):
            airflow.bitahub(what, "reap", "--no-dry-run")

    def look(self, run: str) -> dict[Task, dict[str, Any]]:
        """Return what Airflow reports about each task instance of a run; nothing if the run was deleted."""
        try:
            found = self.call("GET", f"/dagRuns/{run}/taskInstances?limit=200", run=run)["task_instances"]
        except AirflowError as error:
            if "HTTP 404" in str(error):
                return {}
            raise
        known = set(tasks_of(run))
        seen = {Task(run, ti["task_id"], ti["map_index"]): ti for ti in found}
        return {task: ti for task, ti in seen.items() if task in known}
