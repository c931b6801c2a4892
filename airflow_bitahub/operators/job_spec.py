"""From an operator's arguments to the specification of a job. Pure: nothing here asks the platform or Airflow."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from airflow_bitahub.api.jobs import JobSpec, Mount, MountSource, TaskRole
from airflow_bitahub.api.servings import ServingModel, ServingProtocol, ServingResource, ServingSpec
from airflow_bitahub.api.wire import Accelerator
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.storage import paths
from airflow_bitahub.storage.paths import Folders


def job_spec(**fields: Any) -> JobSpec:
    """Return the specification with these fields.

    :raises ConfigurationError: the platform could not accept them
    """
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as error:
        # Most jobs have one role, which is made of the operator's own arguments.
        implied = "task_roles[0]" if len(fields["task_roles"]) == 1 else ""
        raise ConfigurationError(explain(error, implied)) from None


def serving_spec(**fields: Any) -> ServingSpec:
    """Return the specification with these fields.

    :raises ConfigurationError: the platform could not accept them
    """
    try:
        return ServingSpec.model_validate(fields)
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from None


def mount(path: str, mount_path: str) -> Mount:
    """Return a mount of the server's `path` at the container's `mount_path`.

    :raises ConfigurationError: one of them is not an absolute path
    """
    try:
        return Mount.of(path, mount_path)
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from None


def input_mounts(
    folders: Folders,
    *,
    project: str,
    code_path: str | None,
    datasets: Sequence[str | Mapping[str, str]],
    models: Sequence[str | Mapping[str, str]] | None,
) -> dict[str, Any]:
    """Return the fields ``code``, ``datasets`` and ``models`` of a specification.

    :param code_path: a server path, in which ``{project}`` stands for the project; None: no code
    :param datasets: names, or folders as in `folder_mount`
    :param models: names, server paths of a version, or folders as in `folder_mount`; None: the field is not sent
    """
    code = None
    if code_path:
        code = mount(folders.fill(code_path).replace("{project}", project), paths.CODE)
    return {
        "code": code,
        "datasets": [folder_mount(folders, item, folders.dataset) for item in datasets],
        "models": None if models is None else [folder_mount(folders, item, folders.model_mount) for item in models],
    }


def folder_mount(folders: Folders, item: str | Mapping[str, str], by_name: Callable[[str], tuple[str, str]]) -> Mount:
    """Return the mount of a folder that is given by name, or by its server path and container path.

    :param item: a name, or ``{"path": server path, "mount_path": container path}``
    :param by_name: returns the server path and container path for a name
    """
    if isinstance(item, str):
        return mount(*by_name(folders.fill(item)))
    return mount(folders.fill(item["path"]), folders.fill(item["mount_path"]))


def task_role(
    folders: Folders, role: Mapping[str, Any], *, defaults: Mapping[str, Any], accelerator: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the fields of one task role.

    :param role: the role's own fields, which come before the defaults
    :param defaults: the fields of every role: ``image``, ``command``, ``cpu`` and so on; one that is None is not set
    :param accelerator: the accelerators of every role; None: none
    """
    image = role.get("image") or defaults["image"]
    if not image:
        raise ConfigurationError(NO_IMAGE)
    command = folders.fill(role.get("command") or defaults["command"])
    merged = {**defaults, "acc_device": accelerator, **role, "image": image, "command": command}
    return {name: value for name, value in merged.items() if value is not None}


def exports(variables: Mapping[str, str]) -> str:
    """Return what a command begins with to have environment variables, for which a submission has no field.

    :param variables: set together, and only where the first of them is not set anyway: by the image, for example
    """
    if not variables:
        return ""
    setting = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    # The default is for a shell that takes an unset variable for an error.
    return f'[ -n "${{{next(iter(variables))}-}}" ] || export {setting}; '


NO_IMAGE = "Give an image, or set default_image in the extra of the Airflow connection."


def accelerator(device_type: str | None, count: int | str) -> dict[str, Any] | None:
    """Return the accelerators of one replica; None where no device type is given."""
    return {"device_type": device_type, "requests": count} if device_type else None


def explain(error: ValidationError, implied: str = "") -> str:
    """Return pydantic's complaints about arguments as one sentence, in the operator's words and without any value.

    :param implied: the beginning of a field's path that goes without saying
    """
    problems = "; ".join(_problems(error, implied))
    return f"The platform could not accept these arguments, so nothing was sent: {problems}."


def _problems(error: ValidationError, implied: str) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False):
        if problem["type"] == "default_factory_not_called":
            continue  # it follows from another problem
        where = "".join(
            f"[{part}]" if isinstance(part, int) else f".{_NAMES.get(part, part)}" for part in problem["loc"]
        )
        where = where.removeprefix(".").removeprefix(implied).removeprefix(".")
        what = problem["msg"].removeprefix("Value error, ")
        yield f"{where}: {what}" if where else what


def _names(*models: type[BaseModel]) -> dict[str, str]:
    return {field.alias: name for model in models for name, field in model.model_fields.items() if field.alias}


# The platform's spelling of a field -> the name that a DAG uses.
_NAMES: Mapping[str, str] = {
    **_names(JobSpec, TaskRole, MountSource, Accelerator),
    **_names(ServingSpec, ServingModel, ServingResource, ServingProtocol),
    "queue": "platform_queue",
}
