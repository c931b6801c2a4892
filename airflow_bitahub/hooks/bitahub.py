"""`BitaHubHook`: calls and procedures through what an Airflow connection says."""

from __future__ import annotations

import asyncio
import hashlib
import math
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseHook

from airflow_bitahub.exceptions import BitaHubError, ConfigurationError
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.hooks.settings import Settings
from airflow_bitahub.storage.paths import Folders
from airflow_bitahub.storage.storage import Storage

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call, Procedure
    from airflow_bitahub.client import BitaHubClient
    from airflow_bitahub.procedures.retry import Retry

T = TypeVar("T")


class BitaHubHook(BaseHook):
    """Talks to BitaHub with what an Airflow connection of type ``bitahub`` says.

    Connection fields: **host** (address, scheme included; or host, schema and port apart), **login** (user name),
    **password** (bearer token; leave it empty where the platform asks for none). Extra:

    - ``auth``: how to sign in. ``none``; ``bearer`` (the password is a token; the default where there is a password);
      ``header`` (the password is the token of the platform's business layer, sent in the header ``token``); ``basic``
      (login and password with every request); ``kubesphere`` (login and password are exchanged for tokens at
      ``/oauth/token``, which are renewed before they expire)
    - for ``kubesphere``: ``client_id`` and ``client_secret`` (both ``kubesphere`` by default) are this program's own;
      ``share_token`` (default: true): all workers and triggerers use the same tokens, through an Airflow Variable,
      since in older releases of KubeSphere a new sign-in ends the user's other sessions
    - ``user_id``: the user in server paths, such as ``_2f1f...``; ``user_name``: in container paths (default: the
      login)
    - ``workspace``, ``cluster``, ``job_namespace``, ``serving_namespace``, ``prefix``: parts of the API's addresses
    - ``storage_uri``: where workers see the platform's storage, such as ``file:///mnt/bitahub``, or any address of
      Airflow's object storage, such as ``s3://aws_default@bucket/path``
    - ``default_image``: the container image of jobs and servings that name none
    - ``preflight`` (default: true): whether operators look inputs up before they submit anything, see their parameter
      `preflight`. For that: ``accelerators``, the device types that the installation has, as a list or a text with
      commas; ``max_cpu`` and ``max_memory_mb``, what its largest machine has
    - ``console_url``: the address of a job's page in the platform's console, with ``{name}`` for its name;
      ``serving_console_url`` and ``model_console_url``: likewise, for a serving and a model
    - ``verify``: whether the server's certificate must be signed by a public authority (default: true), or the path of
      a CA bundle with the authority that must have signed it
    - ``client_certificate``: the path of the certificate to show to a platform that asks for one, in PEM format;
      ``client_key``: the path of its private key (default: the certificate's file holds it); ``client_key_password``:
      the key's password, if it is encrypted. A renewed file is taken up like a changed connection
    - ``proxy``: the address of an HTTP proxy, such as ``http://user:password@host:3128`` (Airflow masks all of it), or
      ``none`` for no proxy (default: what ``HTTPS_PROXY``, ``NO_PROXY`` and their like say)
    - ``request_timeout``: seconds for one whole request (default: 30)
    - ``max_requests_per_second``: the limit of each triggerer for the deferred tasks of this connection (default: 1000)
    - ``watch``: how a triggerer queries jobs: ``collection`` (the list of all jobs), ``single`` (each job by its name)
      or ``auto`` (the cheaper one; the default). A few young jobs, and ends, are always queried by name
    - ``longest_poll_interval``: seconds. The older a job is, the more rarely it is queried: the pause is a tenth of its
      age, up to its task's `poll_interval` or, in a triggerer, up to this where it is longer
    - ``timezone``: the zone of the platform's times that have no offset, such as ``Asia/Shanghai`` (default: UTC)
    - ``endpoints``, ``status_words``, ``error_codes``, ``query_parameters``: objects that override entries of the
      tables in `api.platform`

    Numbers, ``verify`` and the four objects may also be given as text, as in a connection's URI; null counts as
    not given. A triggerer looks the connection up every minute, and uses it as it is then.

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
    async def connect(
        cls, bitahub_conn_id: str, retry: Retry | None = None, known: BitaHubHook | None = None
    ) -> BitaHubHook:
        """Return a hook for an event loop: looking up its connection and preparing its client does not block the loop.

        Close its client when it is no longer needed.

        :param retry: how the client repeats calls; None: as by default
        :param known: an earlier hook, which is returned where the connection still says the same
        """
        from airflow.providers.common.compat.connection import get_async_connection

        hook = cls(bitahub_conn_id)
        connection = await get_async_connection(bitahub_conn_id)
        # Reading the extra registers its secrets for masking, which may send a request to the supervisor.
        hook.settings = await asyncio.to_thread(Settings.from_connection, connection)
        if known is not None and known.settings == hook.settings:
            return known

        def prepared_client() -> BitaHubClient:
            client = hook.new_client(retry)
            client.prepare()
            return client

        hook.client = await asyncio.to_thread(prepared_client)
        return hook

    @cached_property
    def settings(self) -> Settings:
        """What the connection says."""
        return Settings.from_connection(self.get_connection(self.bitahub_conn_id))

    @cached_property
    def client(self) -> BitaHubClient:
        """The client that this hook sends with."""
        return self.new_client()

    def new_client(self, retry: Retry | None = None, request_timeout: float | None = None) -> BitaHubClient:
        """Return another client. A signal handler needs one, since it may have interrupted a request of `client`.

        :param request_timeout: the most seconds for a request, where a person waits; None: what the connection says
        """
        from airflow_bitahub.client import BitaHubClient

        return BitaHubClient(
            self.settings.base_url,
            platform=self.settings.platform(),
            auth=self.settings.auth(),
            verify=self.settings.verify(),
            certificate=self.settings.client_certificate(),
            proxy=self.settings.proxy(),
            request_timeout=min(self.settings.number("request_timeout", 30), request_timeout or math.inf),
            retry=retry,
        )

    @cached_property
    def folders(self) -> Folders:
        """The user's folders. Raises ConfigurationError when the connection does not name the user."""
        self.settings.required("user_id", "it is part of every path on the platform")
        if not self.settings.user_name:
            raise ConfigurationError("The Airflow connection has neither a login nor the extra 'user_name'.")
        user_name = self.settings.path_part("user_name", self.settings.user_name)
        return Folders(self.settings.path_part("user_id", ""), user_name)

    @cached_property
    def storage(self) -> Storage:
        """The platform's storage. Raises ConfigurationError when the connection does not say where workers see it."""
        purpose = "a file on the platform's storage has to be read, such as file:///mnt"
        return Storage(self.settings.required("storage_uri", purpose))

    @cached_property
    def platform_id(self) -> str:
        """A short text that differs for different installations and namespaces, but not for connections to the same."""
        settings = self.settings
        platform = settings.platform()
        parts = (settings.base_url, platform.workspace, platform.serving_namespace)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]

    @property
    def default_image(self) -> str:
        """The container image of jobs and servings that name none; "" where the connection has none either."""
        return self.settings.text("default_image")

    def job_url(self, name: str) -> str:
        """Return the address of a job's page."""
        return self._page_url("console_url", "get_job", name)

    def serving_url(self, name: str) -> str:
        """Return the address of a serving's page."""
        return self._page_url("serving_console_url", "get_serving", name)

    def model_url(self, name: str) -> str:
        """Return the address of a model's page; "" where the connection names none: the API has no models."""
        return self.settings.page("model_console_url").replace("{name}", name)

    def uri(self, path: str) -> str:
        """Return the URI of something on this platform, for assets: ``bitahub://{host}{path}``.

        :param path: a server path, or ``/servings/{name}``
        """
        return f"bitahub://{urlsplit(self.settings.base_url).netloc}{quote(path)}"

    def _page_url(self, key: str, operation: str, name: str) -> str:
        template = self.settings.page(key)
        return template.replace("{name}", name) if template else self.client.url_of(operation, {"name": name})

    def send(self, call: Call[T]) -> T:
        """Send a call and return its result: ``hook.send(get_job("mnist-1"))``. Raises a BitaHubError otherwise."""
        return self.client.send(call)

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure and return its result: ``hook.run(wait_for_job("mnist-1", poll_interval=10))``."""
        return self.client.run(procedure)

    async def asend(self, call: Call[T]) -> T:
        """Like `send`, without blocking the event loop."""
        return await self.client.asend(call)

    async def arun(self, procedure: Procedure[T]) -> T:
        """Like `run`, without blocking the event loop."""
        return await self.client.arun(procedure)

    def get_conn(self) -> BitaHubClient:
        """Return the client, under the name that Airflow's hooks share."""
        return self.client

    def test_connection(self) -> tuple[bool, str]:
        """Query the list of jobs, for the Test button. Say what is wrong and how it shows; name doubtful extras too."""
        from airflow_bitahub.api.jobs import list_jobs
        from airflow_bitahub.hooks.diagnosis import diagnose
        from airflow_bitahub.procedures.retry import Retry

        try:
            remarks = (*self.settings.warnings(), *self.settings.unknown_extras())
            client = self.new_client(Retry(attempts=1))  # a person is waiting
        except BitaHubError as error:  # nothing was sent
            return False, str(error)
        with closing(client):
            try:
                page = client.send(list_jobs(page_size=1))
            except BitaHubError as error:
                return False, " ".join((str(diagnose(error, self.settings)), *remarks))
        answer = f"{self.settings.base_url} answers; the first page of jobs has {len(page.names)}."
        return True, " ".join((answer, *remarks))
