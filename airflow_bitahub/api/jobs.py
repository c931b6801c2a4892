"""Jobs: the body of a submission (seed), and the calls. How a job is read from an answer is in `job_reading`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from airflow_bitahub.api.envelope import accept, unwrap
from airflow_bitahub.api.job_log import last_lines
from airflow_bitahub.api.job_reading import Job, JobPage, read_job, read_job_page
from airflow_bitahub.api.names import DNS_LABEL
from airflow_bitahub.api.platform import Platform
from airflow_bitahub.api.protocol import Call, Request, Response
from airflow_bitahub.api.wire import Accelerator, StrictModel, task_url_header

# A job's name becomes the name of a Kubernetes object (vendor).
Name = Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=63)]


class MountSource(StrictModel):
    """A server path, and the path at which the container sees it."""

    path: str
    mount_path: str

    @field_validator("path", "mount_path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or ".." in value.split("/"):
            raise ValueError(f"{value!r} is not an absolute path without '..'")
        return value


class Mount(StrictModel):
    """A folder of the platform's storage in the container."""

    kind: Literal["nfs"] = "nfs"
    mount_source: MountSource

    @classmethod
    def of(cls, path: str, mount_path: str) -> Mount:
        """Return a mount of the server's `path` at the container's `mount_path`."""
        return cls(mount_source=MountSource(path=path, mount_path=mount_path))


class TaskRole(StrictModel):
    """One role of a job: its program, and what each of its replicas gets.

    :param cpu: cores
    :param memory_mb: memory in MB
    :param shm_mb: shared memory in MB, at most `memory_mb`; default: half of it, as in the document
    :param task_number: the number of replicas
    :param command: one shell line
    :param acc_device: the accelerators; None: none
    :param min_failed_task_count: the whole job fails when this many replicas of the role have failed; None: one
        (family)
    :param min_succeeded_task_count: the whole job succeeds when this many replicas of the role have succeeded; None: it
        does not end early (family)
    """

    cpu: Annotated[int, Field(ge=1, alias="cpuNumber")] = 2
    memory_mb: Annotated[int, Field(ge=1, alias="memoryMB")] = 16384
    image: Annotated[str, StringConstraints(min_length=1)]
    shm_mb: Annotated[int, Field(ge=0, alias="shmMB")] = Field(default_factory=lambda fields: fields["memory_mb"] // 2)
    task_role_name: Name = "task1"
    task_number: Annotated[int, Field(ge=1)] = 1
    command: Annotated[str, StringConstraints(min_length=1)]
    acc_device: Accelerator | None = None
    min_failed_task_count: Annotated[int, Field(ge=1)] | None = None
    min_succeeded_task_count: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _shm_fits(self) -> TaskRole:
        if self.shm_mb > self.memory_mb:
            raise ValueError(f"shm_mb {self.shm_mb} is more than memory_mb {self.memory_mb}")
        return self

    @model_validator(mode="after")
    def _counts_fit(self) -> TaskRole:
        if max(self.min_failed_task_count or 0, self.min_succeeded_task_count or 0) > self.task_number:
            raise ValueError(
                f"min_failed_task_count or min_succeeded_task_count is more than task_number {self.task_number}"
            )
        return self


class JobSpec(StrictModel):
    """The body of a submission (seed, version 2.0). A field that is None is not sent.

    :param retry_count: how often the platform itself runs a failed job again, over the same output folder (client)
    """

    job_name: Name
    api_version: Literal["2.0"] = "2.0"
    kind: str = "training"
    capabilities: list[Any] = Field(default_factory=list)
    code: Mount | None = None
    datasets: list[Mount] = Field(default_factory=list)
    output: Mount | None = None
    models: list[Mount] | None = None
    task_roles: Annotated[list[TaskRole], Field(min_length=1)]
    queue: str = "default"
    retry_count: Annotated[int, Field(ge=0, le=10)] | None = None

    @model_validator(mode="after")
    def _no_collision(self) -> JobSpec:
        targets = [mount.mount_source.mount_path.rstrip("/") for mount in self.mounts]
        for target in targets:
            if targets.count(target) > 1:
                raise ValueError(f"two folders are mounted at {target}")
        roles = [role.task_role_name for role in self.task_roles]
        if len(set(roles)) < len(roles):
            raise ValueError("two task roles have the same name")
        return self

    @property
    def mounts(self) -> list[Mount]:
        """All folders that the job sees."""
        return [mount for _, mount in self.named_mounts]

    @property
    def named_mounts(self) -> list[tuple[str, Mount]]:
        """All folders that the job sees, each with what it is: ``code``, ``dataset``, ``model`` or ``output``."""
        return [
            *((name, mount) for name, mount in (("code", self.code), ("output", self.output)) if mount is not None),
            *(("dataset", mount) for mount in self.datasets),
            *(("model", mount) for mount in self.models or ()),
        ]

    @property
    def accelerators(self) -> Counter[str]:
        """The number of devices by type, of all replicas together."""
        found = Counter[str]()
        for role in self.task_roles:
            if role.acc_device is not None:
                found[role.acc_device.device_type] += role.acc_device.requests * role.task_number
        return found


def submit_job(spec: JobSpec, extra_body: Mapping[str, Any] | None = None, task_url: str = "") -> Call[None]:
    """Submit a job (seed). The answer is not documented; the job is found again by its name.

    :param extra_body: fields that this package does not know, merged into the body last
    :param task_url: the page of the Airflow task that submits it; "": none
    """
    request = Request(
        f"submit job {spec.job_name!r}",
        "submit_job",
        {"name": spec.job_name},
        json_body={**spec.body(), **(extra_body or {})},
        headers=task_url_header(task_url),
    )
    return Call(request, lambda response, platform: accept(response, request, platform))


def get_job(name: str, known: Job | None = None) -> Call[Job]:
    """Query a job (assumed: at the address of its submission). Raises NotFoundError when the platform has none.

    :param known: the job as last reported; returned unchanged while its raw state is the same and not final
    """
    request = Request(f"get job {name!r}", "get_job", {"name": name})

    def read(response: Response, platform: Platform) -> Job:
        return read_job(unwrap(response, request, platform), platform, name, known)

    return Call(request, read, safe_to_repeat=True)


def list_jobs(page: int = 1, page_size: int = 100, known: Mapping[str, Job | None] | None = None) -> Call[JobPage]:
    """Query one page of the namespace's jobs (assumed: KubeSphere's collection with `page` and `limit`).

    :param page: counted from 1
    :param page_size: entries on a page; a platform that does not know pages returns all jobs on each
    :param known: read only jobs of these names, see `read_job_page`; None: all
    """
    request = Request("list jobs", "list_jobs", query={"page": str(page), "limit": str(page_size)})

    def read(response: Response, platform: Platform) -> JobPage:
        data = unwrap(response, request, platform)
        return read_job_page(data, platform, len(response.body), known)

    return Call(request, read, safe_to_repeat=True)


def stop_job(name: str) -> Call[None]:
    """Stop a live job (assumed: DELETE). It is not safe to repeat: it may remove the record of a finished job."""
    request = Request(f"stop job {name!r}", "stop_job", {"name": name})
    return Call(request, lambda response, platform: accept(response, request, platform))


def read_job_log(name: str, tail_lines: int = 100) -> Call[str]:
    """Read the last lines that a job printed (assumed; no source shows an address for the platform itself)."""
    request = Request(f"read the log of job {name!r}", "read_job_log", {"name": name}, {"tailLines": str(tail_lines)})

    def read(response: Response, platform: Platform) -> str:
        return last_lines(unwrap(response, request, platform), tail_lines)

    return Call(request, read, safe_to_repeat=True)
