"""What all tests share: an emulator on a real socket, an Airflow connection to it, and a task instance to run in."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from itertools import count
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pytest

# Read by Airflow when it is first imported: these tests need neither its database nor its home.
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
# Airflow writes files into its home, so each process of pytest-xdist has its own.
os.environ["AIRFLOW_HOME"] = str(
    Path(__file__).parents[1] / ".pytest_cache" / "airflow" / os.environ.get("PYTEST_XDIST_WORKER", "single")
)

# Slow modules are imported where they are used: with pytest-xdist, the process that distributes the tests reads
# this file too, and starts the other processes only then.
if TYPE_CHECKING:
    from airflow_bitahub.api.platform import JobStatus
    from airflow_bitahub.client import BitaHubClient
    from airflow_bitahub.emulator.server import Emulator
    from airflow_bitahub.emulator.state.records import StoredJob
    from airflow_bitahub.hooks.bitahub import BitaHubHook

REPOSITORY = Path(__file__).parents[1]
TASK_URL = "http://airflow.test/dags/tests/runs/run/tasks/task"
IMAGE = "10.11.3.8:5000/bitahub/tensorflow-2.3-cuda-11.0-py3:v1.0"
# The tests of each group share something expensive, such as an Airflow or what they import, so they run in one process:
# those in tests/e2e and tests/ui, and those of some files. The slowest group is first.
SLOW_GROUPS = (
    "e2e",
    "ui",
    "test_chaos",
    "test_documented_requests",
    "test_python_3_8",
    "test_two_workers",
    "test_without_scheduler",
    "test_dense_mnist_tf",
    "test_openapi",
    "test_dataset",
    "test_mnist_lifecycle",
)
_runs = count(1)

T = TypeVar("T")


class WorkerDied(BaseException):
    """Stands for SIGKILL: raised inside an operator, it leaves without any except clause of ours seeing it."""


def until(look: Callable[[], T], is_done: Callable[[T], bool] = bool, seconds: float = 60) -> T:
    """Look again and again until it is so; give what was seen."""
    deadline = time.monotonic() + seconds
    while not is_done(seen := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"still {seen!r} after {seconds} s")
        time.sleep(0.02)
    return seen


def documented_example(page: str, language: str, words: str) -> str:
    """Return the page's one piece of code in this language that contains these words."""
    text = (REPOSITORY / page).read_text("utf-8")
    [code] = [code for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if words in code]
    return str(code)


def events_of(trigger: Any) -> list[Any]:
    """Run a trigger to its end and give the payloads of all its events."""

    async def collect() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(collect())


def restored(trigger: Any) -> Any:
    """Give the trigger another process makes of what Airflow stores of this one."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))


def pytest_sessionstart() -> None:
    """Collect no garbage while tests are collected: there is next to none in a million new objects."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage again, without the modules and tests that stay to the end anyway."""
    gc.freeze()
    gc.enable()


def slow_group(nodeid: str) -> str:
    """Return a test's group, one of `SLOW_GROUPS`; "" for a test that can run in any process."""
    file = PurePosixPath(nodeid.partition("::")[0])
    return next((part for part in (file.stem, *file.parts[:-1]) if part in SLOW_GROUPS), "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow groups where several processes share the tests; end with them in a single process."""
    order = [*SLOW_GROUPS, ""] if hasattr(config, "workerinput") else ["", *SLOW_GROUPS]
    items.sort(key=lambda item: order.index(slow_group(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the scheduler of pytest-xdist that keeps a slow group in one process and the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return slow_group(nodeid) or nodeid

        def _assign_work_unit(self, node: Any) -> None:
            assigned = self.assigned_work.get(node, {})
            if any(slow_group(scope) and not all(unit.values()) for scope, unit in assigned.items()):
                # The process would begin what it is given only after its slow group, so it is given a short test.
                self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes for ``-n auto``: at least three, because the slow groups wait half of the time."""
    return max(3, os.cpu_count() or 1)


@pytest.fixture(scope="session", autouse=True)
def _airflow_prints_no_logs() -> None:
    """Remove the handler with which an imported Airflow formats and prints every line, since pytest captures them."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler.formatter).__name__ == "ProcessorFormatter":  # structlog's
            root.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """Let SIGINT interrupt this process and its children, also where a shell started the tests with ``&``.

    A shell without job control makes what it starts in this way ignore SIGINT, and children inherit that.
    """
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def image_cache() -> Path:
    """Where environments that stand for images are built, once for all test runs."""
    return Path(os.environ.get("BITAHUB_TEST_IMAGES") or REPOSITORY / ".images")


@pytest.fixture(scope="session")
def tensorflow_python(image_cache: Path) -> Path:
    """An interpreter with today's TensorFlow, Flask and Pillow: the one the emulator runs the demo's image with."""
    from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, Images, load_images

    images = Images(load_images(DEFAULT_IMAGES), image_cache)
    return asyncio.run(images.prepare(images.find(IMAGE)))


@pytest.fixture
def platform(shared_platform: Emulator) -> Iterator[Emulator]:
    """An emulator in which every image stands for this interpreter, so that a job starts within milliseconds.

    Tests share it, and none sees the faults of another.
    """
    yield shared_platform
    shared_platform.faults.clear()


@pytest.fixture(scope="session")
def shared_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    from airflow_bitahub.demo.platform import FOLDERS
    from airflow_bitahub.emulator.server import Emulator

    folder = tmp_path_factory.mktemp("platform with spaces")
    images = folder / "images.toml"
    images.write_text(f'[[image]]\npattern = "*"\npython = {json.dumps(sys.executable)}\n')
    # Through links, since jobs of the tests also wait for files that are nowhere on the platform.
    with Emulator(folder / "home", images=images, grace=1.0, serving_restarts=0, mounts="links") as emulator:
        for path in (FOLDERS.code("demo"), FOLDERS.dataset("MNIST")[0]):
            (emulator.storage / path.lstrip("/")).mkdir(parents=True)
        yield emulator


@pytest.fixture
def client(platform: Emulator) -> Iterator[BitaHubClient]:
    """A client that may change things on the emulator."""
    from airflow_bitahub.api.auth import BearerToken
    from airflow_bitahub.client import BitaHubClient

    client = BitaHubClient(platform.url, auth=BearerToken(platform.token))
    yield client
    client.close()


@pytest.fixture
def connection(platform: Emulator, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The Airflow connection `bitahub_default` to the emulator, under the document's user."""
    from airflow_bitahub.demo.platform import FOLDERS

    connection = platform.connection(login=FOLDERS.user_name, user_id=FOLDERS.user_id, default_image=IMAGE)
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    return connection


@pytest.fixture
def hook(connection: dict[str, Any]) -> Iterator[BitaHubHook]:  # noqa: ARG001
    """A hook on the emulator."""
    from airflow_bitahub.hooks.bitahub import BitaHubHook

    hook = BitaHubHook()
    yield hook
    hook.client.close()


class StateStore(dict[str, Any]):
    """Stands for Airflow's task state store: what it is given survives only as JSON."""

    def set(self, key: str, value: Any, *, retention: Any) -> None:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE
        from pydantic import JsonValue, TypeAdapter

        assert retention is NEVER_EXPIRE
        TypeAdapter(JsonValue).validate_python(value)  # as Airflow does: a tuple, say, is refused
        self[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        self.pop(key, None)


@dataclass
class TaskRun:
    """One task instance from try to try, as far as an operator sees it.

    Every `context()` is what a fresh worker gets. `retry` and `clear` change what Airflow tells of the task instance
    just as Airflow itself does.
    """

    retries: int = 2
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 2
    clear_number: int = 0
    run_id: str = field(default_factory=lambda: f"manual__{next(_runs)}")
    logical_date: datetime | None = datetime(2026, 1, 1, tzinfo=timezone.utc)
    store: StateStore = field(default_factory=StateStore)
    xcoms: dict[str, Any] = field(default_factory=dict)

    def retry(self) -> None:
        self.try_number += 1
        self.xcoms.clear()

    def clear(self) -> None:
        self.max_tries = self.try_number + self.retries
        self.try_number += 1
        self.clear_number += 1
        self.xcoms.clear()

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int | None = None) -> Any:
        assert task_ids == "task"
        value = self.xcoms.get(key)
        # As in Airflow: without an index, the values of all instances of a mapped task.
        return [value, value] if map_indexes is None and self.map_index >= 0 else value

    def context(self) -> Any:
        from airflow.sdk.execution_time.context import OutletEventAccessors

        run_after = datetime(2026, 1, 2, tzinfo=timezone.utc)
        ti = SimpleNamespace(
            dag_id="tests",
            task_id="task",
            run_id=self.run_id,
            map_index=self.map_index,
            try_number=self.try_number,
            max_tries=self.max_tries,
            start_date=datetime.now(timezone.utc),
            xcom_push=self.xcom_push,
            log_url=f"{TASK_URL}?try_number={self.try_number}",
            xcom_pull=self.xcom_pull,
        )
        dag_run = SimpleNamespace(
            run_id=self.run_id, logical_date=self.logical_date, run_after=run_after, clear_number=self.clear_number
        )
        return {
            "ti": ti,
            "dag_run": dag_run,
            "task_state_store": self.store,
            "outlet_events": OutletEventAccessors(),  # of one process, as on a worker
        }


@pytest.fixture
def task_run() -> TaskRun:
    """A task instance of its own."""
    return TaskRun()


class Submitted:
    """The jobs that came to the emulator since the test began, whoever submitted them."""

    def __init__(self, platform: Emulator) -> None:
        self._state = platform.state
        self._before = len(self._state.ledger())

    def __call__(self) -> list[StoredJob]:
        """Give their records, oldest first."""
        return [entry.record for entry in self._state.ledger()[self._before :]]

    @property
    def only(self) -> StoredJob:
        """The one job there is."""
        [job] = self()
        return job

    def requests(self, method: str) -> list[str]:
        """Give the job names of all such requests."""
        entries = self._state.ledger()[self._before :]
        return [entry.record.key.name for entry in entries for asked in entry.requests if asked.method == method]

    def status(self, name: str) -> JobStatus:
        """Give a job's status."""
        from airflow_bitahub.emulator.state.records import JobKey

        return self._state.job(JobKey("bita-user", name)).status

    def wait(self, name: str, *statuses: str) -> None:
        """Stay until a job has one of these statuses; until it is over, when none is given."""
        until(lambda: self.status(name), lambda status: status.value in statuses if statuses else status.is_terminal)


@pytest.fixture
def submitted(platform: Emulator, client: BitaHubClient) -> Iterator[Submitted]:
    """What this test submitted; whatever of it still runs at the end is stopped."""
    from airflow_bitahub.api.jobs import stop_job
    from airflow_bitahub.exceptions import BitaHubError

    submitted = Submitted(platform)
    yield submitted
    for job in submitted():
        if not job.status.is_terminal:
            with suppress(BitaHubError):
                client.send(stop_job(job.key.name))


@pytest.fixture
def task_state(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Lets Airflow say in which state any task is; None: it has no such task; "": it is in none. Untold, no answer."""

    def say(state: str | None) -> None:
        def answer(dag_id: str, map_index: int | None, task_ids: list[str], run_ids: list[str]) -> dict[str, Any]:
            assert (dag_id, task_ids, map_index) == ("tests", ["task"], None)
            return {} if state is None else {run_ids[0]: {task_ids[0]: state or None}}

        monkeypatch.setattr(
            "airflow.sdk.execution_time.task_runner.RuntimeTaskInstance.get_task_states", staticmethod(answer)
        )

    return say


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Airflow's Variables, as the text they are stored as."""
    stored: dict[str, str] = {}

    def get(key: str, default: Any = None, deserialize_json: bool = False) -> Any:
        if key not in stored:
            return default
        return json.loads(stored[key]) if deserialize_json else stored[key]

    def set_(key: str, value: Any, description: str | None = None, serialize_json: bool = False) -> None:
        assert description
        stored[key] = json.dumps(value, indent=2) if serialize_json else str(value)

    def keys(prefix: str) -> list[str]:
        return sorted(key for key in stored if key.startswith(prefix))

    monkeypatch.setattr("airflow.sdk.Variable.keys", staticmethod(keys))
    monkeypatch.setattr("airflow.sdk.Variable.get", staticmethod(get))
    monkeypatch.setattr("airflow.sdk.Variable.set", staticmethod(set_))
    return stored


@pytest.fixture
def time_runs_out() -> Iterator[Callable[..., object]]:
    """Lets Airflow's execution timeout strike a moment after it is called, as Airflow itself does: by a signal."""

    from airflow.sdk.exceptions import AirflowTaskTimeout

    def strike(*_: Any) -> None:
        raise AirflowTaskTimeout

    before = signal.signal(signal.SIGALRM, strike)
    yield lambda **_: signal.setitimer(signal.ITIMER_REAL, 0.1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No grace period: this platform shows at once what was submitted, so what it denies was never there."""
    monkeypatch.setattr("airflow_bitahub.procedures.retry.GRACE_PERIOD", 0.0)
    monkeypatch.setattr("airflow_bitahub.procedures.retry.CONFIRM_ABSENCE", 0.0)


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """An empty bucket of an S3 server, as `storage_uri` names it with an Airflow connection."""
    from airflow.sdk.io import attach
    from moto.server import ThreadedMotoServer  # which takes seconds to import
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()

    def connect() -> S3FileSystem:
        options = {"key": "any", "secret": "any", "endpoint_url": f"http://{host}:{port}"}
        return S3FileSystem(**options, skip_instance_cache=True)

    # The file system that Airflow's own provider makes of a connection, without the provider's many packages.
    for connection in ("aws_test", "aws_other"):
        attach(protocol="s3", conn_id=connection, fs=connect())
    connect().call_s3("create_bucket", Bucket="platform")
    yield "s3://aws_test@platform"
    server.stop()


@pytest.fixture
def results_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a finished job has written is there at once, so what is missing is not waited for."""
    monkeypatch.setattr("airflow_bitahub.procedures.retry.RESULT_GRACE_PERIOD", 0.0)


@dataclass(frozen=True)
class Asked:
    """A request as it came over the wire."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes


class Gateway:
    """A server that writes down what it is asked and gives the answers it is told to give."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], tuple[int, Any]] = lambda _: (503, {})
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                asked = Asked(self.command, url.path, dict(parse_qsl(url.query)), dict(self.headers), body)
                gateway.asked.append(asked)
                status, answer = gateway.answer(asked)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def gateway(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A server in the emulator's stead, to which `bitahub_default` leads."""
    gateway = Gateway()
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps({**connection, "host": gateway.url}))
    yield gateway
    gateway.close()
