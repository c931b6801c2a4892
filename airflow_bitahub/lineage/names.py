"""The names of what tasks read and write, as OpenLineage's standard says. Pure: nothing here asks anybody.

Models and servings exist on the platform, so they are in its namespace: ``bitahub://{platform}`` and
``models/{user_id}/{model}`` or ``servings/{name}``. Any other folder is named by where its files are, as every program
that reads them names it: ``s3://bucket`` and the object's key, or ``file`` and the path. Without a ``storage_uri`` in
the connection it is in the platform's namespace, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MODELS, _SERVINGS = "models", "servings"
_SCHEMES = {"": "file", "local": "file", "s3a": "s3", "s3n": "s3", "gcs": "gs"}
_WITH_KEYS = ("s3", "gs")  # whose objects have keys, which begin with no slash


@dataclass(frozen=True)
class Material:
    """What a task reads or writes.

    :param path: a server path of the platform, or ``/servings/{name}``
    :param version: its version, where the path does not say it
    :param metrics: how good it is, by the metrics' names
    :param is_removed: the task has removed it
    """

    path: str
    version: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    is_removed: bool = False


@dataclass(frozen=True)
class Name:
    """The name of a dataset.

    :param kind: ``model``, ``serving`` or ``folder``
    :param version: the version that the path says; None: it says none
    """

    namespace: str
    name: str
    kind: str
    version: str | None = None


def name_of(path: str, host: str, storage_uri: str) -> Name:
    """Return the name of a server path, or of ``/servings/{name}``.

    :param host: the platform's, with its port
    :param storage_uri: the address of the platform's storage, as Airflow's object storage takes it; "": not known
    """
    namespace, parts = f"bitahub://{host}", path.strip("/").split("/")
    if parts[0] == _MODELS and len(parts) > 2:
        return Name(namespace, "/".join(parts[:3]), "model", parts[3] if len(parts) > 3 else None)
    if parts[0] == _SERVINGS:
        return Name(namespace, "/".join(parts), "serving")
    if storage_uri:
        return Name(*name_in_storage(path, storage_uri), "folder")
    return Name(namespace, "/".join(parts), "folder")


def name_in_storage(path: str, storage_uri: str) -> tuple[str, str]:
    """Return the namespace and name of a server path on a storage."""
    scheme, separator, rest = storage_uri.partition("://")
    if not separator:
        scheme, rest = "", storage_uri
    scheme = _SCHEMES.get(scheme, scheme)
    authority, _, folder = rest.partition("/") if separator else ("", "", rest.lstrip("/"))
    authority = authority.rpartition("@")[2]  # before it, Airflow has the id of the storage's own connection
    name = "/".join(part for part in (*folder.split("/"), *path.split("/")) if part)
    if scheme == "file" and not authority:
        return "file", f"/{name}"
    return f"{scheme}://{authority}", name if scheme in _WITH_KEYS else f"/{name}"
