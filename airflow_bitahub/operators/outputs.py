"""Files that a job has written, as entries of its task's result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_bitahub.exceptions import ConfigurationError, FileNotReadyError, StorageError
from airflow_bitahub.links import BitaHubJobLink
from airflow_bitahub.operators.arguments import Check, as_mapping, as_text
from airflow_bitahub.operators.xcom import problem_as_xcom
from airflow_bitahub.texts import make_storable, parse_json, shorten

if TYPE_CHECKING:
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.storage.storage import Storage

# Entries of every result, and keys under which Airflow or this package store something else.
_TAKEN = (
    *("job_name", "status", "output_path", "queue_seconds", "run_seconds", "exit_code"),
    *("code_digest", "bundle_version", "return_value", BitaHubJobLink().xcom_key),
)


@dataclass(frozen=True)
class OutputFile:
    """A file that a job writes.

    :param argument: the operator's argument that names it, for messages
    :param name: its path below the output folder
    :param is_metrics: it must be a JSON object, whatever its name
    """

    argument: str
    name: str
    is_metrics: bool = False

    def path_in(self, folder: str) -> str:
        """Return its server path, in an output folder."""
        return f"{folder}/{self.name}"

    def read(self, storage: Storage, folder: str) -> Any:
        """Return its content.

        :raises FileNotReadyError: it is missing or incomplete
        :raises StorageError: it cannot be read, or cannot become a result in Airflow
        """
        from airflow_bitahub.storage.limits import RESULT_LIMIT

        path = self.path_in(folder)
        content = storage.read_bytes(self.argument, path, RESULT_LIMIT)
        if not (self.is_metrics or self.name.endswith(".json")):
            return make_storable(content.decode("utf-8-sig", "replace"))
        try:
            value = parse_json(content)
        except ValueError as error:  # the job's last bytes may not have arrived here
            raise FileNotReadyError(f"{self.argument}: {path} is not JSON: {error}") from error
        if self.is_metrics and not isinstance(value, dict):
            raise StorageError(
                f"{self.argument}: {path} contains {shorten(str(value), 100)!r} instead of a JSON object of metrics."
            )
        if problem := problem_as_xcom(value):
            raise StorageError(f"{self.argument}: {path} cannot become a result in Airflow: {problem}.")
        return value


def read_outputs(hook: BitaHubHook, folder: str, files: Mapping[str, OutputFile]) -> dict[str, Any]:
    """Return the contents of files in the output folder of a job that has finished, by the names given.

    :raises StorageError: one of them cannot be read, or is still missing after a while
    """
    from airflow_bitahub.procedures.results import read_when_visible

    return {
        name: hook.run(read_when_visible(lambda file=file: file.read(hook.storage, folder)))  # type: ignore[misc]
        for name, file in files.items()
    }


def as_outputs(*taken: str) -> Check:
    """Return a check that takes a mapping from entries of the result to files in the output folder.

    :param taken: further entries that the result has anyway
    """

    def check(name: str, value: Any) -> dict[str, str]:
        files = as_mapping(name, value)
        for key in files:
            if not isinstance(key, str) or not key.strip() or key in (*_TAKEN, *taken):
                raise ConfigurationError(
                    f"{name} must have other keys than {key!r}: choose a name that the task's result does not have."
                )
        return {key: _relative(f"{name}[{key!r}]", file) for key, file in files.items()}

    return check


def _relative(name: str, value: Any) -> str:
    text = as_text(name, value)
    if text.startswith("/") or ".." in text.split("/"):
        raise ConfigurationError(f"{name} must be a path below /output, such as 'report.md', without '..'.")
    return text
