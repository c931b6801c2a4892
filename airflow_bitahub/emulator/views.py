"""Servings and the ledger as JSON, jobs are in `profiles.py`. Times are milliseconds since the epoch; 0: not yet."""

from __future__ import annotations

from typing import Any

from airflow_bitahub.emulator.state import LedgerEntry, ServingRecord


def serving_view(record: ServingRecord, now: int, *, show_token: bool) -> dict[str, Any]:
    """Give a serving with the document's fields, no more and no fewer.

    :param now: milliseconds since the epoch; until then a live serving is metered
    :param show_token: else the access token is ""
    """
    return {
        "name": record.key.name,
        "id": "",
        "namespace": record.key.namespace,
        "hosts": record.url,
        "replicas": record.spec.replicas,
        "status": record.status.value,
        "token": record.token if show_token else "",
        "createdTime": record.created,
        "stopedTime": record.finished,
        "updatedTime": record.updated,
        "meteringDetail": _metering(record, now),
        "launchedTime": record.launched,
        # Empty in the document's answer, of a serving that runs well. Its elements are not known.
        "podstatuses": [{"phase": record.status.value, "message": record.message}] if record.message else [],
    }


def _metering(record: ServingRecord, now: int) -> dict[str, Any]:
    minutes = ((record.finished or now) - record.launched) / 60_000 if record.launched else 0.0
    resource, replicas = record.spec.resource, record.spec.replicas
    accelerator = resource.acc_device
    return {
        "usedCpuCoreMinutes": round(minutes * resource.cpu * replicas, 4),
        "usedMemoryGBMinutes": round(minutes * resource.memory / 1024 * replicas, 4),
        "runningMinutes": round(minutes, 4),
        "accDeviceMetering": [
            {
                "accDeviceNumMinutes": round(minutes * accelerator.requests * replicas, 4),
                "accDeviceType": accelerator.device_type,
            }
        ]
        if accelerator
        else [],
    }


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
