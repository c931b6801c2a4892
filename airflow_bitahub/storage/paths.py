"""The platform's folders: their paths on the server and in a container.

Server paths (seed): ``/projects/{user_id}/{project}/code`` and ``.../outputs/{n}``, ``/datasets/{user_id}/{dataset}``,
``/models/{user_id}/{model}``. Container paths (seed): ``/code``, ``/output``, ``/data/{user_name}/{dataset}``,
``/model/{user_name}/{model}``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_bitahub.exceptions import ConfigurationError

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
