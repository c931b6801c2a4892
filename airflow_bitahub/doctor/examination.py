"""One examination: the connection with what was found so far, and what has to be removed at its end."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_bitahub.client import drive
from airflow_bitahub.doctor.extras import merged
from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.diagnosis import diagnose
from airflow_bitahub.procedures.probing import Found, Trial, find_endpoint
from airflow_bitahub.procedures.retry import Retry

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call, Procedure
    from airflow_bitahub.client import BitaHubClient
    from airflow_bitahub.doctor.report import Report
    from airflow_bitahub.hooks.settings import Settings

T = TypeVar("T")
NAME = "bitahub-doctor"  # what the names of all its jobs, servings and folders begin with


class Examination:
    """Asks the platform through a connection, with further extras where these are tried or were found.

    :param hook: the connection
    :param timeout: seconds to wait at most for a job to start or end, and likewise for a serving
    """

    def __init__(self, hook: BitaHubHook, report: Report, *, timeout: float) -> None:
        self.report = report
        self.timeout = timeout
        self.stated = hook.settings
        self.found: dict[str, Any] = {}
        self.mark = secrets.token_hex(4)
        self.ended_in = ""  # the platform's word for a job that succeeded, where its meaning is not known
        self._conn_id = hook.bitahub_conn_id
        self._clients: dict[str, BitaHubClient] = {}
        self._left: dict[str, Callable[[], object]] = {}

    def name(self, part: str) -> str:
        """Return a name that says whose it is, and that nothing else has."""
        return f"{NAME}-{self.mark}-{part}"

    @property
    def settings(self) -> Settings:
        """The connection with what was found so far."""
        return self._settings({})

    @property
    def hook(self) -> BitaHubHook:
        """A hook on the connection with what was found so far."""
        return self._hook({})

    def adopt(self, extras: Mapping[str, Any]) -> None:
        """Use extras from now on."""
        self.found = merged(self.found, extras)

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure and return its result. Raises a BitaHubError otherwise."""
        return drive(procedure, self.send)

    def send(self, call: Call[T]) -> T:
        """Send a call and return its result. Raises a BitaHubError otherwise."""
        extras = call.extras if isinstance(call, Trial) else {}
        return self._client(extras).send(call)

    def find(self, call: Call[Any]) -> Found:
        """Send a call to each address at which its operation may be, and use the one that works from now on."""
        found = self.run(find_endpoint(call, self.settings.platform().endpoints))
        self.adopt(found.extras)
        return found

    def address(self, operation: str) -> str:
        """Return method and path of an operation, without what all jobs, or all servings, have in common."""
        platform = self.settings.platform()
        method, path = platform.locate(operation, {"name": "NAME"})
        for collection in ("list_jobs", "list_servings"):
            path = path.replace(platform.locate(collection, {})[1].rpartition("/")[0], "...")
        return f"{method} {path}"

    def why(self, error: BitaHubError, extras: Mapping[str, Any] | None = None) -> str:
        """Return what an error says, and what is wrong.

        :param extras: those of the trial that failed
        """
        return str(diagnose(error, self._settings(extras or {})))

    def remember(self, what: str, remove: Callable[[], object]) -> None:
        """Remember what was started, and how to remove it, before it is started."""
        self._left[what] = remove

    def is_newest(self, what: str) -> bool:
        """Return whether everything that was started after this has been removed."""
        return next(reversed(self._left), what) == what

    def forget(self, what: str) -> None:
        """Forget what has been removed."""
        self._left.pop(what, None)

    def close(self) -> None:
        """Remove what was started, the last first, and close all connections. Says what it could not remove.

        A job writes into a folder that was made before it, and a serving reads one: the folder has to go after them.
        """
        try:
            if self._left:
                self.report.say(f"Removing {', '.join(reversed(self._left))}.")
                self._clients.clear()  # a request of theirs may have been interrupted
            for what, remove in reversed(list(self._left.items())):
                try:
                    remove()
                except BitaHubError as error:
                    self.report.say(f"Could not remove {what}: {error}")
                self.forget(what)
        finally:
            if self._left:  # interrupted again
                self.report.say(f"Not removed: {', '.join(self._left)}.")
            for client in self._clients.values():
                client.close()

    def _settings(self, extras: Mapping[str, Any]) -> Settings:
        return replace(self.stated, extra=merged(self.stated.extra, merged(self.found, extras)))

    def _hook(self, extras: Mapping[str, Any]) -> BitaHubHook:
        hook = BitaHubHook(self._conn_id)
        hook.settings = self._settings(extras)
        return hook

    def _client(self, extras: Mapping[str, Any]) -> BitaHubClient:
        key = json.dumps(merged(self.found, extras), sort_keys=True)
        if key not in self._clients:
            self._clients[key] = self._hook(extras).new_client(Retry(attempts=2))
        return self._clients[key]
