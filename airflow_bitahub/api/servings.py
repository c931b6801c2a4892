"""Servings (online inference): what is sent, what is read, and the calls."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from airflow_bitahub.api.envelope import accept, unwrap
from airflow_bitahub.api.jobs import Accelerator, StrictModel, items_of, to_epoch
from airflow_bitahub.api.platform import Platform, ServingStatus
from airflow_bitahub.api.protocol import Call, Request, Response
from airflow_bitahub.exceptions import InvokeError, UnexpectedResponseError

__all__ = [
    "Model",
    "Protocol",
    "Resource",
    "Serving",
    "ServingSpec",
    "ServingStatus",
    "create_serving",
    "delete_serving",
    "get_serving",
    "invoke_serving",
    "list_servings",
    "probe_serving",
    "stop_serving",
    "update_serving",
]


class Model(StrictModel):
    """The one model a serving sees; unlike a job's mounts it is flat (seed)."""

    kind: Literal["nfs"] = "nfs"
    path: str
    mount_path: str


class Resource(StrictModel):
    """What each replica gets; `memory` is MB."""

    cpu: Annotated[int, Field(ge=1)] = 2
    memory: Annotated[int, Field(ge=1)] = 4096
    acc_device: Accelerator | None = None


class Protocol(StrictModel):
    """The port the served program listens on."""

    kind: str = "http"
    port: Annotated[int, Field(ge=1, le=65535)] = 5000


class ServingSpec(StrictModel):
    """The body of a creation (seed). The name becomes part of a host name, which limits it to 49 characters."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=49)]
    kind: str = "inference"
    model: Model
    image: Annotated[str, StringConstraints(min_length=1)]
    replicas: Annotated[int, Field(ge=1)] = 1
    resource: Resource = Field(default_factory=Resource)
    protocols: Annotated[list[Protocol], Field(min_length=1)]
    config: None = None
    envs: dict[str, str] = Field(default_factory=dict)
    commands: Annotated[list[str], Field(min_length=1)]
    version: str = "v1"

    def body(self) -> dict[str, Any]:
        """Give the JSON body; unlike elsewhere the document sends `config` as null."""
        return {**super().body(), "config": None}


class Serving(BaseModel):
    """A serving as the platform tells it.

    :param url: where the served program is reached; "" until the platform says so
    :param token: its access token, which is neither printed nor dumped, so that no log or XCom gets it; "": not known
    :param created_at: seconds since the epoch, as are the other times; None: not known
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: ServingStatus
    word: str = ""
    url: str = ""
    token: str = Field(default="", repr=False, exclude=True)
    replicas: int = 1
    created_at: float | None = None
    launched_at: float | None = None
    message: str = ""

    def __str__(self) -> str:
        message = f": {self.message}" if self.message else ""
        return f"serving {self.name!r} is {self.word or self.status.value}{message}"


def create_serving(spec: ServingSpec) -> Call[None]:
    """Create a serving (seed). Its answer is not documented."""
    request = Request(f"create serving {spec.name!r}", "create_serving", json_body=spec.body())
    return Call(request, lambda response, platform: accept(response, request, platform))


def get_serving(name: str, version: str = "v1") -> Call[Serving]:
    """Ask for a serving (seed). Raises NotFoundError when the platform has none."""
    request = Request(f"get serving {name!r}", "get_serving", {"name": name}, {"version": version})

    def read(response: Response, platform: Platform) -> Serving:
        return _read_serving(unwrap(response, request, platform), platform, name)

    return Call(request, read, safe_to_repeat=True)


def list_servings() -> Call[list[Serving]]:
    """Ask for the namespace's servings (assumed)."""
    request = Request("list servings", "list_servings")

    def read(response: Response, platform: Platform) -> list[Serving]:
        return [_read_serving(item, platform) for item in items_of(unwrap(response, request, platform))]

    return Call(request, read, safe_to_repeat=True)


def update_serving(spec: ServingSpec) -> Call[None]:
    """Let the serving of this name and version be this from now on (assumed: PUT).

    Raises NotFoundError when there is none.
    """
    action, names, query = f"update serving {spec.name!r}", {"name": spec.name}, {"version": spec.version}
    request = Request(action, "update_serving", names, query, json_body=spec.body())
    return Call(request, lambda response, platform: accept(response, request, platform), safe_to_repeat=True)


def stop_serving(name: str, version: str = "v1") -> Call[None]:
    """Stop a serving and keep its record (assumed; `stopedTime` in the seed implies that there is such a stop)."""
    request = Request(f"stop serving {name!r}", "stop_serving", {"name": name}, {"version": version})
    return Call(request, lambda response, platform: accept(response, request, platform), safe_to_repeat=True)


def delete_serving(name: str, version: str = "v1") -> Call[None]:
    """End a serving and remove it (assumed: DELETE). Raises NotFoundError when there is none."""
    request = Request(f"delete serving {name!r}", "delete_serving", {"name": name}, {"version": version})
    return Call(request, lambda response, platform: accept(response, request, platform))


def probe_serving(serving: Serving, path: str = "/", timeout: float = 10) -> Call[bool]:
    """Ask whether the served program answers.

    Anything below HTTP 500 is an answer at ``/``, which need not exist; any other path must be there (below HTTP 400),
    since a gateway whose program has not started yet may answer 404 for it. The serving's access token is sent, as by
    `invoke_serving`.
    """
    limit = 500 if path.strip("/") == "" else 400
    where = f"GET {join(serving.url, path)}"
    request = Request(f"reach serving {serving.name!r}", where, timeout=timeout, token=serving.token)
    return Call(request, lambda response, _platform: response.status < limit)


def invoke_serving(
    serving: Serving,
    path: str,
    *,
    form: dict[str, str] | None = None,
    files: dict[str, tuple[str, bytes]] | None = None,
    timeout: float | None = None,
) -> Call[Any]:
    """Ask the served program (seed) and give its ``data``.

    The program is the user's own; the document's demo reports its errors inside HTTP 200, so the code in the answer
    counts. The serving's access token is sent as a bearer token, for an installation that wants it (assumed: the
    document gives each serving one and sends none). Raises InvokeError when either says no.
    """
    url = join(serving.url, path)
    where, action = f"POST {url}", f"ask serving {serving.name!r}"
    request = Request(action, where, form=form, files=files, timeout=timeout, token=serving.token)

    def read(response: Response, _platform: Platform) -> Any:
        try:
            body = response.json()
        except ValueError:
            body = None
        status = body.get("status") if isinstance(body, dict) else None
        code = status.get("code") if isinstance(status, dict) else None
        if response.status >= 400 or (code is not None and code != 0) or body is None:
            said = status.get("msg") if isinstance(status, dict) else " ".join(response.text.split())[:200]
            advice = "Check the picture, the path and the field name."
            if response.status == 401:
                advice = (
                    "The access token that the platform tells of the serving was sent, and is not what it wants."
                    if serving.token
                    else "It wants its access token, which the platform has not told: does it know who asks? Set the "
                    "password of the Airflow connection."
                )
            raise InvokeError(
                f"Could not ask serving {serving.name!r} at {url}. It said: {said or 'nothing'} (code {code}, "
                f"HTTP {response.status}). {advice}",
                serving.name,
            )
        return body["data"] if isinstance(body, dict) and "data" in body else body

    return Call(request, read)


def join(url: str, path: str) -> str:
    """Put a path behind a serving's address."""
    return f"{url.rstrip('/')}/{path.lstrip('/')}"


def _read_serving(data: Any, platform: Platform, name: str = "") -> Serving:
    if not isinstance(data, dict):
        raise UnexpectedResponseError(f"The platform's answer about serving {name!r} holds no serving.")
    word = data.get("status") or data.get("state")
    if not isinstance(word, str):
        raise UnexpectedResponseError(f"The platform's answer about serving {name!r} tells no status.")
    hosts = data.get("hosts")
    if isinstance(hosts, list):  # a string in the seed, despite its plural
        hosts = hosts[0] if hosts else ""
    url, token = str(hosts or ""), data.get("token")
    return Serving(
        name=str(data.get("name") or name),
        status=platform.serving_status(word),
        word=word,
        url=url if "://" in url or not url else f"http://{url}",
        token=token if isinstance(token, str) and re.fullmatch(r"[!-~]+", token) else "",
        replicas=data["replicas"] if isinstance(data.get("replicas"), int) else 1,
        created_at=to_epoch(data.get("createdTime")),
        launched_at=to_epoch(data.get("launchedTime")),
        message=str(data.get("message") or ""),
    )
