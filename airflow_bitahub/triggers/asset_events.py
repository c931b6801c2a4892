"""What the triggers of asset watchers have in common: looking again and again, and reporting each thing once."""

from __future__ import annotations

import asyncio
import hashlib
from abc import abstractmethod
from base64 import b64encode
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_bitahub.exceptions import BitaHubError, ConfigurationError

if TYPE_CHECKING:
    from airflow_bitahub.triggers.watch.watcher import Watcher

# Seconds between an event and its entry in Airflow's store. The triggerer passes events on to Airflow every second. If
# it is killed before that, the event is reported again, because a DAG run too many is better than none.
SETTLING_SECONDS = 5.0
# What Airflow's store takes without a warning is 64 KB.
_DIGEST_LENGTH, _MOST = 8, 7500
_LONGEST_KEY = 500  # characters


class Reported:
    """What was reported, or was there before. It is kept in Airflow's store as one text.

    :param text: what `text` returned
    """

    def __init__(self, text: str = "") -> None:
        starts = range(0, len(text), _DIGEST_LENGTH)
        self._digests = {text[start : start + _DIGEST_LENGTH]: None for start in starts}  # in this order

    def __contains__(self, name: str) -> bool:
        return _digest(name) in self._digests

    def add(self, names: Iterable[str]) -> None:
        """Add names."""
        self._digests.update(dict.fromkeys(map(_digest, names)))

    def tidy(self, present: Iterable[str]) -> None:
        """Forget what is gone, but only where there are very many: an odd answer may show nothing of what is there."""
        if len(self._digests) > _MOST:
            kept = set(map(_digest, present))
            self._digests = {digest: None for digest in self._digests if digest in kept}

    @property
    def text(self) -> str:
        """What to keep."""
        return "".join(self._digests)


def _digest(name: str) -> str:
    return b64encode(hashlib.sha256(name.encode()).digest()[: _DIGEST_LENGTH * 6 // 8]).decode()


class EventTrigger(BaseEventTrigger):
    """Looks at the platform again and again, and fires one event for each new thing, for use in an `AssetWatcher`.

    It never ends, since Airflow would start it again at once. What is there at the first look of all is not new. What
    was reported is kept in Airflow's store of the asset, so a restart of the triggerer repeats no event, and loses none
    that came meanwhile. A look that fails, for whatever reason, says nothing: the next one follows.

    :param poll_interval: the time between two looks; a ``timedelta`` or a number of seconds
    :param bitahub_conn_id: the Airflow connection; its secrets are looked up here and never stored with the trigger
    """

    def __init__(self, poll_interval: timedelta | float, bitahub_conn_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow does not annotate it
        seconds = poll_interval.total_seconds() if isinstance(poll_interval, timedelta) else poll_interval
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise ConfigurationError(f"poll_interval must be a positive time, not {poll_interval!r}.")
        self.poll_interval = float(seconds)  # Airflow takes 60 and 60.0 for two triggers
        self.bitahub_conn_id = bitahub_conn_id
        self._failure = ""  # of the last look
        self._is_stored = False

    @property
    @abstractmethod
    def description(self) -> str:
        """What is watched, in words, for log lines, such as ``versions of model mnist``."""

    @abstractmethod
    async def look(self, watcher: Watcher, reported: Reported) -> tuple[Collection[str], Mapping[str, Any]]:
        """Return the names of all that is there, and by name what is new, as `describe` wants it."""

    @abstractmethod
    async def describe(self, watcher: Watcher, found: Any) -> Mapping[str, Any] | None:
        """Return the event's payload; None: it is not complete yet."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores of the trigger."""
        return f"{type(self).__module__}.{type(self).__name__}", {
            "poll_interval": self.poll_interval,
            "bitahub_conn_id": self.bitahub_conn_id,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, and fire events, for ever."""
        from airflow_bitahub.triggers.watch.watcher import shared_watcher

        async with shared_watcher(self.bitahub_conn_id) as watcher:
            reported = await self._first_look(watcher)
            while True:
                payloads = await self._new(watcher, reported)
                for payload in payloads.values():
                    yield TriggerEvent(payload)
                if payloads:
                    await asyncio.sleep(SETTLING_SECONDS)
                    reported.add(payloads)
                    self._is_stored = False
                if not self._is_stored:
                    await self._store(reported)
                await asyncio.sleep(self.poll_interval)

    async def _first_look(self, watcher: Watcher) -> Reported:
        """Return what was reported before a restart; where nothing is stored, what is there now."""
        while True:
            try:
                if (stored := await self._stored()) is not None:
                    self.log.info("Watching %s, as before", self.description)
                    self._is_stored = True
                    return Reported(stored)
                reported = Reported()
                _, new = await self.look(watcher, reported)
            except Exception as error:
                self._note(error)
            else:
                self._note(None)
                self.log.info("Watching %s: %d of them are there, and are not new", self.description, len(new))
                reported.add(new)
                await self._store(reported)
                return reported
            await asyncio.sleep(self.poll_interval)

    async def _new(self, watcher: Watcher, reported: Reported) -> dict[str, Mapping[str, Any]]:
        """Return the payloads of what is new by its name."""
        payloads = {}
        failure: Exception | None = None
        try:
            present, new = await self.look(watcher, reported)
            reported.tidy(present)
        except Exception as error:
            new, failure = {}, error
        for name, found in new.items():
            try:
                payload = await self.describe(watcher, found)
            except Exception as error:  # it must not hold up the others
                failure = error
            else:
                if payload is not None:
                    self.log.info("New among the %s: %s", self.description, name)
                    payloads[name] = payload
        self._note(failure)
        return payloads

    def _note(self, error: Exception | None) -> None:
        """Log the beginning and the end of a time in which looks fail."""
        failure = "" if error is None else f"{type(error).__name__}: {error}"
        if error is None and self._failure:
            self.log.info("Watching %s works again", self.description)
        elif error is not None and failure != self._failure:
            is_bug = not isinstance(error, BitaHubError)
            self.log.warning("Watching %s failed, and is tried again: %s", self.description, failure, exc_info=is_bug)
        self._failure = failure

    # Airflow's store of the asset ------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return f"bitahub.{self.bitahub_conn_id}.{self.description}"[:_LONGEST_KEY]

    async def _stored(self) -> str | None:
        if self.asset_state_store is None:  # it is not the watcher of an asset
            return None
        try:
            stored: Any = await self.asset_state_store.aget(self._key)
        except ValueError as error:
            raise ConfigurationError(
                "Several assets have watchers with the same trigger, which Airflow runs only once for all. Give each "
                "another poll_interval."
            ) from error
        return None if stored is None else str(stored)

    async def _store(self, reported: Reported) -> None:
        """Keep what was reported, so that it outlasts this process. Where that fails, the next look tries it again."""
        try:
            if self.asset_state_store is not None:
                await self.asset_state_store.aset(self._key, reported.text)
            self._is_stored = True
        except Exception as error:
            self._is_stored = False
            self._note(error)
