"""From an Airflow connection to a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseHook

from airflow_bitahub.exceptions import BitaHubError, ConfigurationError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.identity import deployment_marker
from airflow_bitahub.storage import Folders, Storage

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_bitahub.api.jobs import Job
    from airflow_bitahub.api.procedures import Retry
    from airflow_bitahub.api.protocol import Call, Procedure
    from airflow_bitahub.client import BitaHubClient

T = TypeVar("T")

WATCH_MODES = ("auto", "collection", "single")


@dataclass(frozen=True)
class Settings:
    """What a connection says, checked. See `BitaHubHook` for the meaning of each field."""

    base_url: str
    token: str | None = field(repr=False)
    user_name: str
    extra: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_connection(cls, connection: Connection) -> Settings:
        """Read a connection. Raises ConfigurationError when it names no host, or an extra has no meaning."""
        where = f"The Airflow connection {connection.conn_id!r}"
        host = (connection.host or "").strip().rstrip("/")
        if not host:
            raise ConfigurationError(f"{where} has no host: set it to the platform's address, such as https://host.")
        if "://" not in host:
            host = f"{connection.schema or 'https'}://{host}"
        if "@" in host:
            raise ConfigurationError(f"{where} has a user or password in its host: they belong in login and password.")
        if not host.startswith(("http://", "https://")):
            raise ConfigurationError(f"{where} has the host {host!r}: it must begin with http:// or https://.")
        if connection.port:
            host = f"{host}:{connection.port}"
        extra = connection.extra_dejson
        login = connection.login or ""
        settings = cls(host, connection.password or None, str(extra.get("user_name") or login), extra)
        # Of what only a triggerer needs, a mistake is to show before a job is submitted.
        for key in ("max_requests_per_second", "longest_poll_interval", "request_timeout"):
            settings.number(key, 1)
        settings.choice("watch", WATCH_MODES)
        return settings

    def text(self, key: str, default: str = "") -> str:
        """Give an extra field as text."""
        value = self.extra.get(key)
        return default if value in (None, "") else str(value)

    def need(self, key: str, purpose: str) -> str:
        """Give an extra field that must be there. Raises ConfigurationError when it is not."""
        value = self.text(key)
        if not value:
            raise ConfigurationError(f"The Airflow connection's extra {key!r} is not set, and {purpose}.")
        return value

    def number(self, key: str, default: float) -> float:
        """Give an extra field as a positive number."""
        try:
            value = float(self.text(key, str(default)))
        except ValueError:
            value = 0
        if value <= 0:
            raise ConfigurationError(f"The Airflow connection's extra {key!r} must be a positive number.")
        return value

    def choice(self, key: str, known: Sequence[str]) -> str:
        """Give an extra field that is one of several words; the first, where it is not set."""
        value = self.text(key, known[0])
        if value not in known:
            raise ConfigurationError(
                f"The Airflow connection's extra {key!r} is {value!r}; known are {', '.join(known)}."
            )
        return value

    def table(self, key: str) -> Mapping[str, str]:
        """Give an extra field that overrides single entries of one of the platform's tables."""
        value = self.extra.get(key) or {}
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"The Airflow connection's extra {key!r} must be an object.")
        return {str(name): str(entry) for name, entry in value.items()}


class BitaHubHook(BaseHook):
    """Talks to BitaHub with what an Airflow connection of type ``bitahub`` says.

    Connection fields: **host** (address, scheme included; or host, schema and port apart), **login** (user name),
    **password** (bearer token; leave empty where the platform asks for none). Extra:

    - ``user_id``: in server paths, such as ``_2f1f...``; ``user_name``: in container paths (default: the login)
    - ``workspace``, ``cluster``, ``job_namespace``, ``serving_namespace``, ``prefix``: parts of the addresses
    - ``storage_uri``: where workers see the platform's storage, such as ``file:///mnt/bitahub``
    - ``default_image``: for jobs that name none
    - ``console_url``: address of a job in the platform's console, with ``{name}``; ``serving_console_url`` likewise
    - ``verify``: false, or the path of a CA bundle; ``request_timeout``: seconds
    - ``max_requests_per_second``: of each triggerer, for all deferred tasks together (default: 1000)
    - ``watch``: how a triggerer asks for jobs: ``collection`` (their list), ``single`` (each by its name) or ``auto``
    - ``longest_poll_interval``: seconds; a job that has been deferred for long is asked for ever less often, at a
      twentieth of that time, up to this (default: as often as `poll_interval` says)
    - ``deployment``: a name for this Airflow, where its address does not tell it from others on the same account
    - ``endpoints``, ``status_words``, ``error_codes``: objects that override entries of `api.platform`'s tables

    :param bitahub_conn_id: the connection's id
    """

    conn_name_attr = "bitahub_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "bitahub"
    hook_name = "BitaHub"

    def __init__(self, bitahub_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.bitahub_conn_id = bitahub_conn_id

    @classmethod
    async def looked_up(cls, bitahub_conn_id: str, retry: Retry | None = None) -> BitaHubHook:
        """Give a hook for use on an event loop, which neither the look-up of its connection nor its client blocks."""
        from airflow.providers.common.compat.connection import get_async_connection

        hook = cls(bitahub_conn_id)
        connection = await get_async_connection(bitahub_conn_id)
        # reading the extra registers its secrets for masking, which may ask the supervisor
        hook.settings = await asyncio.to_thread(Settings.from_connection, connection)

        def client() -> BitaHubClient:
            client = hook.new_client(retry)
            client.prepare()
            return client

        hook.client = await asyncio.to_thread(client)
        return hook

    @classmethod
    @asynccontextmanager
    async def connected(cls, bitahub_conn_id: str) -> AsyncIterator[BitaHubHook]:
        """Give such a hook for a while, and close its client at the end."""
        hook = await cls.looked_up(bitahub_conn_id)
        try:
            yield hook
        finally:
            await hook.client.aclose()

    @cached_property
    def settings(self) -> Settings:
        """The connection, checked."""
        return Settings.from_connection(self.get_connection(self.bitahub_conn_id))

    @cached_property
    def client(self) -> BitaHubClient:
        """The client this hook sends through."""
        return self.new_client()

    def new_client(self, retry: Retry | None = None) -> BitaHubClient:
        """Give another client, for a signal handler that may have interrupted the first in the middle of a request."""
        from airflow_bitahub.api.auth import BearerToken, NoAuth
        from airflow_bitahub.api.platform import ENDPOINTS, ERROR_CODES, STATUS_WORDS, Platform
        from airflow_bitahub.client import BitaHubClient

        settings, default = self.settings, Platform()
        words = {word.upper(): status.upper() for word, status in settings.table("status_words").items()}
        for status in words.values():
            if status not in STATUS_WORDS.values():
                raise ConfigurationError(
                    f"The Airflow connection's extra 'status_words' maps to {status!r}; "
                    f"known are {sorted(set(STATUS_WORDS.values()))}."
                )
        platform = Platform(
            prefix=settings.text("prefix", default.prefix),
            cluster=settings.text("cluster", default.cluster),
            workspace=settings.text("workspace", default.workspace),
            job_namespace=settings.text("job_namespace", default.job_namespace),
            serving_namespace=settings.text("serving_namespace", default.serving_namespace),
            endpoints={**ENDPOINTS, **settings.table("endpoints")},
            status_words={**STATUS_WORDS, **words},
            error_codes={**ERROR_CODES, **settings.table("error_codes")},
        )
        return BitaHubClient(
            settings.base_url,
            platform=platform,
            auth=BearerToken(settings.token) if settings.token else NoAuth(),
            verify=_verify(settings.extra.get("verify")),
            request_timeout=settings.number("request_timeout", 30),
            retry=retry,
        )

    @cached_property
    def folders(self) -> Folders:
        """The user's folders. Raises ConfigurationError when the connection does not say whose."""
        user_id = self.settings.need("user_id", "it is part of every path on the platform")
        if not self.settings.user_name:
            raise ConfigurationError("The Airflow connection has neither a login nor the extra 'user_name'.")
        return Folders(user_id, self.settings.user_name)

    @cached_property
    def storage(self) -> Storage:
        """The platform's storage. Raises ConfigurationError when the connection does not say where it is seen."""
        return Storage(
            self.settings.need("storage_uri", "a file on the platform's storage has to be read, such as file:///mnt")
        )

    @property
    def default_image(self) -> str:
        """The image for jobs that name none; "" when the connection has none either."""
        return self.settings.text("default_image")

    @property
    def marker(self) -> str:
        """What this deployment's job tokens begin with: made of Airflow's address and the extra ``deployment``."""
        from airflow.sdk.configuration import conf

        # Both, since a connection may be shared by several Airflows.
        parts = (self.settings.text("deployment"), conf.get("api", "base_url", fallback="") or "")
        return deployment_marker(" ".join(filter(None, parts)) or "airflow")

    def job_url(self, name: str) -> str:
        """Give the address at which a person looks at a job."""
        return self._console_url("console_url", "get_job", name)

    def serving_url(self, name: str) -> str:
        """Give the address at which a person looks at a serving."""
        return self._console_url("serving_console_url", "get_serving", name)

    def _console_url(self, key: str, operation: str, name: str) -> str:
        template = self.settings.text(key)
        return template.replace("{name}", name) if template else self.client.url_of(operation, {"name": name})

    def send(self, call: Call[T]) -> T:
        """Ask, and give what the answer means: ``hook.send(get_job("mnist-1"))``."""
        return self.client.send(call)

    def run(self, procedure: Procedure[T]) -> T:
        """Perform a procedure: ``hook.run(wait_for_job("mnist-1", poll_interval=10))``."""
        return self.client.run(procedure)

    async def asend(self, call: Call[T]) -> T:
        """Like `send`, without blocking the event loop."""
        return await self.client.asend(call)

    async def arun(self, procedure: Procedure[T]) -> T:
        """Like `run`, without blocking the event loop."""
        return await self.client.arun(procedure)

    def get_conn(self) -> BitaHubClient:
        """Give the client."""
        return self.client

    def get_job(self, name: str) -> Job:
        """Ask for a job, for use in ``@task`` functions."""
        from airflow_bitahub.api.jobs import get_job

        return self.send(get_job(name))

    def test_connection(self) -> tuple[bool, str]:
        """Ask the platform for a list of jobs, for the Test button of the connection form."""
        from airflow_bitahub.api.jobs import list_jobs

        try:
            jobs = self.send(list_jobs(limit=1))
        except BitaHubError as error:
            return False, str(error)
        return True, f"{self.settings.base_url} answers; the first page of jobs has {len(jobs)}."


def _verify(value: Any) -> bool | str:
    if value in (None, "", True) or str(value).lower() == "true":
        return True
    return False if str(value).lower() in ("false", "0") else str(value)
