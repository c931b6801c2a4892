"""Servings and the ledger as JSON; jobs are in `profiles.py`. Times are milliseconds since the epoch; 0: not yet."""

from __future__ import annotations

from typing import Any

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.emulator.state.metering import Usage
from airflow_bitahub.emulator.state.records import LedgerEntry
from airflow_bitahub.emulator.state.serving_records import Replica, StoredServing


def serving_view(record: StoredServing, now: int, *, show_token: bool) -> dict[str, Any]:
    """Return a serving with exactly the document's fields, and `message` if there is something to say.

    :param now: the end of the metering of a serving that runs, in milliseconds since the epoch
    :param show_token: whether to show the access token; otherwise it is ""
    """
    pods = [_pod(record, replica) for replica in record.unsettled]
    message = next((pod["message"] for pod in pods if pod["message"]), "")
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
        # In the document this is empty for a serving that runs well, and its elements are not described.
        "podstatuses": pods,
        **({"message": message} if message else {}),
    }


def _pod(record: StoredServing, replica: Replica) -> dict[str, Any]:
    """Return what a replica says that does not simply run what the serving's specification says."""
    message = replica.message
    if replica.status is ServingStatus.STOPPING:
        message = "it ends, as the serving goes on without it"
    elif replica.status is ServingStatus.RUNNING and not (replica.is_ready or message):
        ports = " or ".join(map(str, dict.fromkeys((replica.spec.protocols[0].port, replica.port))))
        message = f"the program does not listen on port {ports} yet"
    elif replica.can_answer:
        message = "it runs the former specification until a program with the new one listens"
    return {
        "name": f"{record.key.name}-{replica.number}",
        "phase": replica.status.value,
        "restarts": replica.restarts,
        "exitCode": replica.exit_code,
        "message": message,
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
    """Return a job of the ledger and the requests about it."""
    record = entry.record
    return {
        "name": record.key.name,
        "namespace": record.key.namespace,
        "user": record.user,
        "state": record.raw_state,
        "createdTime": record.created,
        "launchedTime": record.launched,
        "stopedTime": record.finished,
        "removedTime": entry.removed,
        "forgottenRequests": entry.forgotten,  # older queries
        "requests": [
            {
                "time": request.time,
                "method": request.method,
                "path": request.path,
                "status": request.status,
                "reached": request.reached,
            }
            for request in entry.requests
        ],
    }
