"""The platform's folders: their paths on the server and in a container, and reading files in them from Airflow.

Server paths (seed): ``/projects/{user_id}/{project}/code`` and ``.../outputs/{n}``, ``/datasets/{user_id}/{dataset}``,
``/models/{user_id}/{model}``. Container paths (seed): ``/code``, ``/output``, ``/data/{user_name}/{dataset}``,
``/model/{user_name}/{model}``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_bitahub.exceptions import ConfigurationError, StorageError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

CODE = "/code"
OUTPUT = "/output"
PREDICTION = "/prediction"
_ROOTS = ("/projects/", "/datasets/", "/models/")


@dataclass(frozen=True)
class Folders:
    """One user's folders on the platform.

    :param user_id: the user in server paths
    :param user_name: the user in container paths
    """

    user_id: str
    user_name: str

    def code(self, project: str) -> str:
        """Return the server path of a project's code."""
        return f"/projects/{self.user_id}/{path_part('project', project)}/code"

    def outputs(self, project: str) -> str:
        """Return the server path under which a project's jobs write."""
        return f"/projects/{self.user_id}/{path_part('project', project)}/outputs"

    def dataset(self, name: str) -> tuple[str, str]:
        """Return the server path and container path of a dataset."""
        in_shell = re.sub(r"[^\w.-]+", "_", name)
        spelt_out = {"path": f"/datasets/{{user_id}}/{name}", "mount_path": f"/data/{{user_name}}/{in_shell}"}
        path_part("dataset", name, f"; or give the folder itself: {spelt_out}")
        return f"/datasets/{self.user_id}/{name}", f"/data/{self.user_name}/{name}"

    def model(self, name: str) -> tuple[str, str]:
        """Return the server path and container path of a model."""
        path_part("model", name, f"; or give its path: '/models/{{user_id}}/{name}'")
        return f"/models/{self.user_id}/{name}", f"/model/{self.user_name}/{name}"

    def model_mount(self, model: str) -> tuple[str, str]:
        """Return the server path and container path of a model, given by name or by the server path of a version."""
        if not model.startswith("/"):
            return self.model(model)
        parts = model.split("/")
        if not model.startswith("/models/") or len(parts) < 4 or ".." in parts:
            raise ConfigurationError(
                f"{model!r} is not a model: give its name, or a path like /models/<user>/<model>/<version>."
            )
        return model, f"/model/{self.user_name}/{parts[3]}"

    def fill(self, text: str) -> str:
        """Return `text` with ``{user_id}`` and ``{user_name}`` replaced; a shell's ``${user_id}`` is left unchanged.

        :raises ConfigurationError: it is no text, for example because the XCom in a template is missing
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"Expected text, got {text!r}. Did the upstream task return no value?")
        values = {"user_id": self.user_id, "user_name": self.user_name}
        return re.sub(r"(?<!\$)\{(user_id|user_name)\}", lambda match: values[match[1]], text)


def path_part(what: str, value: str, instead: str = "") -> str:
    """Return `value` if it can be one part of a server path and of a shell command.

    :param instead: what to give instead, for the error; it does not work for a value that contains ``..``
    :raises ConfigurationError: it cannot
    """
    if not re.fullmatch(r"[\w.-]+", value) or value.startswith("."):
        raise ConfigurationError(
            f"{what} {value!r} cannot be part of a path: use letters, digits, '-', '_' and '.', not starting with '.'"
            f"{'' if '..' in value.split('/') else instead}."
        )
    return value


def is_server_path(path: str) -> bool:
    """Return whether `path` is a server path of the platform."""
    return path.startswith(_ROOTS)


class Storage:
    """The platform's storage as Airflow reaches it.

    :param uri: where workers see the folders ``projects``, ``datasets`` and ``models``, such as
        ``file:///mnt/bitahub``, or any address that Airflow's object storage supports
    """

    def __init__(self, uri: str) -> None:
        # A file URI writes a space as %20; Airflow's object storage uses what follows the scheme unchanged.
        self.uri = (unquote(uri) if uri.startswith("file:") else uri).rstrip("/")

    def path(self, server_path: str) -> ObjectStoragePath:
        """Return the path at which Airflow opens a server path."""
        from airflow.sdk import ObjectStoragePath  # costs far more than the rest of this package

        if not is_server_path(server_path) or ".." in server_path.split("/"):
            raise ConfigurationError(f"{server_path!r} is not below /projects, /datasets or /models.")
        return ObjectStoragePath(self.uri) / server_path.lstrip("/")

    def read_bytes(self, server_path: str) -> bytes:
        """Read a file. Raises StorageError when it does not exist or cannot be read."""
        path = self.path(server_path)
        try:
            return read_bytes(path)
        except FileNotFoundError as error:
            raise StorageError(
                f"{server_path} does not exist (Airflow reads it at {path}). Check that the job wrote it, and that "
                f"storage_uri of the Airflow connection shows the platform's storage."
            ) from error

    def read_json(self, server_path: str) -> Any:
        """Read a JSON file. NaN and infinities become None: JSON has no such values, and XCom refuses them.

        :raises StorageError: it does not exist, cannot be read or is not JSON
        """
        try:
            return json.loads(self.read_bytes(server_path), parse_constant=lambda _: None)
        except ValueError as error:
            raise StorageError(f"{server_path} is not JSON: {error}") from error


def read_bytes(path: ObjectStoragePath) -> bytes:
    """Read a file at any path. Raises FileNotFoundError, or StorageError when it cannot be read."""
    try:
        content: bytes = path.read_bytes()
    except FileNotFoundError:
        raise
    except Exception as error:  # every kind of storage has its own errors
        raise StorageError(f"{path} cannot be read: {error}") from error
    return content
