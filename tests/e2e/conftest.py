"""A real Airflow, an emulator that runs real TensorFlow, and between them the connection that the demo makes."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from airflow_bitahub.demo import dataset, platform
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from tests.e2e.asking import AskingClient
from tests.e2e.dag_runs import ALL, LIFECYCLE, MANUAL, SCRIPTED
from tests.e2e.received_metrics import ReceivedMetrics
from tests.leaks import ProcessArguments
from tests.patient_airflow import PatientAirflow
from tests.ports import free_port

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted(file.stem for file in (REPOSITORY / "dags").glob("*.py"))
SCRIPTED_EXAMPLES = ("parameter_sweep", "release_with_approval")
DAGS = (
    *(*EXAMPLES, SCRIPTED, "one_job", "both_ways", "gates", "endings", "again", "deployments", "short_deferrals"),
    *("watched", "on_jobs", "newest", "each_version", "saves"),
)
SCRIPTED_OUTPUTS: dict[str, dict[str, Any]] = {
    "scripted-train": {"dense-mnist-tf/saved_model.pb": "a model"},
    "scripted-infer": {"prediction_results.npy": "predictions"},
    "scripted-eval": {"evaluation_result.json": {"accuracy": 0.9}},
}
# The accuracies of the trainings by their learning rates; None: it fails.
SWEPT = {0.5: None, 0.4: math.nan, 0.1: 0.91, 0.2: 0.96}
SLOTS = 2  # trainings of the sweep at the same time
PASSWORD = "e2e-correct-horse"
DEPLOYED = "again-and-again"  # the serving of the DAG "deployments"
SECONDS = 600  # that a DAG run may take on a busy machine, the time to build TensorFlow's environment included


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that only wait for DAG runs last, and after them the search in what all others left."""

    def order(item: pytest.Item) -> int:
        if item.path.parent != Path(__file__).parent:
            return 0
        return 1 + (item.get_closest_marker("dag_runs") is not None) + (item.path.stem == "test_secrets")

    items.sort(key=order)


class RecordingSignIn(SignIn):
    """Remembers every token that it has issued.

    :param single_session: as in KubeSphere's older releases, new tokens end the user's earlier ones
    :param expires_in: seconds; soon, so that tokens are renewed in the middle of what is tested
    """

    def __init__(self, *, single_session: bool, expires_in: int = 30) -> None:
        super().__init__({platform.FOLDERS.user_name: PASSWORD}, expires_in=expires_in, single_session=single_session)
        self.issued: set[str] = set()

    def grant(self, form: Mapping[str, str]) -> dict[str, Any]:
        tokens = super().grant(form)
        self.issued |= {tokens["access_token"], tokens["refresh_token"]}
        return tokens


class RestartedAirflow(PatientAirflow):
    """Looks after its components whenever a test calls it."""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Start again what has ended, and return the answer of Airflow's REST API."""
        self.check_components()
        return super().call(method, path, body)


@dataclass
class World:
    """Both sides."""

    airflow: PatientAirflow
    emulator: Emulator
    sign_in: RecordingSignIn
    arguments: ProcessArguments
    asking: AskingClient
    metrics: ReceivedMetrics
    close: Callable[[], None]
    started: dict[str, str] = field(default_factory=dict)  # ids of runs and backfills, by their names in `dag_runs`

    def run(self, name: str) -> tuple[str, str]:
        """Return the DAG's id and the run's id of one of `MANUAL`."""
        return MANUAL[name].dag_id, self.started[name]

    def finish(self, name: str) -> tuple[str, str, str]:
        """Wait for the end of one of `MANUAL`. Return the DAG's id, the run's id and the run's state."""
        dag_id, run_id = self.run(name)
        return dag_id, run_id, self.airflow.wait(dag_id, run_id, seconds=SECONDS)

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of each task of a run."""
        return {name: ti["state"] for name, ti in self.airflow.tasks(dag_id, run_id).items()}

    def job(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any] | None:
        """Return the ledger's entry of the job that a task shows in Airflow; None if it shows none yet."""
        url = self.airflow.xcom(dag_id, run_id, task_id, "bitahub_job_url")
        return next((job for job in self.ledger("") if url and job["name"] == url.rpartition("/")[2]), None)

    def job_lines(self, dag_id: str, run_id: str, task_id: str) -> list[str]:
        """Return what the log of a task's first try shows of its job's own log."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/1?full_content=true"
        events = [entry["event"] for entry in self.airflow.call("GET", path)["content"]]
        return [event.removeprefix("[job] ") for event in events if event.startswith("[job")]

    def ledger(self, prefix: str) -> list[dict[str, Any]]:
        """Return every job that ever existed whose name begins with the prefix."""
        jobs = self._query("/emulator/ledger")
        return [job for job in jobs if job["name"].startswith(prefix)]

    def servings(self) -> dict[str, dict[str, Any]]:
        """Return all servings by their names."""
        items = self._query("/lapis/inference.leinao.ai/v1/workspaces/bitahub/namespaces/inference/serving")["items"]
        return {serving["name"]: serving for serving in items}

    def _query(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.emulator.token}"}
        return httpx.get(self.emulator.url + path, headers=headers, trust_env=False, timeout=60).json()["data"]

    def model_versions(self) -> set[str]:
        """Return the versions of the demo's model, half-copied ones included."""
        folder = platform.server_folder(self.emulator.storage, platform.FOLDERS.model("dense-mnist-tf")[0])
        return {version.name for version in folder.iterdir()} if folder.exists() else set()

    def worker_processes(self, task_instance_id: str) -> list[psutil.Process]:
        """Return the process that supervises a task instance, and the one that runs it."""
        found = []
        scheduler = psutil.Process(self.airflow.processes["scheduler"].pid)
        for process in scheduler.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).split()[-2:] == ["LocalExecutor:", task_instance_id]:
                    found += [process, *process.children(recursive=True)]
        assert len(found) >= 2, "no worker runs this task"
        return found


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Function, nextitem: pytest.Function | None) -> None:
    """End Airflow and the emulator after their last test, so they take no time from the tests that follow."""
    world = item.funcargs.get("world")
    if isinstance(world, World) and (nextitem is None or "world" not in nextitem.fixturenames):
        world.close()


def wait_until(condition: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait until a condition is true and return its value."""
    deadline = time.monotonic() + seconds
    while True:
        start = time.monotonic()
        if answer := condition():
            return answer
        assert start < deadline, "it did not happen in time"
        # Many conditions ask Airflow, whose answers are expensive, above all on a busy machine.
        time.sleep(max(0.5, 4 * (time.monotonic() - start)))


def secrets_of(emulator: Emulator, sign_in: RecordingSignIn) -> dict[str, str]:
    """Return what nobody may find: what each is, and the secret."""
    secrets = {"the password": PASSWORD, "the emulator's token": emulator.token}
    secrets |= {f"token {number}": token for number, token in enumerate(sorted(sign_in.issued))}
    return secrets | {f"the token of {each.key}": each.token for each in emulator.state.servings()}


def scripted_copy(example: Path) -> str:
    """Return an example whose jobs are those of `SCRIPTED_OUTPUTS`, in projects without code."""
    text = example.read_text().replace('project="mnist-', 'project="scripted-')
    return text.replace('"retries": 2,', '"retries": 2, "preflight": False,')


def copy_dags(dags: Path) -> None:
    """Copy the examples and the DAGs of these tests into a folder, and add the scripted lifecycle."""
    shutil.copytree(REPOSITORY / "dags", dags)
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    scripted = scripted_copy(dags / f"{LIFECYCLE}.py").replace(f'dag_id="{LIFECYCLE}"', f'dag_id="{SCRIPTED}"')
    # A scripted serving answers 7 to every picture, which is right for one in ten.
    scripted = scripted.replace('"at_least": 0.7', '"at_least": 0.1')
    (dags / f"{SCRIPTED}.py").write_text(scripted)
    for name in SCRIPTED_EXAMPLES:
        example = scripted_copy(dags / f"{name}.py").replace('"retries": 2,', '"retries": 0,')
        # Trainings of the sweep are deferred at once, and still occupy the slots of their pool.
        example = example.replace('pool="bitahub_gpus",', 'pool="bitahub_gpus", defer_after=0,')
        (dags / f"{name}.py").write_text(example)


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, image_cache: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    root = tmp_path_factory.mktemp("e2e")
    dags = root / "dags"
    copy_dags(dags)
    config = {
        "core.parallelism": "12",
        "core.test_connection": "Enabled",
        "workers.execution_api_timeout": "60",
        "scheduler.task_instance_heartbeat_timeout": "20",
        "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
    }
    with ExitStack() as stack:
        metrics = stack.enter_context(ReceivedMetrics())
        config |= {
            "metrics.statsd_on": "True",
            "metrics.statsd_host": "127.0.0.1",
            "metrics.statsd_port": str(metrics.port),
            "metrics.statsd_influxdb_enabled": "True",
            "metrics.metrics_allow_list": "bitahub",
        }
        arguments = stack.enter_context(ProcessArguments())
        sign_in = RecordingSignIn(single_session=True)
        emulator = stack.enter_context(
            Emulator(root / "emulator", image_cache=image_cache, max_running=40, serving_restarts=1, sign_in=sign_in)
        )
        airflow = RestartedAirflow(root / "airflow", dags, port=free_port(), config=config, later=("scheduler",))
        stack.enter_context(airflow)
        emulator.scripts.add(ScriptedJob(job_name="short-deferral-*", run_seconds=2))
        for project, outputs in SCRIPTED_OUTPUTS.items():
            emulator.scripts.add(ScriptedJob(job_name=f"{project}-*", run_seconds=2, outputs=outputs))
        for rate, accuracy in SWEPT.items():
            validation = {"dense-mnist-tf/validation.json": {"accuracy": accuracy}}
            emulator.scripts.add(
                ScriptedJob(
                    job_name="scripted-train-*",
                    command=f"*--learning-rate {rate} *",
                    exit_code=accuracy is None,
                    run_seconds=6,  # as long as it takes to notice that a deferred task gave its slot back
                    outputs=SCRIPTED_OUTPUTS["scripted-train"] | validation,
                )
            )
        for name in ("backfilled*", "swept*", "approved*"):
            emulator.scripts.add(ScriptedServing(serving_name=name, answer={"predictions": [7]}))
        platform.upload_programs(emulator.storage, dags / "workloads")
        folder = platform.server_folder(emulator.storage, platform.FOLDERS.dataset("MNIST")[0])
        dataset.prepare(folder, cache=root / "downloads", mirrors=())
        connection = platform.connection(emulator)
        extra = {**json.loads(str(connection["extra"])), "auth": "kubesphere"}
        airflow.set_connection({**connection, "password": PASSWORD, "extra": json.dumps(extra)})
        pool = {"name": "bitahub_gpus", "slots": SLOTS, "description": "", "include_deferred": True}
        airflow.call("POST", "/pools", pool)
        platform.server_folder(emulator.storage, platform.FOLDERS.model("served")[0]).mkdir(parents=True)
        asking = AskingClient(emulator, DEPLOYED)
        stack.callback(asking.stop)
        world = World(airflow, emulator, sign_in, arguments, asking, metrics, stack.close)
        wanted = [
            name for item in request.session.items for mark in item.iter_markers("dag_runs") for name in mark.args
        ]
        for dag_id in DAGS:
            airflow.await_dag(dag_id, seconds=SECONDS)
        for name, run in ALL.items():
            if name in wanted:
                world.started[name] = run.start(airflow)
        if "deployments" in wanted:
            asking.start()
        airflow.start_component("scheduler")
        yield world


@pytest.fixture(scope="session")
def short_deferrals(world: World) -> str:
    """Return the id of a run of this DAG, which runs beside the tests that wait for the other runs.

    It begins when the rush of these is over, and when no test deletes a run any more: that ends a busy scheduler.
    """
    return world.airflow.trigger("short_deferrals")
