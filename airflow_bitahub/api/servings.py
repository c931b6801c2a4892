"""Servings (online inference): the body of a creation, how a serving is read, and the calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from airflow_bitahub.api.envelope import accept, nested_outcome, unwrap
from airflow_bitahub.api.job_log import last_lines
from airflow_bitahub.api.names import DNS_LABEL, LONGEST_SERVING_NAME
from airflow_bitahub.api.platform import Platform, ServingStatus
from airflow_bitahub.api.protocol import Call, Request, Response
from airflow_bitahub.api.wire import Accelerator, StrictModel, items_of, task_url_header, to_epoch
from airflow_bitahub.exceptions import InvokeError, ServingUnavailableError, UnexpectedResponseError
from airflow_bitahub.texts import shorten

ANSWER_LIMIT = 2**20  # bytes of a served program's answer, which becomes an XCom
# What a gateway answers while no program listens behind it; a program may report the same inside its answer.
_UNAVAILABLE = ("502", "503", "504")


class ServingModel(StrictModel):
    """The one model that a serving sees; unlike a job's mounts it is flat (seed)."""

    kind: Literal["nfs"] = "nfs"
    path: str
    mount_path: str


class ServingResource(StrictModel):
    """What each replica gets: `cpu` cores and `memory_mb` MB of memory."""

    cpu: Annotated[int, Field(ge=1)] = 2
    memory_mb: Annotated[int, Field(ge=1, alias="memory")] = 4096
    acc_device: Accelerator | None = None


class ServingProtocol(StrictModel):
    """The port on which the served program listens."""

    kind: str = "http"
    port: Annotated[int, Field(ge=1, le=65535)] = 5000


class ServingSpec(StrictModel):
    """The body of a creation (seed)."""

    name: Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=LONGEST_SERVING_NAME)]
    kind: str = "inference"
    model: ServingModel
    image: Annotated[str, StringConstraints(min_length=1)]
    replicas: Annotated[int, Field(ge=1)] = 1
    resource: ServingResource = Field(default_factory=ServingResource)
    protocols: Annotated[list[ServingProtocol], Field(min_length=1)]
    config: None = None
    envs: dict[str, str] = Field(default_factory=dict)
    commands: Annotated[list[str], Field(min_length=1)]
    version: str = "v1"

    def body(self) -> dict[str, Any]:
        """Return the JSON body. Unlike other fields that are None, the document sends `config` as null."""
        return {**super().body(), "config": None}


class Pod(BaseModel):
    """What the platform says about one replica of a serving.

    :param name: its name; "": not known
    :param raw_state: its state in the platform's own spelling
    :param message: what the platform says about its state
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    name: str = ""
    raw_state: str = ""
    message: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether it will not run again by itself."""
        return self.raw_state.upper() == "FAILED"

    def __str__(self) -> str:
        message = f": {self.message}" if self.message else ""
        return f"replica {self.name!r} is {self.raw_state or 'not ready'}{message}"


class Serving(BaseModel):
    """A serving as the platform reports it.

    :param status: what the state means
    :param raw_state: the state in the platform's own spelling
    :param url: the address of the served program; "" until the platform reports it
    :param token: its access token; "": not known. It is left out of printing and dumping, so that it reaches no log or
        XCom
    :param created_at: time of creation. All times are seconds since the epoch; None: not known
    :param launched_at: time at which it started
    :param message: what the platform says about its state
    :param pods: what it says about replicas; in the seed nothing about one that is served well
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    name: str
    status: ServingStatus
    raw_state: str = ""
    url: str = ""
    token: str = Field(default="", repr=False, exclude=True)
    replicas: int = 1
    created_at: float | None = None
    launched_at: float | None = None
    message: str = ""
    pods: tuple[Pod, ...] = ()

    @property
    def busy_pods(self) -> tuple[Pod, ...]:
        """The replicas that do not simply run: they start, end, or have failed."""
        return tuple(pod for pod in self.pods if pod.message or pod.raw_state.upper() != "RUNNING")

    def __str__(self) -> str:
        said = [self.message, *(str(pod) for pod in self.busy_pods[:3])]
        message = f": {'; '.join(filter(None, said))}" if any(said) else ""
        return f"serving {self.name!r} is {self.raw_state or self.status.value}{message}"


def create_serving(spec: ServingSpec, task_url: str = "") -> Call[None]:
    """Create a serving (seed). Its answer is not documented.

    :param task_url: the page of the Airflow task that creates it; "": none
    """
    request = Request(
        f"create serving {spec.name!r}", "create_serving", json_body=spec.body(), headers=task_url_header(task_url)
    )
    return Call(request, lambda response, platform: accept(response, request, platform))


def get_serving(name: str, version: str = "v1") -> Call[Serving]:
    """Query a serving (seed). Raises NotFoundError when the platform has none."""
    request = Request(f"get serving {name!r}", "get_serving", {"name": name}, {"version": version})

    def read(response: Response, platform: Platform) -> Serving:
        return _read_serving(unwrap(response, request, platform), platform, name)

    return Call(request, read, safe_to_repeat=True)


def list_servings() -> Call[list[Serving]]:
    """Query the namespace's servings (assumed). Entries that cannot be read are left out."""
    request = Request("list servings", "list_servings")

    def read(response: Response, platform: Platform) -> list[Serving]:
        servings = []
        for item in items_of(unwrap(response, request, platform)):
            with suppress(UnexpectedResponseError):
                servings.append(_read_serving(item, platform))
        return servings

    return Call(request, read, safe_to_repeat=True)


def update_serving(spec: ServingSpec, task_url: str = "") -> Call[None]:
    """Replace the specification of an existing serving (assumed: PUT). Raises NotFoundError when there is none.

    :param task_url: the page of the Airflow task that replaces it; "": none
    """
    request = Request(
        f"update serving {spec.name!r}",
        "update_serving",
        {"name": spec.name},
        {"version": spec.version},
        json_body=spec.body(),
        headers=task_url_header(task_url),
    )
    return Call(request, lambda response, platform: accept(response, request, platform), safe_to_repeat=True)


def scale_serving(name: str, version: str, replicas: int) -> Call[None]:
    """Change the number of replicas of a serving, and nothing else (assumed: PATCH)."""
    request = Request(
        f"scale serving {name!r} to {replicas} replicas",
        "scale_serving",
        {"name": name},
        {"version": version},
        json_body={"replicas": replicas},
    )
    return Call(request, lambda response, platform: accept(response, request, platform), safe_to_repeat=True)


def start_serving(name: str, version: str = "v1") -> Call[None]:
    """Start a serving that was stopped or has failed (assumed, as the counterpart of `stop_serving`)."""
    request = Request(f"start serving {name!r}", "start_serving", {"name": name}, {"version": version})
    return Call(request, lambda response, platform: accept(response, request, platform), safe_to_repeat=True)


def stop_serving(name: str, version: str = "v1") -> Call[None]:
    """Stop a serving and keep its record (assumed: `stopedTime` in the seed implies such a stop)."""
    request = Request(f"stop serving {name!r}", "stop_serving", {"name": name}, {"version": version})
    return Call(request, lambda response, platform: accept(response, request, platform), safe_to_repeat=True)


def delete_serving(name: str, version: str = "v1") -> Call[None]:
    """Remove a serving (assumed: DELETE). Raises NotFoundError when there is none."""
    request = Request(f"delete serving {name!r}", "delete_serving", {"name": name}, {"version": version})
    return Call(request, lambda response, platform: accept(response, request, platform))


def get_serving_log(name: str, version: str = "v1", tail_lines: int = 100) -> Call[str]:
    """Read the last lines that a serving's programs printed (assumed; no source shows an address)."""
    query = {"version": version, "tailLines": str(tail_lines)}
    request = Request(f"read the log of serving {name!r}", "get_serving_log", {"name": name}, query)

    def read(response: Response, platform: Platform) -> str:
        return last_lines(unwrap(response, request, platform), tail_lines)

    return Call(request, read, safe_to_repeat=True)


def probe_serving(serving: Serving, path: str = "/", timeout: float = 10) -> Call[bool]:
    """Check whether the served program answers.

    At ``/``, which a program need not have, any answer below HTTP 500 counts. At any other path only an answer below
    HTTP 400 counts, since a gateway may answer 404 for a program that has not started yet. The serving's access token
    is sent, as in `invoke_serving`.
    """
    limit = 500 if path.strip("/") == "" else 400
    where = f"GET {join(serving.url, path)}"
    request = Request(f"reach serving {serving.name!r}", where, timeout=timeout, token=serving.token, body_limit=0)
    return Call(request, lambda response, _platform: response.status < limit)


def invoke_serving(
    serving: Serving,
    path: str,
    *,
    json_body: Any = None,
    form: Mapping[str, str | list[str]] | None = None,
    files: Sequence[tuple[str, tuple[str, bytes]]] | None = None,
    timeout: float | None = None,
) -> Call[Any]:
    """Send a form (seed) or JSON to the served program and return the ``data`` of its answer.

    The program is the user's own. The document's demo reports its errors inside HTTP 200, so the code inside the answer
    counts as well. The serving's access token is sent as a bearer token, for an installation that asks for it (assumed:
    the document shows a token for each serving and sends none).

    :param path: where the program listens, such as ``/image``
    :param json_body: sent as JSON, without `form` and `files`
    :param form: field name -> text, or several texts
    :param files: (field name, (file name, content)); a field may come several times
    :param timeout: seconds to wait for the answer; None: the client's own limit
    :raises ServingUnavailableError: no program listens yet, or it says that it cannot answer now
    :raises InvokeError: the program, or the gateway in front of it, refused the request
    """
    url = join(serving.url, path)
    request = Request(
        f"call serving {serving.name!r}",
        f"POST {url}",
        json_body=json_body,
        form=form,
        files=files,
        timeout=timeout,
        token=serving.token,
        body_limit=ANSWER_LIMIT,
    )

    def read(response: Response, _platform: Platform) -> Any:
        try:
            body = response.json()
        except ValueError:
            body = None
        outcome = nested_outcome(body)
        if response.status >= 300 or body is None or (outcome and not outcome.is_success):
            code = outcome.code if outcome else None
            said = outcome.message if outcome else " ".join(response.text.split())
            is_unavailable = str(response.status) in _UNAVAILABLE or code in _UNAVAILABLE
            kind = ServingUnavailableError if is_unavailable else InvokeError
            advice = "Check what is sent, the path and the field name."
            if is_unavailable:
                advice = "Its program does not answer yet, or no longer: its log on the platform shows why."
            if response.status == 401:
                advice = (
                    "It did not accept the access token that the platform reports for this serving."
                    if serving.token
                    else "It asks for its access token, which the platform did not report. The platform may hide it "
                    "from users that are not signed in: set the password of the Airflow connection."
                )
            raise kind(
                f"Could not call serving {serving.name!r} at {url}. It said: {shorten(said, 200) or 'nothing'} "
                f"(code {shorten(str(code), 100)}, HTTP {response.status}). {advice}",
                serving.name,
            )
        return body["data"] if isinstance(body, dict) and "data" in body else body

    return Call(request, read)


def join(url: str, path: str) -> str:
    """Return a serving's address followed by a path."""
    return f"{url.rstrip('/')}/{path.lstrip('/')}"


def _read_serving(data: Any, platform: Platform, name: str = "") -> Serving:
    if not isinstance(data, dict):
        raise UnexpectedResponseError(f"The platform's answer about serving {name!r} contains no serving.")
    raw_state = data.get("status") or data.get("state")
    if not isinstance(raw_state, str):
        raise UnexpectedResponseError(f"The platform's answer about serving {name!r} contains no status.")
    hosts = data.get("hosts")
    if isinstance(hosts, list):  # a string in the seed, despite the plural
        hosts = hosts[0] if hosts else ""
    url, token = _text(hosts), _text(data.get("token"))
    return Serving(
        name=_text(data.get("name")) or name,
        status=platform.serving_status(raw_state),
        raw_state=shorten(raw_state, 100),
        url=url if "://" in url or not url else f"http://{url}",
        token=token if re.fullmatch(r"[!-~]+", token) else "",
        replicas=data["replicas"] if isinstance(data.get("replicas"), int) else 1,
        created_at=to_epoch(data.get("createdTime"), platform.timezone),
        launched_at=to_epoch(data.get("launchedTime"), platform.timezone),
        message=shorten(_text(data.get("message"))),
        pods=_read_pods(data.get("podstatuses")),
    )


def _read_pods(data: Any) -> tuple[Pod, ...]:
    """Return what an answer says about replicas, flat or as Kubernetes nests it. Other shapes are left out."""
    pods = []
    for item in data if isinstance(data, list) else ():
        if not isinstance(item, dict):
            continue
        places = [item, *(item[part] for part in ("status", "metadata") if isinstance(item.get(part), dict))]

        def first(*keys: str, places: list[dict[str, Any]] = places) -> str:
            return next((text for key in keys for place in places if (text := _text(place.get(key)))), "")

        state, message = first("phase", "state", "status"), first("message", "reason")
        if state or message:
            name = first("name", "podName")
            pods.append(Pod(name=shorten(name, 100), raw_state=shorten(state, 100), message=shorten(message)))
    return tuple(pods)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
