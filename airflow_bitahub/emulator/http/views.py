"""Servings and the ledger as JSON, jobs are in `profiles.py`. Times are milliseconds since the epoch; 0: not yet."""

from __future__ import annotations

from typing import Any

from airflow_bitahub.emulator.state.metering import Usage
from airflow_bitahub.emulator.state.state import LedgerEntry, ServingRecord


def serving_view(record: ServingRecord, now: int, *, show_token: bool) -> dict[str, Any]:
    """Give a serving with the document's fields, no more and no fewer.

    :param now: milliseconds since the epoch; until then a live serving is metered
    :param show_token: else the access token is ""
    """
    return {
        "name": record.key.name,
        "id": "",
        "namespace": record.key.namespace,
        "hosts": record.url if record.launched else "",
        "replicas": record.spec.replicas,
        "status": record.status.value,
        "token": record.token if show_token else "",
        "createdTime": record.created,
        "stopedTime": record.finished,
        "updatedTime": record.updated,
        "meteringDetail": _metering(record.usage_at(now)),
        "launchedTime": record.launched,
        # Empty in the document's answer, of a serving that runs well. Its elements are not known.
        "podstatuses": [
            {"phase": replica.status.value, "message": replica.message}
            for replica in record.replicas
            if replica.message
        ],
    }


def _metering(usage: Usage) -> dict[str, Any]:
    return {
        "usedCpuCoreMinutes": _minutes(usage.cores),
        "usedMemoryGBMinutes": _minutes(usage.memory_mb / 1024),
        "runningMinutes": _minutes(usage.running),
        "accDeviceMetering": [
            {"accDeviceNumMinutes": _minutes(used), "accDeviceType": device_type}
            for device_type, used in usage.accelerators.items()
        ],
    }


def _minutes(milliseconds: float) -> float:
    return round(milliseconds / 60_000, 4)


def ledger_view(entry: LedgerEntry) -> dict[str, Any]:
    """Give a job of the ledger and the requests that concerned it."""
    record = entry.record
    return {
        "name": record.key.name,
        "namespace": record.key.namespace,
        "user": record.user,
        "state": record.word,
        "createdTime": record.created,
        "launchedTime": record.launched,
        "stopedTime": record.finished,
        "removedTime": entry.removed,
        "requests": [
            {
                "time": asked.time,
                "method": asked.method,
                "path": asked.path,
                "status": asked.status,
                "reached": asked.reached,
            }
            for asked in entry.requests
        ],
    }
