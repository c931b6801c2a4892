"""Commands of Airflow, and ours, as forks of a process that has imported Airflow, which takes seconds of CPU time."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Any, NoReturn

import psutil
from setproctitle import setproctitle

# What the components import, and what each task imports of this package.
_MODULES = (
    "airflow.__main__",
    "airflow.api_fastapi.core_api.app",
    "airflow.api_fastapi.core_api.routes.public",
    "airflow.api_fastapi.core_api.routes.ui",
    "airflow.api_fastapi.execution_api.app",
    "airflow.api_fastapi.execution_api.routes",
    "airflow.cli.commands.api_server_command",
    "airflow.cli.commands.dag_processor_command",
    "airflow.cli.commands.db_command",
    "airflow.cli.commands.scheduler_command",
    "airflow.cli.commands.triggerer_command",
    "airflow.executors.local_executor",
    "airflow.jobs.scheduler_job_runner",
    "airflow.jobs.triggerer_job_runner",
    "airflow_bitahub.hooks.bitahub",
    "airflow_bitahub.operators.model",
    "airflow_bitahub.operators.records",
    "airflow_bitahub.operators.serving",
    "airflow_bitahub.procedures.submission",
    "airflow_bitahub.triggers.job",
    "airflow_bitahub.triggers.rollout",
)
# Programs, and the modules with their `main`.
_MAINS = {"airflow": "airflow.__main__", "airflow-bitahub": "airflow_bitahub.cli"}


class Fork:
    """A command that runs. Has what is needed of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def end(self, returncode: int) -> None:
        self.returncode = returncode
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("airflow", timeout or 0)
        return self.returncode

    def terminate(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGTERM)


class Forks:
    """Runs commands in the environment of one Airflow."""

    def __init__(self, environment: Mapping[str, str], home: Path) -> None:
        repository = str(Path(__file__).parents[1])
        code = f"import sys; sys.path.append({repository!r}); from tests.airflow_forks import serve; serve()"
        with (home / "forks.log").open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                cwd=home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._forks: dict[int, Fork] = {}
        self._started = Queue[Fork]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, command: Sequence[str], output: Path, errors: Path | None = None) -> Any:
        """Start a command, as the leader of a session.

        :param command: one of the programs ``airflow`` and ``airflow-bitahub``, and its arguments
        :param output: what it prints is appended to this file
        :param errors: the same for what it prints to stderr; default: `output`
        """
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([command, str(output), str(errors or output)]) + "\n")
        self._server.stdin.flush()
        return self._started.get(timeout=300)

    def close(self) -> None:
        """Kill what still runs, and end the process from which it was forked."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._server.stdout is not None
        with self._server.stdout as lines:
            for line in lines:
                pid, returncode = json.loads(line)
                if returncode is None:
                    self._forks[pid] = Fork(pid)
                    self._started.put(self._forks[pid])
                else:
                    self._forks.pop(pid).end(returncode)


def serve() -> None:
    """Fork a process for each command that stdin names. Tell stdout which process started, and which one ended.

    Once stdin is closed, kill what still runs. So nothing does if the process of the tests is killed, as pytest-xdist
    does if someone presses Ctrl-C.
    """
    told = os.dup(1)
    os.dup2(2, 1)  # Airflow prints while it is imported
    gc.disable()  # makes imports faster
    # Makes the secrets that all components share, before anything reads them.
    import_module("airflow.configuration").write_default_airflow_configuration_if_needed()
    for module in _MODULES:
        import_module(module)
    _build_execution_api()
    _leave_writing_to_the_kernel()
    client = import_module("airflow.sdk.api.client")  # each task reads all certificates for it
    client.Client._get_ssl_context_cached(client.API_SSL_CA_FILE_PATH, client.API_SSL_CERT_PATH)
    gc.freeze()
    gc.enable()

    def tell(pid: int, returncode: int | None) -> None:
        os.write(told, f"{json.dumps([pid, returncode])}\n".encode())

    def tell_ended(*_: object) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                tell(ended[0], os.waitstatus_to_exitcode(ended[1]))

    signal.signal(signal.SIGCHLD, tell_ended)
    sessions = set[int]()
    for line in iter(sys.stdin.readline, ""):
        command, output, errors = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # tell the start before the end
        pid = os.fork()
        if pid == 0:
            os.close(told)
            _become(command, output, errors)
        sessions.add(pid)
        tell(pid, None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) in sessions:
                os.kill(pid, signal.SIGKILL)


def _build_execution_api() -> None:
    """Build Airflow's API for workers, with all its versions, and let the first caller in each fork have it.

    Each api-server and each triggerer builds the same one with its first request, which takes seconds of CPU time.
    """
    execution: Any = import_module("airflow.api_fastapi.execution_api.app")
    server: Any = import_module("airflow.api_fastapi.app")
    create = execution.create_task_execution_api_app
    built = [create()]
    built[0]._cadwyn_initialize()

    def give(lifespan: Any = execution.lifespan) -> Any:
        if not built:
            return create(lifespan)
        app = built.pop()
        app.router.lifespan_context = lifespan
        return app

    execution.create_task_execution_api_app = server.create_task_execution_api_app = give


def _leave_writing_to_the_kernel() -> None:
    """Let SQLite not wait until its data is on the disk, so nobody locks the database for as long as a busy disk takes.

    What a killed process has written is kept. Only a power failure could lose it.
    """
    alchemy = import_module("sqlalchemy")

    def set_up(connection: Any, _record: object) -> None:
        if "sqlite" not in type(connection).__module__:
            return  # the database of tests/cluster
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()

    alchemy.event.listen(alchemy.engine.Engine, "connect", set_up)


def _become(command: list[str], output: str, errors: str) -> NoReturn:
    """Run a command in this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), number)
    sys.argv = command
    setproctitle(" ".join(command))
    sys.exit(import_module(_MAINS[command[0]]).main())
