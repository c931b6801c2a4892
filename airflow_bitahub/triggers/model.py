"""The trigger that watches for new versions of a model."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_bitahub.exceptions import FileNotReadyError, StorageError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.storage.manifest import MANIFEST, MANIFEST_LIMIT
from airflow_bitahub.storage.paths import path_part
from airflow_bitahub.triggers.asset_events import EventTrigger, Reported

if TYPE_CHECKING:
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.triggers.watch.watcher import Watcher

# What of a manifest goes into the event, besides the name of the model and of the version.
_ORIGIN = ("metrics", "job", "code_digest", "source", "saved_by", "run")
_VERSION = re.compile(r"\w[\w.-]*")  # what an operator can be given, see `storage.paths.path_part`
_ORIGIN_LIMIT = 64 * 2**10  # bytes as JSON; Airflow keeps every event


class BitaHubModelTrigger(EventTrigger):
    """Fires an event for each version of a model that appears on the platform's storage, whoever saved it.

    A version is a folder of ``/models/{user_id}/{model}`` with a manifest, ``bitahub_manifest.json``, which is written
    last, so a version that has one is complete. `BitaHubSaveModelOperator` writes it; another program may write ``{}``.
    A version that is saved again under the same name is not new; a model without versions is not watched. The storage
    is looked at through the connection's ``storage_uri``, and no request goes to the platform.

    The payload is that of `airflow_bitahub.assets.BitaHubModel`; what the manifest does not say is None.

    :param model: the model's name
    :param poll_interval: the time between two looks at the storage; a ``timedelta`` or a number of seconds
    :param bitahub_conn_id: the Airflow connection
    """

    def __init__(
        self, model: str, poll_interval: timedelta | float = 60, bitahub_conn_id: str = DEFAULT_CONN_ID
    ) -> None:
        super().__init__(poll_interval, bitahub_conn_id)
        self.model = path_part("model", model)

    @property
    def description(self) -> str:
        """What is watched, in words."""
        return f"versions of model {self.model}"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores of the trigger."""
        path, arguments = super().serialize()
        return path, {"model": self.model, **arguments}

    async def look(self, watcher: Watcher, reported: Reported) -> tuple[Collection[str], Mapping[str, Any]]:
        """Return all versions, and the new ones that are complete."""
        return await asyncio.to_thread(self._look, await watcher.hook(), reported)

    async def describe(self, watcher: Watcher, found: str) -> Mapping[str, Any] | None:
        """Return the event's payload; None: the manifest cannot be read yet."""
        return await asyncio.to_thread(self._describe, await watcher.hook(), found)

    # In a thread: a file system may block ----------------------------------------------------------------------

    def _look(self, hook: BitaHubHook, reported: Reported) -> tuple[list[str], dict[str, str]]:
        folder, storage = hook.folders.model(self.model)[0], hook.storage
        entries = storage.list_folder("model", folder) or []
        names = [entry.name for entry in entries if entry.is_folder and _VERSION.fullmatch(entry.name)]
        new = {name: name for name in names if name not in reported}
        return names, {name: name for name in new if storage.has("model", f"{folder}/{name}/{MANIFEST}")}

    def _describe(self, hook: BitaHubHook, version: str) -> dict[str, Any] | None:
        folder = hook.folders.model(self.model)[0]
        path = f"{folder}/{version}"
        try:
            manifest = hook.storage.read_json("model", f"{path}/{MANIFEST}", MANIFEST_LIMIT)
        except FileNotReadyError:  # it was removed, or a network file system is late
            return None
        if not isinstance(manifest, Mapping):
            raise StorageError(f"model: {path}/{MANIFEST} is not a JSON object.")
        origin = {key: manifest.get(key) for key in _ORIGIN}
        if len(json.dumps(origin)) > _ORIGIN_LIMIT:
            self.log.warning("%s/%s is too long for an event, which has only the path", path, MANIFEST)
            origin = dict.fromkeys(_ORIGIN)
        return {"uri": hook.uri(folder), "path": path, "model": self.model, "version": version, **origin}
