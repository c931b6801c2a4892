"""Records as the document's JSON. Times are milliseconds since the epoch; 0 or null means not yet."""

from __future__ import annotations

from typing import Any

from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.emulator.state import JobRecord, LedgerEntry, ServingRecord, Task

_SUB_STATES = {
    JobStatus.WAITING: "FRAMEWORK_WAITING",
    JobStatus.RUNNING: "FRAMEWORK_RUNNING",
    JobStatus.STOPPING: "FRAMEWORK_STOPPING",
}


def job_view(record: JobRecord) -> dict[str, Any]:
    """Give a job in a form that holds both the flat and the OpenPAI-like one."""
    stopping = record.status in (JobStatus.STOPPING, JobStatus.STOPPED)
    return {
        "jobName": record.key.name,
        "name": record.key.name,
        "namespace": record.key.namespace,
        "kind": record.spec.kind,
        "state": record.status.value,
        "createdTime": record.created,
        "launchedTime": record.launched,
        "updatedTime": record.updated,
        "stopedTime": record.finished,
        "jobStatus": {
            "username": "",
            "state": record.status.value,
            "subState": _SUB_STATES.get(record.status, "FRAMEWORK_COMPLETED"),
            "executionType": "STOP" if stopping else "START",
            "retries": record.retries,
            "createdTime": record.created,
            "completedTime": record.finished or None,
            "appLaunchedTime": record.launched or None,
            "appCompletedTime": record.finished or None,
            "appExitCode": record.exit_code,
            "appExitDiagnostics": record.message,
            "virtualCluster": record.spec.queue,
        },
        "taskRoles": {
            role.task_role_name: {
                "taskRoleStatus": {"name": role.task_role_name},
                "taskStatuses": [_task_view(record, task) for task in record.tasks if task.role == role.task_role_name],
            }
            for role in record.spec.task_roles
        },
    }


def _task_view(record: JobRecord, task: Task) -> dict[str, Any]:
    return {
        "taskIndex": task.index,
        "name": f"{record.key.name}-{task.role}-{task.index}",
        "state": task.status.value,
        "exitCode": task.exit_code,
        "startAt": task.started,
        "finishedAt": task.finished,
    }


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
        "state": record.status.value,
        "createdTime": record.created,
        "launchedTime": record.launched,
        "stopedTime": record.finished,
        "removedTime": entry.removed,
        "requests": [
            {"time": asked.time, "method": asked.method, "path": asked.path, "status": asked.status}
            for asked in entry.requests
        ],
    }
