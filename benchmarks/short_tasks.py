"""Measures how soon the end of a job is noticed, and how long many short jobs take together."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.stand import BURST_SECONDS, seconds_of

if TYPE_CHECKING:
    from benchmarks.stand import Stand

_WAYS = {"default": "as by default", "worker": "deferrable=False", "triggerer": "defer_after=0"}
_SECONDS = 1800


def noticing_costs(stand: Stand) -> list[dict[str, Any]]:
    """Return for each way of waiting and each length of a job how long after its end the task's log tells of it."""
    dag_id = "noticing"
    run_id = stand.run(dag_id, _SECONDS)
    tasks = stand.airflow.tasks(dag_id, run_id)
    entries = {entry.record.key.name: entry for entry in stand.emulator.state.ledger()}
    rows = []
    for way, title in _WAYS.items():
        for number, length in enumerate(stand.sizes.lengths):
            delays, requests = [], []
            for index in range(stand.sizes.rounds):
                task = f"{way}_{number}"
                entry = entries[stand.airflow.xcom(dag_id, run_id, task, map_index=index)["job_name"]]
                noticed = next(
                    seconds_of(line["timestamp"])
                    for line in stand.log(tasks[f"{task}[{index}]"])
                    if line["event"].startswith("The job ") and " is SUCCEEDED" in line["event"]
                )
                delays.append(noticed - entry.record.finished / 1000)
                requests.append(len(entry.requests) + entry.forgotten)
            rows.append(
                {
                    "way": title,
                    "length": length,
                    "noticed_p50": statistics.median(delays),
                    "noticed_max": max(delays),
                    "requests_p50": statistics.median(requests),
                    "requests_max": max(requests),
                }
            )
    return rows


def burst_costs(stand: Stand) -> list[dict[str, Any]]:
    """Return the seconds that many mapped short jobs take at once, waiting on workers first and deferred at once."""
    rows = []
    for dag_id, title in (("burst", "as by default"), ("burst_deferred", "defer_after=0")):
        seconds = stand.duration(dag_id, stand.run(dag_id, _SECONDS))
        rows.append({"way": title, "jobs": stand.sizes.burst, "length": BURST_SECONDS, "seconds": seconds})
    return rows
