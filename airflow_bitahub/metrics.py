"""What this package counts in Airflow's own metrics. docs/en/metrics.md says what each of them means.

Airflow sends metrics to StatsD, Datadog or OpenTelemetry if its configuration says so; otherwise nothing is done here.
A name is one of a fixed set. What has no limit, such as the id of a DAG, is a tag, which StatsD itself does not have:
Airflow sends tags to Datadog, to OpenTelemetry, and to StatsD with ``[metrics] statsd_influxdb_enabled``.

A metric must never cost a job or a serving, so no function here raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from airflow_bitahub.api.job_reading import Job

log = logging.getLogger(__name__)

# How a job has ended: the last part of a name.
JOB_ENDS = ("succeeded", "failed", "evicted", "underpowered", "stopped", "timed_out", "lost")
# Likewise, how the deployment of a version has ended.
ROLLOUT_ENDS = ("deployed", "reverted", "rejected", "restored", "failed", "abandoned")

JOB_SUBMITTED = "bitahub.job.submitted"
JOB_ADOPTED = "bitahub.job.adopted"
JOB_ENDED = "bitahub.job.ended."  # one of JOB_ENDS follows
GPU_SECONDS = "bitahub.job.gpu_seconds"
QUEUE_DURATION = "bitahub.job.queue_duration"
RUN_DURATION = "bitahub.job.run_duration"
ROLLOUT = "bitahub.rollout."  # one of ROLLOUT_ENDS follows
QUERIES = "bitahub.watch.queries"
PAUSES = "bitahub.watch.pauses"

ALL = (
    *(JOB_SUBMITTED, JOB_ADOPTED, *(JOB_ENDED + end for end in JOB_ENDS)),
    *(QUEUE_DURATION, RUN_DURATION, GPU_SECONDS),
    *(ROLLOUT + end for end in ROLLOUT_ENDS),
    *(QUERIES, PAUSES),
)

Tags = Mapping[str, str]


@cache
def are_on() -> bool:
    """Return whether Airflow sends metrics anywhere."""
    backends = ("statsd_on", "statsd_datadog_enabled", "otel_on")
    return any(conf.getboolean("metrics", backend, fallback=False) for backend in backends)


def task_tags(ti: Any) -> Tags:
    """Return the tags of a task instance that Airflow's own metrics have: its DAG and task, and its team if it has one.

    :param ti: a worker's task instance, or the one of a trigger; None: none is known
    """
    if ti is None:
        return {}
    return getattr(ti, "stats_tags", None) or {"dag_id": ti.dag_id, "task_id": ti.task_id}


def count(name: str, tags: Tags, number: int = 1) -> None:
    """Add to a counter."""
    if are_on():
        _send("incr", name, number, tags)


def record_duration(name: str, seconds: float | None, tags: Tags) -> None:
    """Record how long something took. None: that is not known, and nothing is recorded."""
    if seconds is not None and are_on():
        _send("timing", name, timedelta(seconds=seconds), tags)


def end_of(job: Job) -> str:
    """Return how a job has ended, as one of `JOB_ENDS`."""
    if job.status.is_successful:
        return "succeeded"
    if job.is_evicted:
        return "evicted"
    if job.is_underpowered:
        return "underpowered"
    return "stopped" if job.status.value == "STOPPED" else "failed"


def record_job_time(job: Job, accelerators: int, tags: Tags) -> None:
    """Record how long a job that has ended was in the queue, and ran, as far as the platform reports it."""
    record_duration(QUEUE_DURATION, job.queue_seconds, tags)
    record_duration(RUN_DURATION, job.run_seconds, tags)
    if accelerators and job.run_seconds is not None:
        count(GPU_SECONDS, tags, round(accelerators * job.run_seconds))


def _send(function: str, name: str, value: Any, tags: Tags) -> None:
    try:
        from airflow.sdk.observability import stats

        getattr(stats, function)(name, value, tags=dict(tags))
    except Exception:
        log.debug("Could not send the metric %s", name, exc_info=True)
