"""The page of capacity: what there is, what running jobs use of it, and which jobs wait."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_bitahub.emulator.console.access import ROOT
from airflow_bitahub.emulator.console.pages import context_of, render


async def show_capacity(request: Request) -> Response:  # in the event loop, as `Capacity` requires
    """Show capacity and queues."""
    context = context_of(request)
    overview = context.runner.jobs.capacity.overview()
    jobs = {job.key: job for job in context.state.jobs() if not job.status.is_terminal}
    return render(
        request,
        "capacity.html",
        resources=overview.resources,
        running=[jobs[key] for key in overview.running if key in jobs],
        queues={queue: [jobs[key] for key in keys if key in jobs] for queue, keys in overview.queues.items()},
    )


routes = [Route(f"{ROOT}/capacity", show_capacity)]
