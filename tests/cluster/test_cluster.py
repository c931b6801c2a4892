"""The package on CeleryExecutor, Redis and PostgreSQL, while a worker and a triggerer die."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone

import pytest

from tests.cluster.conftest import TRIGGERERS, WORKERS, Cluster
from tests.cluster.servers import commands, dump
from tests.e2e.conftest import secrets_of, wait_until
from tests.e2e.dag_runs import SCRIPTED, Backfill
from tests.leaks import files, leaks_in

_BOTH_WAYS = "both_ways"
_TASKS = ("on-worker", "in-triggerer")
_FIRST_DAY = datetime(2026, 1, 5, tzinfo=timezone.utc)
_CONF = {"threshold": 0.5, "serving_name": "backfilled"}


def test_the_lifecycle_and_a_backfill_of_five_days_succeed(cluster: Cluster) -> None:
    airflow = cluster.airflow
    days = [_FIRST_DAY + timedelta(days=number) for number in range(5)]
    backfill = Backfill(SCRIPTED, days[0], days[-1], _CONF)
    backfill.start(airflow)
    airflow.trigger(SCRIPTED, _CONF)
    wait_until(lambda: len(runs := _runs(cluster)) == 6 and set(runs.values()) <= {"success", "failed"}, 600)
    assert set(_runs(cluster).values()) == {"success"}
    trainings = [airflow.xcom(SCRIPTED, run_id, "train", "bitahub_job_url") for run_id in _runs(cluster)]
    assert _states_of(cluster, [url.rpartition("/")[2] for url in trainings]) == ["SUCCEEDED"] * 6
    jobs = [job.spec.job_name for job in cluster.emulator.state.jobs()]
    assert [sum(f"-train-d-{day:%Y%m%d}-" in name for name in jobs) for day in days] == [1] * 5


@pytest.mark.parametrize("kind", ["worker", "triggerer"])
def test_a_task_goes_on_with_its_job_after_the_death_of_its(cluster: Cluster, kind: str) -> None:
    airflow = cluster.airflow
    run_id, jobs = _run_both_ways(cluster)
    if kind == "worker":
        for name in WORKERS:  # either may have the task
            airflow.kill(name)
        for name in WORKERS:
            airflow.start_worker(name)
        wait_until(lambda: airflow.tasks(_BOTH_WAYS, run_id)["on-worker"]["try_number"] > 1)
    else:
        watching = _triggerer_of(cluster, run_id)
        for name in TRIGGERERS:  # likewise
            airflow.kill(name)
        for name in TRIGGERERS:
            airflow.start_component("triggerer", name)
        wait_until(lambda: _triggerer_of(cluster, run_id) not in (None, watching))
    # Airflow removes the link to the job at the start of a try, which then makes it again.
    wait_until(lambda: _is_waiting(cluster, run_id) and _jobs_of(cluster, run_id) == jobs)
    _stop(cluster, run_id)
    wait_until(lambda: set(_states_of(cluster, jobs.values())) == {"STOPPED"})


def test_a_mark_stops_the_job_and_a_clear_runs_another(cluster: Cluster) -> None:
    run_id, jobs = _run_both_ways(cluster)
    _stop(cluster, run_id)
    wait_until(lambda: set(_states_of(cluster, jobs.values())) == {"STOPPED"})
    body = {"dag_run_id": run_id, "only_failed": False, "dry_run": False, "reset_dag_runs": True}
    cluster.airflow.call("POST", f"/dags/{_BOTH_WAYS}/clearTaskInstances", body)
    wait_until(lambda: _is_waiting(cluster, run_id))
    later = _jobs_of(cluster, run_id)
    assert not {*later.values()} & {*jobs.values()}
    _stop(cluster, run_id)
    wait_until(lambda: set(_states_of(cluster, later.values())) == {"STOPPED"})


def test_no_secret_is_in_the_database_the_broker_or_the_logs(cluster: Cluster) -> None:
    run_id, jobs = _run_both_ways(cluster)
    assert cluster.sign_in.issued
    assert leaks_in(_contents(cluster), secrets_of(cluster.emulator, cluster.sign_in)) == []

    # The search works: it finds other values in all these places.
    found = leaks_in(_contents(cluster), {"a job": jobs["in-triggerer"], "a run": run_id})
    for place in ("logs/", "the database", "the broker"):
        assert any(place in leak for leak in found), place
    _stop(cluster, run_id)


def _contents(cluster: Cluster) -> Iterator[tuple[str, bytes]]:
    yield from files(cluster.airflow.home)
    yield "the database", dump(cluster.database) or b""
    yield "the broker", commands(cluster.sent)


def _runs(cluster: Cluster) -> dict[str, str]:
    """Return the runs and their states, without today's, which Airflow schedules once it has seen a backfill."""
    found = cluster.airflow.call("GET", f"/dags/{SCRIPTED}/dagRuns?limit=100")["dag_runs"]
    return {run["dag_run_id"]: run["state"] for run in found if run["run_type"] != "scheduled"}


def _run_both_ways(cluster: Cluster) -> tuple[str, dict[str, str]]:
    """Start a run with a job for a task on a worker, and one for a deferred task. Return its id and the jobs."""
    run_id = cluster.airflow.trigger(_BOTH_WAYS)
    wait_until(lambda: _is_waiting(cluster, run_id))
    return run_id, _jobs_of(cluster, run_id)


def _is_waiting(cluster: Cluster, run_id: str) -> bool:
    """Tell whether both jobs run, and whether both tasks would notice a mark."""
    states = {name: ti["state"] for name, ti in cluster.airflow.tasks(_BOTH_WAYS, run_id).items()}
    jobs = _jobs_of(cluster, run_id).values()
    is_waiting = states == {"on-worker": "running", "in-triggerer": "deferred"} and all(jobs)
    return is_waiting and set(_states_of(cluster, jobs)) == {"RUNNING"} and _is_watched(cluster, run_id)


def _is_watched(cluster: Cluster, run_id: str) -> bool:
    """Tell whether the deferred task's trigger has logged something where it is now: until then, it notices no mark."""
    try_number = cluster.airflow.tasks(_BOTH_WAYS, run_id)["in-triggerer"]["try_number"]
    logs = cluster.airflow.home / f"logs/dag_id={_BOTH_WAYS}/run_id={run_id}/task_id=in-triggerer"
    return (logs / f"attempt={try_number}.log.trigger.{_triggerer_of(cluster, run_id)}.log").exists()


def _triggerer_of(cluster: Cluster, run_id: str) -> int | None:
    job = cluster.airflow.tasks(_BOTH_WAYS, run_id)["in-triggerer"]["triggerer_job"]
    return job["id"] if job else None


def _jobs_of(cluster: Cluster, run_id: str) -> dict[str, str]:
    urls = {name: cluster.airflow.xcom(_BOTH_WAYS, run_id, name, "bitahub_job_url") for name in _TASKS}
    return {name: (url or "").rpartition("/")[2] for name, url in urls.items()}


def _states_of(cluster: Cluster, jobs: Iterable[str]) -> list[str]:
    states = {job.spec.job_name: job.status.value for job in cluster.emulator.state.jobs()}
    return [states[name] for name in jobs]


def _stop(cluster: Cluster, run_id: str) -> None:
    """Mark the run as failed."""
    cluster.airflow.call("PATCH", f"/dags/{_BOTH_WAYS}/dagRuns/{run_id}", {"state": "failed"})
