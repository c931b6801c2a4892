"""What Airflow's own StatsD client sends of jobs, deployments and the watcher."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

from airflow_bitahub import metrics
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.emulator.faults.faults import Answer, Effect, Fault, Match
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import JobFailedError, JobTimeoutError
from tests.conftest import Submitted, TaskRun, WorkerDied, events_of
from tests.operators.rollouts import Service, deploy, new_service, quick
from tests.operators.served_program import put_models
from tests.operators.test_job import LASTING, defer, die_after_submission, job, let_go

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("connection")
TAGS = "dag_id=tests,task_id=task"
Sent = Callable[[], Counter[str]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Switch Airflow's metrics on, and return what reads the lines that came since the last call."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        options = {"on": True, "host": "127.0.0.1", "port": receiver.getsockname()[1], "influxdb_enabled": True}
        for option, value in options.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__STATSD_{option.upper()}", str(value))
        metrics.are_on.cache_clear()
        stats.initialize(factory=get_stats_factory(), export_legacy_names=False)

        def read() -> list[str]:
            found = []
            with suppress(BlockingIOError):
                while True:
                    found.append(receiver.recv(65536).decode())
            return [line.removeprefix("airflow.bitahub.") for line in found if line.startswith("airflow.bitahub.")]

        yield read
        monkeypatch.undo()
        metrics.are_on.cache_clear()
        stats.initialize(factory=get_stats_factory(), export_legacy_names=False)


@pytest.fixture
def sent(lines: Callable[[], list[str]]) -> Sent:
    """Return what counts the task's metrics that came since the last call, by name."""

    def read() -> Counter[str]:
        names = Counter[str]()
        for line in lines():
            if found := re.fullmatch(rf"([\w.]+),{TAGS}:([\d.]+)\|(c|ms)", line):
                names[found[1]] += int(found[2]) if found[3] == "c" else 1
        return names

    return read


@pytest.fixture
def served(platform: Emulator, client: BitaHubClient, variables: dict[str, str]) -> Iterator[Service]:  # noqa: ARG001
    put_models(platform)
    with new_service(platform, client) as service:
        platform.scripts.add(ScriptedServing(serving_name=f"{service.name}*", answer={"predictions": [7]}))
        yield service


def ended(kind: str) -> Counter[str]:
    return Counter({f"job.ended.{kind}": 1, "job.queue_duration": 1, "job.run_duration": 1})


SUBMITTED = Counter({"job.submitted": 1})
ADOPTED = Counter({"job.adopted": 1})


def test_job_is_counted_with_the_time_of_all_its_accelerators(
    task_run: TaskRun, platform: Emulator, lines: Callable[[], list[str]]
) -> None:
    platform.scripts.add(ScriptedJob(job_name="gpus-*", run_seconds=1))
    result = job(
        project="gpus", accelerator="gtx-1080-ti", accelerator_count=4, code_path=None, preflight=False
    ).execute(task_run.context())
    assert result
    assert lines() == [
        f"job.submitted,{TAGS}:1|c",
        f"job.ended.succeeded,{TAGS}:1|c",
        f"job.queue_duration,{TAGS}:{result['queue_seconds'] * 1000:.6f}|ms",
        f"job.run_duration,{TAGS}:{result['run_seconds'] * 1000:.6f}|ms",
        f"job.gpu_seconds,{TAGS}:{round(4 * result['run_seconds'])}|c",
    ]


def test_job_of_a_lost_worker_is_adopted_and_counted_once(task_run: TaskRun, sent: Sent) -> None:
    die_after_submission(job(), task_run)
    assert sent() == SUBMITTED
    for _ in range(2):
        task_run.retry()
        job().execute(task_run.context())
    assert sent() == ended("succeeded") + ADOPTED + ADOPTED


def test_failed_job_is_counted_also_where_only_the_next_try_sees_it(
    task_run: TaskRun, submitted: Submitted, sent: Sent
) -> None:
    die_after_submission(job(command="exit 3"), task_run)
    submitted.wait(submitted.only.key.name)
    task_run.retry()
    with pytest.raises(JobFailedError):
        job(command="exit 3").execute(task_run.context())
    task_run.retry()
    job().execute(task_run.context())
    jobs = (SUBMITTED + ended("failed"), SUBMITTED + ended("failed"), SUBMITTED + ended("succeeded"))
    assert sent() == sum(jobs, Counter())


def test_deferred_job_is_counted_once_and_the_watchers_queries_and_pauses_too(
    task_run: TaskRun, platform: Emulator, submitted: Submitted, lines: Callable[[], list[str]]
) -> None:
    trigger = defer(job(command=LASTING, deferrable=True), task_run)
    let_go(platform, submitted.only)
    answer = Answer(status=429, headers={"Retry-After": "0.2"})
    platform.faults.add(Fault(match=Match(method="GET", times=1), effect=Effect(before=answer)))
    [event] = events_of(trigger)
    job().execute_complete(task_run.context(), event)
    found = Counter(line.partition(":")[0].replace(f",{TAGS}", "") for line in lines())
    assert found.pop("watch.queries,connection=bitahub_default") >= 2
    assert found.pop("watch.pauses,connection=bitahub_default") == 1
    assert found == SUBMITTED + ended("succeeded")


def test_job_that_its_task_stops_is_counted_as_such(
    submitted: Submitted, sent: Sent, time_runs_out: Callable[..., object], task_state: Callable[[str | None], None]
) -> None:
    context = (late := TaskRun()).context()
    context["ti"].xcom_push = time_runs_out
    with pytest.raises(JobTimeoutError):
        job(command="sleep 60", execution_timeout=timedelta(seconds=0.1)).execute(context)
    late.retry()
    job().execute(late.context())
    counted = sent()
    counted -= Counter(["job.queue_duration", "job.run_duration"] * 2)  # of a job that may not have begun
    assert counted == SUBMITTED + SUBMITTED + Counter(["job.ended.timed_out", "job.ended.succeeded"])

    operator = job(command="sleep 60")
    context = TaskRun().context()

    def mark(**_: Any) -> None:
        task_state("failed")
        operator.on_kill()
        raise WorkerDied

    context["ti"].xcom_push = mark
    with pytest.raises(WorkerDied):
        operator.execute(context)
    assert set(sent()) >= {"job.submitted", "job.ended.stopped"}
    trigger = defer(job(command="sleep 60", deferrable=True), killed := TaskRun())
    trigger.task_instance = cast("Any", SimpleNamespace)(
        dag_id="tests", task_id="task", run_id=killed.run_id, map_index=-1
    )
    asyncio.run(trigger.on_kill())
    assert sent() == SUBMITTED + Counter(["job.ended.stopped"])
    assert len(submitted()) == 4


def test_lost_job_is_counted_once(task_run: TaskRun, sent: Sent, platform: Emulator, submitted: Submitted) -> None:
    trigger = defer(job(command=LASTING, deferrable=True), task_run)
    let_go(platform, submitted.only)
    lost: Any = {"outcome": "lost", "message": "it is gone", "subject": trigger.subject}
    for _ in range(2):
        with pytest.raises(AirflowFailException, match="it is gone"):
            job().execute_complete(task_run.context(), lost)
    assert sent() == SUBMITTED + Counter(["job.ended.lost"])


@pytest.mark.parametrize(
    ("facts", "end"),
    [
        ({"status": "FAILED"}, "failed"),
        ({"status": "FAILED", "exit_type": "TRANSIENT_NORMAL"}, "evicted"),
        ({"status": "FAILED", "raw_state": "UNDERPOWERED"}, "underpowered"),
        ({"status": "STOPPED"}, "stopped"),
        ({"status": "SUCCEEDED"}, "succeeded"),
    ],
)
def test_kind_of_an_end(facts: dict[str, Any], end: str) -> None:
    assert metrics.end_of(Job.model_validate({"name": "job", **facts})) == end
    assert end in metrics.JOB_ENDS


@pytest.mark.usefixtures("shown_at_once", "quick")
def test_deployment_is_counted_and_one_that_changes_nothing_is_not(served: Service, sent: Sent) -> None:
    for _ in range(2):
        deploy(served).execute(TaskRun().context())
    assert sent() == Counter(["rollout.deployed"])


def test_without_a_receiver_nothing_is_done(task_run: TaskRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("airflow.sdk.observability.stats.incr")
    metrics.are_on.cache_clear()
    job().execute(task_run.context())
    assert not task_run.store["bitahub_job"]["counted"], "one write more to Airflow's store"


def test_documentation_lists_every_metric() -> None:
    text = min((Path(__file__).parents[1] / "docs").rglob("metrics.md")).read_text("utf-8")
    assert sorted(re.findall(r"^\| `(bitahub\.[\w.]+)`", text, re.MULTILINE)) == sorted(metrics.ALL)
