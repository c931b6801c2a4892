"""Whether what a task instance has on record is its own.

Who may edit a DAG's task instances in Airflow may write anything into their state store: the name of another team's
job, or another folder of the storage. So the pages use a record only where it could not be made up: it contains a
token, which nobody can guess, or it is what the task's own arguments say, which only the DAG's file decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.identity import is_counted, is_unique_part, marker_in
from airflow_bitahub.storage.paths import Folders, is_server_path


def is_own_job(name: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a job is the task's own.

    :param arguments: the task's, as they were rendered
    """
    return bool(marker_in(name)) or is_counted(name, arguments.get("job_name"))


def run_in(owner: str, dag_id: str) -> str:
    """Return the run of a DAG in words about a task instance; "" for another DAG. Who sees one may not know of others.

    :param owner: an `Owner` as text
    """
    return owner.partition(f" of {dag_id} ")[2]


def is_own_folder(path: str, arguments: Mapping[str, Any], folders: Folders) -> bool:
    """Return whether a server path is the output folder of one of the task's jobs.

    :param folders: those of the connection's user
    """
    root, _, version = path.rpartition("/")
    if not is_server_path(path) or ".." in path.split("/"):
        return False
    return is_unique_part(version) or (
        is_counted(version, arguments.get("output_version")) and root in _roots(arguments, folders)
    )


def _roots(arguments: Mapping[str, Any], folders: Folders) -> list[str]:
    roots = []
    with suppress(ConfigurationError):
        roots.append(folders.outputs(str(arguments.get("project"))))
    with suppress(ConfigurationError):
        roots.append(folders.model(folders.fill(str(arguments.get("model"))))[0])
    return roots
