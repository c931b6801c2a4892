"""Checks before a job or serving is submitted, so that a misspelt name does not fail after hours in a queue for a GPU.

Only what is certainly wrong is refused. Where the storage cannot be read now, or shows nothing at all, the platform
decides, as without a preflight.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.storage.paths import is_server_path
from airflow_bitahub.texts import contents_of, nearest

if TYPE_CHECKING:
    from airflow_bitahub.api.jobs import TaskRole
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.hooks.settings import Settings
    from airflow_bitahub.storage.storage import Storage

log = logging.getLogger(__name__)

# Pauses before a missing file or folder is looked up again: a network file system may show late what an earlier task's
# job has written.
PAUSES: Sequence[float] = (1, 2, 4)


@dataclass(frozen=True)
class Replica:
    """What one replica is made of, as the submission says.

    :param names: the operator's arguments that say so, where they are not the fields' own names
    """

    image: str
    cpu: int
    memory_mb: int
    accelerator: str | None
    names: Mapping[str, str]

    def argument(self, field: str) -> str:
        """Return the operator's argument that a field comes from."""
        return self.names.get(field, field)


@dataclass(frozen=True)
class Limits:
    """What the installation has, as far as the connection says.

    :param accelerators: the device types; empty: not known
    :param cpu: cores of the largest machine; infinity: not known
    :param memory_mb: its memory, likewise
    """

    accelerators: Sequence[str]
    cpu: float
    memory_mb: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return what a connection says."""
        return cls(settings.names("accelerators"), settings.limit("max_cpu"), settings.limit("max_memory_mb"))


def look(hook: BitaHubHook, replicas: Sequence[Replica], inputs: Mapping[str, str]) -> None:
    """Look before a submission whether it can work, unless the connection says that it is not to be done.

    :param inputs: server paths that must exist, by the operator's arguments that name them
    :raises ConfigurationError: it cannot work; the text names everything that is wrong
    """
    settings = hook.settings
    if not settings.flag("preflight", default=True):
        return
    problems = [problem for replica in replicas for problem in impossible(replica, Limits.of(settings))]
    for doubt in dict.fromkeys(image_without_version(replica) for replica in replicas):
        if doubt:
            log.warning("%s", doubt)
    if settings.text("storage_uri"):
        try:
            problems += missing(hook.storage, inputs)
        except StorageError as error:
            log.warning("Inputs were not looked up before the submission: %s", error)
    if problems:
        text = " ".join(dict.fromkeys(problems))  # roles may share one
        raise ConfigurationError(f"Nothing was submitted. {text} (preflight=False submits without this check.)")


def replicas_of(roles: Sequence[TaskRole], given: Sequence[Mapping[str, object]] | None) -> list[Replica]:
    """Return what a job's replicas are made of, one for each role.

    :param given: the operator's `task_roles`
    """
    found = []
    for number, role in enumerate(roles):
        names = {name: f"task_roles[{number}].{name}" for name in (given[number] if given else ())}
        if "acc_device" in names:
            names["accelerator"] = names["acc_device"]
        device = role.acc_device.device_type if role.acc_device else None
        found.append(Replica(role.image, role.cpu, role.memory_mb, device, names))
    return found


# The machine -----------------------------------------------------------------------------------------------------


def impossible(replica: Replica, limits: Limits) -> Iterator[str]:
    """Return what no machine of the installation has, in sentences."""
    wanted = replica.accelerator
    if wanted and limits.accelerators and wanted not in limits.accelerators:
        yield (
            f"{replica.argument('accelerator')} is {wanted!r}, which the Airflow connection's extra 'accelerators' "
            f"does not list.{nearest(wanted, limits.accelerators)} {contents_of('It', limits.accelerators)}"
        )
    for field, extra in (("cpu", "max_cpu"), ("memory_mb", "max_memory_mb")):
        number, most = getattr(replica, field), getattr(limits, field)
        if number > most:
            yield (
                f"{replica.argument(field)} is {number}, and no machine has more than {most:g} (the Airflow "
                f"connection's extra {extra!r})."
            )


def image_without_version(replica: Replica) -> str:
    """Return in a sentence that an image may be another one tomorrow; "" where its name says which one it is."""
    name, _, digest = replica.image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if digest or tag not in ("", "latest"):
        return ""
    what = "the tag 'latest'" if tag else "no tag"
    return (
        f"{replica.argument('image')}: {replica.image!r} has {what}, so it may be another image tomorrow, and on each "
        f"machine. Name a version."
    )


# The storage -----------------------------------------------------------------------------------------------------


def missing(storage: Storage, inputs: Mapping[str, str]) -> list[str]:
    """Return which inputs do not exist, in sentences with the nearest spelling and what is there instead.

    :param inputs: server paths, by the arguments that name them
    :raises StorageError: the storage cannot be read now
    """
    places = {argument: path for argument, path in inputs.items() if is_server_path(path)}
    unseen = {
        area for area in {_area(path) for path in places.values()} if not storage.list_folder("storage_uri", area, 1)
    }
    places = {argument: path for argument, path in places.items() if _area(path) not in unseen}
    for pause in (*PAUSES, None):
        places = {argument: path for argument, path in places.items() if not storage.has(argument, path)}
        if not places or pause is None:
            break
        time.sleep(pause)
    problems = [_explain(storage, argument, path) for argument, path in places.items()]
    if unseen and not problems:
        raise StorageError(
            f"Airflow finds nothing in {' and '.join(sorted(unseen))} below storage_uri. Is the storage mounted?"
        )
    return problems


def _area(path: str) -> str:
    """Return the folder of all projects, datasets or models."""
    return f"/{path.split('/')[1]}/"


def _explain(storage: Storage, argument: str, path: str) -> str:
    """Return the first part of a path that is missing, and what is there instead."""
    folder = _area(path)
    for part in filter(None, path.removeprefix(folder).split("/")):
        inner = f"{folder}{part}"
        if not storage.has(argument, inner):
            names = [entry.name for entry in storage.list_folder(argument, folder) or ()]
            there = folder.rstrip("/")
            hint = _HINTS.get(argument, "")
            return f"{argument}: {inner} does not exist.{nearest(part, names)} {contents_of(there, names)}{hint}"
        folder = f"{inner}/"
    return f"{argument}: {path} does not exist."


_HINTS = {"code_path": " Give code=..., or code_path=None for a job without code."}
