"""The Airflow connection to an emulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_bitahub.api.platform import ENDPOINTS, Platform
from airflow_bitahub.emulator.http.access import HEADER


def connection_to(
    url: str,
    token: str,
    storage_uri: str,
    *,
    prefix: str,
    auth: str,
    console_url: str,
    login: str,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Return an Airflow connection. As JSON it is the value of an ``AIRFLOW_CONN_...`` variable.

    :param extra: fields of the connection's extra, which come before the emulator's own
    """

    def page(kind: str, namespace: str) -> str:
        return f"{console_url}/{kind}/{extra.get(namespace, getattr(Platform, namespace))}/{{name}}"

    return {
        "conn_type": "bitahub",
        "host": url,
        "login": login,
        "password": token,
        "extra": {
            "storage_uri": storage_uri,
            **({} if prefix == Platform.prefix else {"prefix": prefix}),
            **({"auth": auth} if auth == HEADER else {}),
            "console_url": page("jobs", "job_namespace"),
            "serving_console_url": page("servings", "serving_namespace"),
            "model_console_url": f"{console_url}/models#/models/{extra.get('user_id', '')}/{{name}}",
            **extra,
            # The emulator can replace a serving's specification, which the real platform is not known to do.
            "endpoints": {"update_serving": ENDPOINTS["update_serving"], **extra.get("endpoints", {})},
        },
    }
