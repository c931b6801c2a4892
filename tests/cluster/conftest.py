"""Airflow as it runs in production: CeleryExecutor, Redis, PostgreSQL, two workers and two triggerers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from airflow_bitahub.demo import dataset, platform
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from tests.cluster.servers import postgres, programs, redis
from tests.e2e.conftest import PASSWORD, SCRIPTED_OUTPUTS, RecordingSignIn, copy_dags
from tests.e2e.dag_runs import SCRIPTED
from tests.patient_airflow import PatientAirflow
from tests.ports import free_port

DAGS = (SCRIPTED, "both_ways")
WORKERS, TRIGGERERS = ("worker-1", "worker-2"), ("triggerer", "triggerer-2")
_CONFIG = {
    "core.executor": "CeleryExecutor",
    "core.default_task_retries": "2",
    "core.default_task_retry_delay": "1",
    "scheduler.task_instance_heartbeat_timeout": "20",
    "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
    "triggerer.job_heartbeat_sec": "2",
    "triggerer.triggerer_health_check_threshold": "10",
}


class ClusterAirflow(PatientAirflow):
    """An Airflow with workers of its own beside the usual components."""

    def start(self) -> None:
        """Start all components; return once the API answers."""
        super().start()
        self.start_component("triggerer", TRIGGERERS[1])
        for name in WORKERS:
            self.start_worker(name)

    def start_worker(self, name: str) -> None:
        """Start one of `WORKERS`."""
        options = ["--concurrency", "3", "--skip-serve-logs", "--celery-hostname", f"{name}@%h"]
        self.processes[name] = self._run(["celery", "worker", *options], self._log(name))

    def kill(self, name: str) -> None:
        """Kill a component with everything that it has started."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class Cluster:
    """All that runs; the database's address, and the file with what was sent to the broker."""

    airflow: ClusterAirflow
    emulator: Emulator
    sign_in: RecordingSignIn
    database: str
    sent: Path


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, image_cache: Path) -> Iterator[Cluster]:
    missing = [name for name, path in programs().items() if not path]
    missing += [name for name in ("celery", "redis", "psycopg2") if find_spec(name) is None]
    if missing:
        pytest.skip(f"a cluster needs {', '.join(missing)}: Debian's redis-server and postgresql, `make test-cluster`")
    root = tmp_path_factory.mktemp("cluster")
    copy_dags(root / "dags")
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        broker, sent = stack.enter_context(redis())
        # Long enough that nobody has to wait for a process that was killed while it was renewing a token.
        sign_in = RecordingSignIn(single_session=False, expires_in=120)
        emulator = stack.enter_context(
            Emulator(root / "emulator", image_cache=image_cache, max_running=40, sign_in=sign_in)
        )
        for project, outputs in SCRIPTED_OUTPUTS.items():
            emulator.scripts.add(ScriptedJob(job_name=f"{project}-*", run_seconds=2, outputs=outputs))
        emulator.scripts.add(ScriptedServing(serving_name="backfilled*", answer={"predictions": [7]}))
        platform.upload_programs(emulator.storage, root / "dags/workloads")
        folder = platform.server_folder(emulator.storage, platform.FOLDERS.dataset("MNIST")[0])
        dataset.prepare(folder, cache=root / "downloads", mirrors=())
        # Celery's result backend names its driver: SQLAlchemy 2.1 takes the shorter form for psycopg 3.
        config = {
            **_CONFIG,
            "database.sql_alchemy_conn": f"postgresql+psycopg2:{database}",
            "celery.broker_url": broker,
            "celery.result_backend": f"db+postgresql+psycopg2:{database}",
        }
        airflow = ClusterAirflow(root / "airflow", root / "dags", port=free_port(), config=config)
        stack.enter_context(airflow)
        connection = platform.connection(emulator)
        extra = {**json.loads(str(connection["extra"])), "auth": "kubesphere"}
        airflow.set_connection({**connection, "password": PASSWORD, "extra": json.dumps(extra)})
        for dag_id in DAGS:
            airflow.await_dag(dag_id, seconds=300)
        yield Cluster(airflow, emulator, sign_in, database, sent)
