"""The plugin. Every process of Airflow imports this file, each task's too, so it must stay light."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.sdk.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/bitahub"  # of the addresses of all pages
_TASK = "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"  # Airflow fills it in


class PagesOnDemand:
    """The pages as an ASGI application, which is made when the first request arrives."""

    _app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._app is None:
            self._app = await asyncio.to_thread(_make_app)
        await self._app(scope, receive, send)


def _make_app() -> ASGIApp:
    from airflow_bitahub.ui.app import make_app

    return make_app()


class BitaHubPlugin(AirflowPlugin):
    """Adds pages to the Airflow UI. Their addresses are relative, so they work below any `base_url`."""

    name = "bitahub"
    fastapi_apps: list[Any] = [{"app": PagesOnDemand(), "url_prefix": PREFIX, "name": "BitaHub"}]
    external_views: list[Any] = [
        {
            "name": "BitaHub job",
            "destination": "task_instance",
            "url_route": "bitahub-job",
            "href": f"bitahub/job?{_TASK}",
        },
    ]
