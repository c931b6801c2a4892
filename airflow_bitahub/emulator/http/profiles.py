"""The shapes in which an installation may answer queries of jobs.

The platform's document shows no such answer. Each profile here is a shape that the platform, a public client of it or
a relative has shown or suggests, with its words for states and its forms of times, so that a DAG can be tried against
what an installation may speak. Only queries differ: submissions, stops, logs and refusals are answered alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.emulator.state.state import JobRecord, Task
from airflow_bitahub.exceptions import ConfigurationError


@dataclass(frozen=True)
class Profile:
    """How one kind of installation answers queries of jobs, as JSON values.

    :param job: what it tells of the one job that was asked for
    :param entry: what it tells of a job in a list
    :param collection: makes a list of a page's entries and the number of jobs on all pages
    :param envelope: what it puts around either
    """

    job: Callable[[JobRecord], Any]
    entry: Callable[[JobRecord], Any]
    collection: Callable[[list[Any], int], Any]
    envelope: Callable[[Any], Any]

    def answer(self, record: JobRecord) -> Any:
        """Give the answer to a query of one job."""
        return self.envelope(self.job(record))

    def answer_list(self, records: list[JobRecord], total: int) -> Any:
        """Give the answer to a query of many: the jobs of one page, and how many there are on all."""
        return self.envelope(self.collection([self.entry(record) for record in records], total))


def find_profile(name: str) -> Profile:
    """Give the profile of this name. Raises ConfigurationError when there is none."""
    if name not in PROFILES:
        raise ConfigurationError(f"There is no profile {name!r}; choose one of {', '.join(PROFILES)}.")
    return PROFILES[name]


# default: both of the first two, so that a reader of either is content


def _default(record: JobRecord) -> dict[str, Any]:
    return {**_openpai(record), **_facts(record), "jobName": record.key.name, "state": record.word}


def _facts(record: JobRecord) -> dict[str, Any]:
    return {
        "name": record.key.name,
        "namespace": record.key.namespace,
        "kind": record.spec.kind,
        "createdTime": record.created,
        "launchedTime": record.launched,
        "updatedTime": record.updated,
        "stopedTime": record.finished,
    }


def _platforms(data: Any) -> dict[str, Any]:
    return {"status": {"code": 0, "msg": "success"}, "data": data}


def _items(entries: list[Any], total: int) -> dict[str, Any]:
    return {"items": entries, "totalItems": total}


# flat: like the document's answer about a serving. Times are milliseconds, 0 is "not yet", and there is no exit code.


def _flat(record: JobRecord) -> dict[str, Any]:
    # The document's serving was launched at a full second, which may be before its creation.
    launched = record.launched // 1000 * 1000
    return {**_facts(record), "status": record.word, "launchedTime": launched}


# openpai: as captured from an older installation. Times are milliseconds, null is "not yet"; there is no envelope.

_SUB_STATES = {
    JobStatus.WAITING: "FRAMEWORK_WAITING",
    JobStatus.RUNNING: "FRAMEWORK_RUNNING",
    JobStatus.STOPPING: "FRAMEWORK_STOPPING",
}


def _openpai(record: JobRecord) -> dict[str, Any]:
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


def _openpai_status(record: JobRecord) -> dict[str, Any]:
    stopping = record.status in (JobStatus.STOPPING, JobStatus.STOPPED)
    return {
        "username": record.user,
        "state": record.word,
        "subState": _SUB_STATES.get(record.status, "FRAMEWORK_COMPLETED"),
        "executionType": "STOP" if stopping else "START",
        "retries": record.retries,
        "createdTime": record.created,
        "completedTime": record.finished or None,
        "appExitCode": record.exit_code,
        "virtualCluster": record.spec.queue,
    }


def _openpai_task(record: JobRecord, task: Task) -> dict[str, Any]:
    return {
        "taskIndex": task.index,
        "name": f"{record.key.name}-{task.role}-{task.index}",
        "state": task.status.value,
        "exitCode": task.exit_code,
        "startAt": task.started,
        "finishedAt": task.finished,
    }


def _openpai_entry(record: JobRecord) -> dict[str, Any]:
    """Give a job of a list: flat, with numbers as text, and with an end even where there is none yet."""
    entry = {"name": record.key.name, **_openpai_status(record), "launchedTime": record.launched or None}
    entry["completedTime"] = record.finished or record.updated
    return {key: str(value) if isinstance(value, int) else value for key, value in entry.items()}


# octopus: the job server of OpenI Octopus. States are in lower case, times RFC 3339, and an exit code is always told.

_OCTOPUS_WORDS = {
    JobStatus.WAITING: "pending",
    JobStatus.STOPPING: "running",  # it has no word for it
}


def _octopus(record: JobRecord) -> dict[str, Any]:
    return {
        "version": "v1",
        "job": {
            "id": record.key.name,
            "name": record.key.name,
            "type": record.spec.kind,
            "state": _octopus_word(record.status),
            "userID": record.user,
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
        "state": _octopus_word(task.status),
        "retriedCount": 0,
        "startAt": _rfc3339(task.started),
        "finishedAt": _rfc3339(task.finished),
        "exitCode": task.exit_code or 0,
        "exitDiagnostics": "",
    }


def _octopus_entry(record: JobRecord) -> dict[str, Any]:
    return {
        "jobID": record.key.name,
        "jobName": record.key.name,
        "jobKind": record.spec.kind,
        "namespace": record.key.namespace,
        "userID": record.user,
        "state": _octopus_word(record.status),
        "createdAt": _rfc3339(record.created),
        "finishedAt": _rfc3339(record.finished),
        "jobDetail": _octopus(record),
        "jobConfig": json.dumps(record.spec.body()),
    }


def _octopus_word(status: JobStatus) -> str:
    return _OCTOPUS_WORDS.get(status, status.value.lower())


def _octopus_jobs(entries: list[Any], _: int) -> dict[str, Any]:
    return {"jobs": entries}


def _octopus_envelope(payload: Any) -> dict[str, Any]:
    return {"code": "OPERATION_SUCCEEDED", "msg": "success", "payload": payload}


# volcano: the Kubernetes object itself. Times are RFC 3339, and there is neither an exit code nor a start.

_VOLCANO_PHASES = {
    JobStatus.WAITING: "Pending",
    JobStatus.STOPPING: "Aborting",
    JobStatus.STOPPED: "Aborted",
    JobStatus.SUCCEEDED: "Completed",
}
_VOLCANO_KIND = "batch.volcano.sh/v1alpha1"


def _volcano(record: JobRecord) -> dict[str, Any]:
    statuses = [task.status for task in record.tasks]
    return {
        "apiVersion": _VOLCANO_KIND,
        "kind": "Job",
        "metadata": {
            "name": record.key.name,
            "namespace": record.key.namespace,
            "creationTimestamp": _rfc3339(record.created),
            "labels": {"leinao.ai/kind": record.spec.kind},
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
    return {"apiVersion": _VOLCANO_KIND, "kind": "JobList", "metadata": {}, "items": entries}


# business: the layer behind the platform's own web pages. A time may be text, and one state is misspelled.


def _business(record: JobRecord) -> dict[str, Any]:
    return {
        "jobName": record.key.name,
        "state": "STOPING" if record.status is JobStatus.STOPPING else record.word,
        "createTime": str(record.created),
        "completedTime": record.finished or None,
        "remark": "",
        "config": json.dumps(record.spec.body()),
    }


def _business_list(entries: list[Any], total: int) -> dict[str, Any]:
    return {"list": entries, "total": total}


def _business_envelope(data: Any) -> dict[str, Any]:
    return {"message": {"status": 200, "code": 0, "message": "success"}, "data": data}


def _bare(data: Any) -> Any:
    return data


def _rfc3339(milliseconds: int) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "default": Profile(_default, _default, _items, _platforms),
        "flat": Profile(_flat, _flat, _items, _platforms),
        "openpai": Profile(_openpai, _openpai_entry, lambda entries, _: entries, _bare),
        "octopus": Profile(_octopus, _octopus_entry, _octopus_jobs, _octopus_envelope),
        "volcano": Profile(_volcano, _volcano, _volcano_list, _bare),
        "business": Profile(_business, _business, _business_list, _business_envelope),
    }
)
