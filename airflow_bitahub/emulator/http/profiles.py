"""The shapes in which an installation of the platform may answer queries of jobs.

The platform's document shows no such answer. Each profile is a shape that is known from the platform, from a public
client of it or from a related platform, with its own words for states and its own format of times. So a DAG can be
tested against each of them. Only queries differ: submissions, stops, logs and errors are answered alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.emulator.http.signin import user_id_of
from airflow_bitahub.emulator.state.records import StoredJob, Task
from airflow_bitahub.exceptions import ConfigurationError


@dataclass(frozen=True)
class Profile:
    """How one kind of installation answers queries of jobs, as JSON values.

    :param job: returns the answer to a query of one job
    :param entry: returns one job of a list
    :param collection: returns a list, from a page's entries and the number of jobs on all pages
    :param envelope: wraps either of these
    """

    job: Callable[[StoredJob], Any]
    entry: Callable[[StoredJob], Any]
    collection: Callable[[list[Any], int], Any]
    envelope: Callable[[Any], Any]

    def answer(self, record: StoredJob) -> Any:
        """Return the answer to a query of one job."""
        return self.envelope(self.job(record))

    def answer_list(self, records: list[StoredJob], total: int) -> Any:
        """Return the answer to a query of a list: the jobs of one page, and the number of jobs on all pages."""
        return self.envelope(self.collection([self.entry(record) for record in records], total))


def find_profile(name: str) -> Profile:
    """Return the profile of this name. Raises ConfigurationError when there is none."""
    if name not in PROFILES:
        raise ConfigurationError(f"There is no profile {name!r}; choose one of {', '.join(PROFILES)}.")
    return PROFILES[name]


# default: the fields of both flat and openpai, so a client for either can read it


def _default(record: StoredJob) -> dict[str, Any]:
    return {**_openpai(record), **_facts(record), "jobName": record.key.name, "state": record.raw_state}


def _facts(record: StoredJob) -> dict[str, Any]:
    return {
        "name": record.key.name,
        "namespace": record.key.namespace,
        "kind": record.spec.kind,
        "createdTime": record.created,
        "launchedTime": record.launched,
        "updatedTime": record.updated,
        "stopedTime": record.finished,
    }


def _platform_envelope(data: Any) -> dict[str, Any]:
    return {"status": {"code": 0, "msg": "success"}, "data": data}


def _items(entries: list[Any], total: int) -> dict[str, Any]:
    return {"items": entries, "totalItems": total}


# flat: like the document's answer for a serving. Times are milliseconds, 0 means not yet, and there is no exit code.


def _flat(record: StoredJob) -> dict[str, Any]:
    # In the document a launch time is a full second, so it may be earlier than the creation.
    launched = record.launched // 1000 * 1000
    return {**_facts(record), "status": record.raw_state, "launchedTime": launched}


# openpai: as recorded from an older installation. Times are milliseconds, null means not yet; there is no envelope.

_SUB_STATES = {
    JobStatus.WAITING: "FRAMEWORK_WAITING",
    JobStatus.RUNNING: "FRAMEWORK_RUNNING",
    JobStatus.STOPPING: "FRAMEWORK_STOPPING",
}


def _openpai(record: StoredJob) -> dict[str, Any]:
    return {
        "name": record.key.name,
        "jobStatus": {
            **_openpai_status(record),
            "appLaunchedTime": record.launched or None,
            "appCompletedTime": record.finished or None,
            "appExitDiagnostics": record.message,
        },
        "taskRoles": {
            role.task_role_name: {
                "taskRoleStatus": {"name": role.task_role_name},
                "taskStatuses": [
                    _openpai_task(record, task) for task in record.tasks if task.role == role.task_role_name
                ],
            }
            for role in record.spec.task_roles
        },
    }


def _openpai_status(record: StoredJob) -> dict[str, Any]:
    stopping = record.status in (JobStatus.STOPPING, JobStatus.STOPPED)
    return {
        "username": user_id_of(record.user),
        "state": record.raw_state,
        "subState": _SUB_STATES.get(record.status, "FRAMEWORK_COMPLETED"),
        "executionType": "STOP" if stopping else "START",
        "retries": record.retries,
        "createdTime": record.created,
        "completedTime": record.finished or None,
        "appExitCode": record.exit_code,
        "virtualCluster": record.spec.queue,
    }


def _openpai_task(record: StoredJob, task: Task) -> dict[str, Any]:
    return {
        "taskIndex": task.index,
        "name": f"{record.key.name}-{task.role}-{task.index}",
        "state": task.status.value,
        "exitCode": task.exit_code,
        "startAt": task.started,
        "finishedAt": task.finished,
    }


def _openpai_entry(record: StoredJob) -> dict[str, Any]:
    """Return a job of a list: flat, with numbers as text, and with an end time even if the job has not ended."""
    entry = {"name": record.key.name, **_openpai_status(record), "launchedTime": record.launched or None}
    entry["completedTime"] = record.finished or record.updated
    return {key: str(value) if isinstance(value, int) else value for key, value in entry.items()}


# octopus: the job server of OpenI Octopus. States are lower case, times RFC 3339, and there is always an exit code.

_OCTOPUS_STATES = {
    JobStatus.WAITING: "pending",
    JobStatus.STOPPING: "running",  # it has no state for this
}


def _octopus(record: StoredJob) -> dict[str, Any]:
    return {
        "version": "v1",
        "job": {
            "id": record.key.name,
            "name": record.key.name,
            "type": record.spec.kind,
            "state": _octopus_state(record.status),
            "userID": user_id_of(record.user),
            "startAt": _rfc3339(record.launched),
            "finishedAt": _rfc3339(record.finished),
            "totalRetriedCount": record.retries,
            "exitCode": record.exit_code or 0,
            "exitDiagnostics": record.message,
        },
        "cluster": {"identity": ""},
        "tasks": [
            {
                "name": role.task_role_name,
                "image": role.image,
                "command": [role.command],
                "replicaAmount": role.task_number,
                "replicas": [_octopus_replica(task) for task in record.tasks if task.role == role.task_role_name],
            }
            for role in record.spec.task_roles
        ],
    }


def _octopus_replica(task: Task) -> dict[str, Any]:
    return {
        "index": task.index,
        "state": _octopus_state(task.status),
        "retriedCount": 0,
        "startAt": _rfc3339(task.started),
        "finishedAt": _rfc3339(task.finished),
        "exitCode": task.exit_code or 0,
        "exitDiagnostics": "",
    }


def _octopus_entry(record: StoredJob) -> dict[str, Any]:
    return {
        "jobID": record.key.name,
        "jobName": record.key.name,
        "jobKind": record.spec.kind,
        "namespace": record.key.namespace,
        "userID": user_id_of(record.user),
        "state": _octopus_state(record.status),
        "createdAt": _rfc3339(record.created),
        "finishedAt": _rfc3339(record.finished),
        "jobDetail": _octopus(record),
        "jobConfig": json.dumps(record.spec.body()),
    }


def _octopus_state(status: JobStatus) -> str:
    return _OCTOPUS_STATES.get(status, status.value.lower())


def _octopus_jobs(entries: list[Any], _: int) -> dict[str, Any]:
    return {"jobs": entries}


def _octopus_envelope(payload: Any) -> dict[str, Any]:
    return {"code": "OPERATION_SUCCEEDED", "msg": "success", "payload": payload}


# volcano: the Kubernetes object itself. Times are RFC 3339, and there is neither an exit code nor a start time.

_VOLCANO_PHASES = {
    JobStatus.WAITING: "Pending",
    JobStatus.STOPPING: "Aborting",
    JobStatus.STOPPED: "Aborted",
    JobStatus.SUCCEEDED: "Completed",
}
_VOLCANO_API_VERSION = "batch.volcano.sh/v1alpha1"


def _volcano(record: StoredJob) -> dict[str, Any]:
    statuses = [task.status for task in record.tasks]
    return {
        "apiVersion": _VOLCANO_API_VERSION,
        "kind": "Job",
        "metadata": {
            "name": record.key.name,
            "namespace": record.key.namespace,
            "creationTimestamp": _rfc3339(record.created),
            "labels": {"leinao.ai/kind": record.spec.kind, "leinao.ai/userid": user_id_of(record.user)},
        },
        "spec": {
            "minAvailable": len(record.tasks),
            "queue": record.spec.queue,
            "tasks": [{"name": role.task_role_name, "replicas": role.task_number} for role in record.spec.task_roles],
        },
        "status": {
            "state": {
                "phase": _VOLCANO_PHASES.get(record.status, record.status.value.capitalize()),
                "message": record.message,
                "lastTransitionTime": _rfc3339(record.updated),
            },
            "minAvailable": len(record.tasks),
            "pending": statuses.count(JobStatus.WAITING),
            "running": statuses.count(JobStatus.RUNNING),
            "succeeded": statuses.count(JobStatus.SUCCEEDED),
            "failed": statuses.count(JobStatus.FAILED),
            "retryCount": record.retries,
        },
    }


def _volcano_list(entries: list[Any], _: int) -> dict[str, Any]:
    return {"apiVersion": _VOLCANO_API_VERSION, "kind": "JobList", "metadata": {}, "items": entries}


# business: the service behind the platform's own web pages. A time may be text, and one state is misspelled.


def _business(record: StoredJob) -> dict[str, Any]:
    return {
        "jobName": record.key.name,
        "state": "STOPING" if record.status is JobStatus.STOPPING else record.raw_state,
        "createTime": str(record.created),
        "completedTime": record.finished or None,
        "remark": "",
        "config": json.dumps(record.spec.body()),
    }


def _business_list(entries: list[Any], total: int) -> dict[str, Any]:
    return {"list": entries, "total": total}


def _business_envelope(data: Any) -> dict[str, Any]:
    return {"message": {"status": 200, "code": 0, "message": "success"}, "data": data}


def _no_envelope(data: Any) -> Any:
    return data


def _rfc3339(milliseconds: int) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "default": Profile(_default, _default, _items, _platform_envelope),
        "flat": Profile(_flat, _flat, _items, _platform_envelope),
        "openpai": Profile(_openpai, _openpai_entry, lambda entries, _: entries, _no_envelope),
        "octopus": Profile(_octopus, _octopus_entry, _octopus_jobs, _octopus_envelope),
        "volcano": Profile(_volcano, _volcano, _volcano_list, _no_envelope),
        "business": Profile(_business, _business, _business_list, _business_envelope),
    }
)
