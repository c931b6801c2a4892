"""The form for connections of type ``bitahub`` in Airflow's UI, as the provider's description gives it.

Airflow reads this without importing the hook, whose docstring describes each extra in full. It groups the fields by the
`section` of their schema, in the order of their first appearance. What is left empty is saved as null, which every
extra takes for "not set"; a default is saved as it is shown.

Five extras have no field. `endpoints`, `status_words`, `error_codes` and `query_parameters` are objects, for which
there is the box "Extra Fields JSON". `share_token` should be shown as on, but Airflow masks because of its name, and
then saves asterisks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Airflow masks secrets because of their names: those that contain password, secret, token or proxy. Such a field must
# have no default, since Airflow masks that too.

STANDARD_FIELDS: dict[str, Any] = {
    "hidden-fields": ["schema"],
    "relabeling": {"host": "Address", "login": "User name", "password": "Password or token"},
    "placeholders": {
        "host": "https://kubesphere.example.com",
        "port": "such as 443: Airflow 3.3 tests no connection without one",
        "login": "the user's name on the platform",
        "password": "empty: nothing is sent; see Signing in",
    },
}


def _field(section: str, label: str, description: str, kind: str, **schema: Any) -> dict[str, Any]:
    schema = {"type": [kind, "null"], "section": section, **schema}
    return {"label": label, "description": description, "schema": schema}


def _text(section: str, label: str, description: str, default: str | None = None, **schema: Any) -> dict[str, Any]:
    return _field(section, label, description, "string", **schema, **({} if default is None else {"default": default}))


def _secret(section: str, label: str, description: str) -> dict[str, Any]:
    return _field(section, label, description, "string", format="password")


def _choice(section: str, label: str, description: str, shown: Mapping[str, str]) -> dict[str, Any]:
    """Describe a field with a list to choose from.

    :param shown: what the list shows for each value
    """
    return _field(section, label, description, "string", enum=[*shown], values_display=dict(shown))


def _number(section: str, label: str, description: str, default: float | None, least: float) -> dict[str, Any]:
    return _field(
        section, label, description, "number", minimum=least, **({} if default is None else {"default": default})
    )


_SIGN_IN = "Signing in"
_FOLDERS = "User, storage and images"
_SECURITY = "Certificates and proxy"
_INSTALLATION = "This installation"
_PREFLIGHT = "Before a job is submitted"
_CONSOLE = "Links to the console"
_LOAD = "Time limits and load"

EXTRA_FIELDS: dict[str, dict[str, Any]] = {
    "auth": _choice(
        _SIGN_IN,
        "Sign in with",
        "Empty: with the password as a bearer token, if there is one.",
        {
            "bearer": "a token (bearer)",
            "kubesphere": "user name and password, exchanged for tokens (kubesphere)",
            "basic": "user name and password with every request (basic)",
            "header": "a token in the header 'token' (header)",
            "none": "nothing (none)",
        },
    ),
    "client_id": _text(_SIGN_IN, "Client id", "For kubesphere only: the id of this program there.", "kubesphere"),
    "client_secret": _secret(_SIGN_IN, "Client secret", "For kubesphere only. Empty: kubesphere."),
    "user_id": _text(
        _FOLDERS,
        "User id",
        "The folder of the user on the platform's storage, such as _2f1fe8d0df7a48f6b471e02e054b4852.",
    ),
    "user_name": _text(
        _FOLDERS, "User name in containers", "The folder of the user in containers. Empty: the user name above."
    ),
    "storage_uri": _text(
        _FOLDERS,
        "Storage",
        "Where workers find the platform's storage, such as file:///mnt/bitahub. Empty: they cannot read it.",
    ),
    "default_image": _text(
        _FOLDERS, "Default image", "The container image, with its tag, of jobs and servings that name none."
    ),
    "verify": _text(
        _SECURITY,
        "Check the server",
        "Who must have signed its certificate. Empty or true: a public authority. The path of a CA bundle: an "
        "authority in that file. false: nobody, so that an impostor can read the password.",
        examples=["true", "/etc/ssl/certs/platform-ca.pem", "false"],
    ),
    "client_certificate": _text(
        _SECURITY,
        "Client certificate",
        "If the platform asks for one: the path of a PEM file on all workers, triggerers and the api-server.",
    ),
    "client_key": _text(
        _SECURITY, "Key of the client certificate", "The path of a PEM file. Empty: it is in the certificate's file."
    ),
    "client_key_password": _secret(_SECURITY, "Password of the key", "Only if the key is encrypted."),
    "proxy": _secret(
        _SECURITY,
        "Proxy",
        "Such as http://user:password@proxy.example.com:3128. none: no proxy. Empty: what the environment variables "
        "HTTPS_PROXY and NO_PROXY say. Airflow hides the whole value.",
    ),
    "workspace": _text(_INSTALLATION, "Workspace", "Part of the API's addresses.", "bitahub"),
    "cluster": _text(_INSTALLATION, "Cluster", "Part of the API's addresses.", "host"),
    "job_namespace": _text(_INSTALLATION, "Namespace of jobs", "Part of the API's addresses.", "bita-user"),
    "serving_namespace": _text(_INSTALLATION, "Namespace of servings", "Part of the API's addresses.", "inference"),
    "prefix": _text(_INSTALLATION, "Prefix", "The first part of the API's addresses, after the host.", "lapis"),
    "timezone": _text(
        _INSTALLATION,
        "Time zone",
        "Of the times that the platform writes without one. Empty: UTC.",
        examples=["Asia/Shanghai", "UTC"],
    ),
    "preflight": _field(
        _PREFLIGHT,
        "Look inputs up",
        "Whether operators look up code, datasets and models on the storage, and refuse what is missing.",
        "boolean",
        default=True,
    ),
    "accelerators": _text(
        _PREFLIGHT,
        "Device types",
        "Those that this installation has, with commas between them. Empty: any is accepted.",
        examples=["gtx-1080-ti, rtx-3090"],
    ),
    "max_cpu": _number(_PREFLIGHT, "Cores of the largest machine", "Empty: any number is accepted.", None, 1),
    "max_memory_mb": _number(
        _PREFLIGHT, "Memory of the largest machine", "In MB. Empty: any number is accepted.", None, 1
    ),
    "console_url": _text(
        _CONSOLE, "Page of a job", "With {name} for the job's name. Empty: the job's address in the API."
    ),
    "serving_console_url": _text(
        _CONSOLE, "Page of a serving", "With {name} for the serving's name. Empty: its address in the API."
    ),
    "model_console_url": _text(_CONSOLE, "Page of a model", "With {name} for the model's name. Empty: no link to it."),
    "request_timeout": _number(_LOAD, "Time limit of a request", "In seconds, for the whole request.", 30, 1),
    "max_requests_per_second": _number(
        _LOAD,
        "Requests per second",
        "The most that each triggerer sends for the deferred tasks of this connection.",
        1000,
        1,
    ),
    "longest_poll_interval": _number(
        _LOAD,
        "Longest pause between queries",
        "In seconds. A triggerer queries a job the more rarely the longer it has waited for it, up to this pause. "
        "Empty: the pause stays as the task says.",
        None,
        1,
    ),
    "watch": _choice(
        _LOAD,
        "Triggerers query",
        "Empty: what is cheaper at the moment.",
        {
            "auto": "what is cheaper at the moment (auto)",
            "collection": "the list of all jobs (collection)",
            "single": "each job by its name (single)",
        },
    ),
}
