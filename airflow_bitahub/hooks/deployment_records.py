"""Where the records of servings are kept: in Airflow's Variables, which outlast tasks, runs and DAGs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Variable

from airflow_bitahub.exceptions import StateUnknownError
from airflow_bitahub.procedures.deployments import deployment_from_json, intent_from_json, to_json

if TYPE_CHECKING:
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.procedures.deployments import Deployment, Intent

DEPLOYMENT_KEY = "bitahub_serving."  # a Variable's key; the platform, the name and the version follow
INTENT_KEY = "bitahub_serving_intent."  # likewise


class VariableRecords:
    """The record of one serving, in two Variables.

    Their keys contain the platform and not the connection: every connection to the same platform finds them.

    :ivar key: what follows `DEPLOYMENT_KEY` in the key of the Variable
    """

    def __init__(self, hook: BitaHubHook, name: str, version: str) -> None:
        self.key = f"{hook.platform_id}.{name}.{version}"

    def load(self) -> Deployment | None:
        """Return the record; None: this Airflow deployed no such serving."""
        stored = self.read(DEPLOYMENT_KEY + self.key)
        return None if stored is None else deployment_from_json(stored)

    def save(self, record: Deployment) -> None:
        """Store the record."""
        self._store(DEPLOYMENT_KEY, record, "The versions of a serving that BitaHubDeployServingOperator deployed")

    def load_intent(self) -> Intent | None:
        """Return the creation that was last begun; None: there was none."""
        stored = self.read(INTENT_KEY + self.key)
        return None if stored is None else intent_from_json(stored)

    def save_intent(self, intent: Intent) -> None:
        """Store that a creation begins."""
        self._store(INTENT_KEY, intent, "How BitaHubDeployServingOperator recognizes a serving that it is creating")

    def read(self, key: str) -> Any:
        """Return the JSON value of a Variable; None: there is none.

        To Airflow, a failed query of a value looks like a missing Variable, but a failed query of keys is an error. Our
        own serving must not look like someone else's because of that.
        """
        for _ in range(2):  # it may have been set between the two queries
            stored = Variable.get(key, default=None, deserialize_json=True)
            if stored is not None or key not in Variable.keys(prefix=key):
                return stored
        raise StateUnknownError(f"Airflow has the Variable {key!r}, but did not return its value. Try again.")

    def write(self, key: str, value: Any, description: str) -> None:
        """Set a Variable to a JSON value."""
        Variable.set(key, value, description=description, serialize_json=True)

    def _store(self, prefix: str, record: Deployment | Intent, description: str) -> None:
        self.write(prefix + self.key, to_json(record), description)
