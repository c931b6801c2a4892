"""What installations of the platform may differ in, as values to try one after the other. The first is the default.

Each has been seen in a relative of the platform, or in one of its clients; none but the first of a row is in the
platform's document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from airflow_bitahub.api.platform import ENDPOINTS

# The first part of every address: the document's (seed), and KubeSphere's own (family).
PREFIXES = ("lapis", "kapis", "apis", "kapi", "api")

# How to sign requests. First come those that send no password: a platform that locks accounts counts wrong passwords.
AUTHS = ("none", "bearer", "header", "kubesphere", "basic")
PASSWORD_AUTHS = ("kubesphere", "basic")

# This program's name at KubeSphere's sign-in: the customary one, and the default of release 3.1 (family).
CLIENT_IDS = ("kubesphere", "default")

# The one image that the platform's document names (seed).
IMAGE = "10.11.3.8:5000/bitahub/tensorflow-2.3-cuda-11.0-py3:v1.0"

_CLUSTER = "/clusters/{cluster}"
# In KubeSphere, an address without a cluster means the host cluster (family).
WITHOUT_CLUSTER: Mapping[str, str] = MappingProxyType(
    {key: template.replace(_CLUSTER, "") for key, template in ENDPOINTS.items() if _CLUSTER in template}
)


def _with_method(operation: str, *methods: str) -> tuple[str, ...]:
    path = ENDPOINTS[operation].partition(" ")[2]
    return tuple(f"{method} {path}" for method in methods)


def _with_ending(operation: str, ending: str, *others: str) -> tuple[str, ...]:
    return tuple(ENDPOINTS[operation].removesuffix(ending) + other for other in others)


_JOB = ENDPOINTS["get_job"].partition(" ")[2]
_SERVING = ENDPOINTS["get_serving"].partition(" ")[2]

# Operation -> the addresses to try after the default.
ENDPOINT_CANDIDATES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "stop_job": (f"PUT {_JOB}/stop", f"POST {_JOB}/stop"),  # family: both methods
        "read_job_log": _with_ending("read_job_log", "/log", "/logs", "/retrylog"),  # retrylog: client
        "get_serving_log": _with_ending("get_serving_log", "/log", "/logs"),
        "update_serving": _with_method("update_serving", "POST"),
        "scale_serving": (f"PUT {_SERVING}/scale",),
        "stop_serving": _with_method("stop_serving", "POST"),
        "start_serving": _with_method("start_serving", "POST"),
        "delete_serving": (f"POST {_SERVING}/delete",),
    }
)
