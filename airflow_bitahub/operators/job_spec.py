"""From an operator's arguments to the specification of a job. Pure: nothing here asks the platform or Airflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from airflow_bitahub import storage
from airflow_bitahub.api.jobs import JobSpec, Mount
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.storage import Folders


def job_spec(**fields: Any) -> JobSpec:
    """Return the specification with these fields.

    :raises ConfigurationError: the platform could not accept them
    """
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from error


def mount(path: str, mount_path: str) -> Mount:
    """Return a mount of the server's `path` at the container's `mount_path`.

    :raises ConfigurationError: one of them is not an absolute path
    """
    try:
        return Mount.of(path, mount_path)
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from error


def input_mounts(
    folders: Folders,
    *,
    project: str,
    code_path: str | None,
    datasets: Sequence[str | Mapping[str, str]],
    models: Sequence[str | Mapping[str, str]] | None,
) -> dict[str, Any]:
    """Return the fields ``code``, ``datasets`` and ``models`` of a specification.

    :param code_path: a server path, in which ``{project}`` stands for the project; None or "": no code
    :param datasets: names, or folders as in `folder_mount`
    :param models: names, server paths of a version, or folders as in `folder_mount`; None: the field is not sent
    """
    code = None
    if code_path:
        code = mount(folders.fill(code_path).replace("{project}", project), storage.CODE)
    return {
        "code": code,
        "datasets": [folder_mount(folders, item, folders.dataset) for item in as_list("datasets", datasets)],
        "models": None
        if models is None
        else [folder_mount(folders, item, folders.model_mount) for item in as_list("models", models)],
    }


def folder_mount(folders: Folders, item: str | Mapping[str, str], by_name: Callable[[str], tuple[str, str]]) -> Mount:
    """Return the mount of a folder that is given by name, or by its server path and container path.

    :param item: a name, or ``{"path": server path, "mount_path": container path}``
    :param by_name: returns the server path and container path for a name
    """
    if isinstance(item, str):
        return mount(*by_name(folders.fill(item)))
    if not isinstance(item, Mapping):  # None, where the XCom of a template is missing
        raise ConfigurationError(f"A folder is a name, or has 'path' and 'mount_path'; {item!r} is neither.")
    try:
        return mount(folders.fill(item["path"]), folders.fill(item["mount_path"]))
    except KeyError as error:
        raise ConfigurationError(f"A folder needs 'path' and 'mount_path'; {dict(item)} lacks {error}.") from error


def task_role(
    folders: Folders, role: Mapping[str, Any], *, defaults: Mapping[str, Any], accelerator: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the fields of one task role.

    :param role: the role's own fields, which come before the defaults
    :param defaults: the fields of every role: ``image``, ``command``, ``cpu`` and so on
    :param accelerator: the accelerators of every role; None: none
    """
    if not isinstance(role, Mapping):
        raise ConfigurationError(f"A task role is a mapping of fields, not {role!r}.")
    image = role.get("image") or defaults["image"]
    if not image:
        raise ConfigurationError(NO_IMAGE)
    command = folders.fill(role.get("command") or defaults["command"])
    return {**defaults, "acc_device": accelerator, **role, "image": image, "command": command}


NO_IMAGE = "Give an image, or set default_image in the extra of the Airflow connection."


def accelerator(device_type: str | None, count: int | str) -> dict[str, Any] | None:
    """Return the accelerators of one replica; None where no device type is given."""
    return {"device_type": device_type, "requests": count} if device_type else None


def check_extra_body(extra_body: Any) -> None:
    """Raise ConfigurationError when `extra_body` is no mapping, or would replace the job's name."""
    if extra_body is not None and (not isinstance(extra_body, Mapping) or "jobName" in extra_body):
        raise ConfigurationError("extra_body must be a mapping of fields, without jobName: the name is job_name.")


def as_list(name: str, value: Any) -> list[Any]:
    """Return a sequence as a list. Raises ConfigurationError, with the argument's name, when it is none."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"{name} must be a list, not {value!r}.")
    return list(value)


def explain(error: ValidationError) -> str:
    """Return pydantic's complaints about arguments as one sentence."""
    problems = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
        for problem in error.errors()
    )
    return f"The platform could not accept these arguments, so nothing was sent: {problems}."
