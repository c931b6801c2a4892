"""Addresses, states and error codes of the platform: tables that a connection can override entry by entry.

Only submitting a job, and creating and querying a serving are documented (seed). Everything else is assumed from the
platform's relatives, unless a comment says otherwise; so each entry can be replaced in the connection's extra.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from enum import Enum
from types import MappingProxyType
from urllib.parse import quote

from airflow_bitahub.exceptions import ConfigurationError

_JOBS = "/{prefix}/clusters/{cluster}/jobserver.leinao.ai/v1/workspaces/{workspace}/namespaces/{job_namespace}/jobs"
_SERVINGS = "/{prefix}/inference.leinao.ai/v1/workspaces/{workspace}/namespaces/{serving_namespace}/serving"

ENDPOINTS: Mapping[str, str] = MappingProxyType(
    {
        "submit_job": f"POST {_JOBS}/{{name}}",  # seed
        "get_job": f"GET {_JOBS}/{{name}}",  # assumed: the same address
        "list_jobs": f"GET {_JOBS}",  # assumed: KubeSphere's grammar
        "stop_job": f"DELETE {_JOBS}/{{name}}",  # assumed: stops a live job, removes the record of a finished one
        "read_job_log": f"GET {_JOBS}/{{name}}/log",  # assumed: no source shows one
        "create_serving": f"POST {_SERVINGS}",  # seed
        "get_serving": f"GET {_SERVINGS}/{{name}}",  # seed
        "list_servings": f"GET {_SERVINGS}",
        "update_serving": f"PUT {_SERVINGS}/{{name}}",
        "scale_serving": f"PATCH {_SERVINGS}/{{name}}",
        "start_serving": f"PUT {_SERVINGS}/{{name}}/start",
        "stop_serving": f"PUT {_SERVINGS}/{{name}}/stop",
        "delete_serving": f"DELETE {_SERVINGS}/{{name}}",
        "get_serving_log": f"GET {_SERVINGS}/{{name}}/log",  # assumed: no source shows one
        "sign_in": "POST /oauth/token",  # family: KubeSphere
    }
)


# The names of query parameters (assumed). "" stands for one that the platform does not have, which is not sent.
QUERY_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "page": "page",  # of the list of jobs, counted from 1; likewise the next
        "limit": "limit",
        "tailLines": "tailLines",  # Kubernetes' name for the number of lines at the end of a log
        "offset": "offset",  # from which on to read a job's log, in bytes; a client of the platform calls it ``start``
    }
)


class JobStatus(str, Enum):
    """The state of a job. The platform's many raw states are mapped onto these."""

    WAITING = "WAITING"  # queued, preparing, or being restarted after an eviction
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    UNKNOWN = "UNKNOWN"  # a raw state we do not know: never a reason to conclude anything

    @property
    def is_terminal(self) -> bool:
        """Whether the job has finished."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)

    @property
    def is_successful(self) -> bool:
        """Whether the job has finished and its program succeeded."""
        return self is JobStatus.SUCCEEDED


class ServingStatus(str, Enum):
    """The state of a serving. Only RUNNING is documented (seed)."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_terminal(self) -> bool:
        """Whether the serving has ended: it will not run again by itself."""
        return self in (ServingStatus.FAILED, ServingStatus.STOPPED)

    @property
    def is_ending(self) -> bool:
        """Whether the serving has ended or is being stopped."""
        return self.is_terminal or self is ServingStatus.STOPPING


def _words(status: str, words: str) -> dict[str, str]:
    return dict.fromkeys(words.split(), status)


# Raw states seen in public clients of the platform and its relatives, in both spellings where both were seen.
STATUS_WORDS: Mapping[str, str] = MappingProxyType(
    {
        **_words("WAITING", "CREATED CREATING DEPLOYING TAGING TAGSUCCESS PRERUNNING WAITING PENDING PREPARING"),
        **_words("WAITING", "SUSPENDED INQUEUE RESTARTING"),
        **_words("RUNNING", "RUNNING COMPLETING"),
        **_words("STOPPING", "STOPPING STOPING ABORTING TERMINATING"),
        **_words("SUCCEEDED", "SUCCEEDED COMPLETED"),
        **_words("FAILED", "FAILED TAGFAILED UNDERPOWERED"),
        **_words("STOPPED", "STOPPED STOPED ABORTED TERMINATED"),
    }
)

# What a code means that may come inside an HTTP 200. Any other code that is not success becomes a plain APIError.
ERROR_CODES: Mapping[str, str] = MappingProxyType(
    {
        **_words("not_found", "404 S400 OPERATION_TARGET_NOT_FOUND NoJobError"),
        **_words("conflict", "409 S409 ConflictJobError"),
        **_words("authentication", "401 -1 S401"),
        **_words("permission", "403 S402 PERMISSION_DENIED"),
        **_words("invalid", "400 S201 S202 LACK_OF_PARAM WRONG_PARAM"),
        **_words("rate_limit", "429 20003"),
        **_words("server", "500 502 503 504 S500 S505 INTERNAL_ERROR 1400 1401 1402 1403 1404 1405"),
    }
)

ERROR_KINDS = (*dict.fromkeys(ERROR_CODES.values()), "other")

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_OWN_PARTS = ("prefix", "cluster", "workspace", "job_namespace", "serving_namespace")


@dataclass(frozen=True)
class Platform:
    """The addresses of one installation of the platform, and what its states, error codes and times mean.

    :param timezone: of times without an offset
    :raises ConfigurationError: an entry of a table is misspelt, or means nothing
    """

    prefix: str = "lapis"
    cluster: str = "host"
    workspace: str = "bitahub"
    job_namespace: str = "bita-user"
    serving_namespace: str = "inference"
    endpoints: Mapping[str, str] = field(default_factory=lambda: ENDPOINTS)
    status_words: Mapping[str, str] = field(default_factory=lambda: STATUS_WORDS)
    error_codes: Mapping[str, str] = field(default_factory=lambda: ERROR_CODES)
    query_parameters: Mapping[str, str] = field(default_factory=lambda: QUERY_PARAMETERS)
    timezone: tzinfo = timezone.utc
    # Operation -> method and path, complete except for names. Kept, since a triggerer queries thousands of jobs.
    _located: dict[str, tuple[str, str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for operation, template in self.endpoints.items():
            _check_endpoint(operation, template)
        _check_meanings("status_words", self.status_words, sorted(set(STATUS_WORDS.values())))
        _check_meanings("error_codes", self.error_codes, ERROR_KINDS)
        for parameter in self.query_parameters:
            if parameter not in QUERY_PARAMETERS:
                raise ConfigurationError(
                    f"The Airflow connection's extra 'query_parameters' has the unknown entry {parameter!r}; "
                    f"{allowed_words(parameter, list(QUERY_PARAMETERS))}"
                )

    def locate(self, operation: str, names: Mapping[str, str]) -> tuple[str, str]:
        """Return method and path of an operation. Raises ConfigurationError for an unknown or incomplete one."""
        if (known := self._located.get(operation)) is None:
            if operation not in self.endpoints:
                raise ConfigurationError(f"The platform has no operation {operation!r}.")
            method, path = _parts(self.endpoints[operation])
            own = {key: getattr(self, key) for key in _OWN_PARTS}
            known = self._located[operation] = method, _fill(path, own, operation)
        return known[0], _fill(known[1], names, operation)

    def query(self, query: Mapping[str, str]) -> dict[str, str]:
        """Return a query with the platform's own names of the parameters."""
        named = {self.query_parameters.get(name, name): value for name, value in query.items()}
        return {name: value for name, value in named.items() if name}

    def job_status(self, raw_state: str) -> JobStatus:
        """Return what a job's raw state means; upper and lower case are the same."""
        return JobStatus(self.status_words.get(raw_state.strip().upper(), "UNKNOWN"))

    def serving_status(self, raw_state: str) -> ServingStatus:
        """Return what a serving's raw state means; upper and lower case are the same."""
        meaning = self.status_words.get(raw_state.strip().upper(), "UNKNOWN")
        # A served program that ended, even successfully, no longer serves.
        return ServingStatus("STOPPED" if meaning == "SUCCEEDED" else meaning)


def allowed_words(word: str, allowed: Sequence[str]) -> str:
    """Return the end of a sentence that refuses `word`: the allowed words, and the one that was probably meant."""
    near = difflib.get_close_matches(word, allowed, n=1)
    return f"allowed are {', '.join(allowed)}." + (f" Did you mean {near[0]!r}?" if near else "")


def check_placeholders(where: str, template: str, allowed: Sequence[str]) -> None:
    """Raise ConfigurationError when a template has a placeholder that nothing fills.

    :param where: the beginning of the sentence, such as ``The extra 'console_url'``
    :param allowed: the placeholders, braces included, such as ``{name}``
    """
    for placeholder in re.findall(r"\{[^{}]*\}", template):
        if placeholder not in allowed:
            raise ConfigurationError(
                f"{where} has the placeholder {placeholder}; {allowed_words(placeholder, allowed)}"
            )


def _check_endpoint(operation: str, template: str) -> None:
    where = "The Airflow connection's extra 'endpoints'"
    if operation not in ENDPOINTS:
        raise ConfigurationError(
            f"{where} has the unknown entry {operation!r}; {allowed_words(operation, list(ENDPOINTS))}"
        )
    method, path = _parts(template)
    # Without a slash in front, the path would become a part of the host, which would then get the token.
    is_path = (
        path.startswith("/") and not re.search(r"[\s#]", path) and not re.search(r"[{}]", _without_placeholders(path))
    )
    if method not in _METHODS or not is_path:
        raise ConfigurationError(
            f"{where} is wrong: {template!r} of {operation} is not 'METHOD /path/{{name}}', with one of "
            f"{', '.join(_METHODS)}."
        )
    names = ("{name}",) if "{name}" in ENDPOINTS[operation] else ()
    check_placeholders(f"{where}: {operation}", path, (*names, *(f"{{{part}}}" for part in _OWN_PARTS)))
    # A submission has the name in its body too. Anything else without a name would mean all jobs or servings.
    if names and "{name}" not in path and operation != "submit_job":
        raise ConfigurationError(f"{where}: {operation} must contain {{name}}, not just {template!r}.")


def _check_meanings(key: str, table: Mapping[str, str], allowed: Sequence[str]) -> None:
    for word, meaning in table.items():
        if meaning not in allowed:
            order = " The platform's own word comes first, its meaning second." if word in allowed else ""
            raise ConfigurationError(
                f"The Airflow connection's extra {key!r} maps {word!r} to {meaning!r}; "
                f"{allowed_words(meaning, allowed)}{order}"
            )


def _parts(template: str) -> tuple[str, str]:
    method, _, path = template.strip().partition(" ")
    return method.upper(), path.strip()


def _without_placeholders(path: str) -> str:
    return re.sub(r"\{[^{}]*\}", "", path)


def _fill(path: str, parts: Mapping[str, str], operation: str) -> str:
    for key, value in parts.items():
        if f"{{{key}}}" in path:
            if not value:
                raise ConfigurationError(f"Cannot send {operation}: {key} is empty.")
            path = path.replace(f"{{{key}}}", quote(value, safe=""))
    return path
