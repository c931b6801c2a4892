"""The page of a task instance that deploys, changes or asks a serving."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from airflow_bitahub.operators.records import TaskRollout
from airflow_bitahub.pages.hiding import hide_secrets
from airflow_bitahub.procedures.deployments import Deployment, Owner
from airflow_bitahub.ui.access import RequestedTask, TaskKey, may_see
from airflow_bitahub.ui.ownership import run_in
from airflow_bitahub.ui.rendering import render, translator_for
from airflow_bitahub.ui.serving_view import AskedServing, ServingLook, look_at_serving, rollout_timeline, shown_metrics
from airflow_bitahub.ui.store import StoredTask, read_task
from airflow_bitahub.ui.threads import in_thread

router = APIRouter()


@router.get(
    "/serving-log",
    dependencies=[may_see(DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM, DagAccessEntity.TASK_LOGS)],
)
async def show_serving_and_log(request: Request, task: RequestedTask) -> Response:
    """Show the serving of a task instance with the end of its log."""
    stored = await in_thread(read_task, task)
    page = await find_serving_page(request, task, stored, with_log=True) if stored else None
    return page or render(request, "error.html", 404, code=404)


async def find_serving_page(
    request: Request, task: TaskKey, stored: StoredTask, *, with_log: bool = False
) -> Response | None:
    """Return the page of a task instance with the serving that its arguments name; None where they name none."""
    asked = _asked(stored)
    if asked is None:
        return None
    try:
        look = await in_thread(look_at_serving, asked, with_log=with_log)
    except TimeoutError:
        look = ServingLook(problem="not_in_time")
    return _page(request, task, asked, stored.rollout, look)


def _asked(stored: StoredTask) -> AskedServing | None:
    # What the task has stored itself says nothing here: who may edit it in Airflow could name any serving there.
    name, version = stored.arguments.get("serving_name"), stored.arguments.get("version")
    if not (isinstance(name, str) and isinstance(version, str) and stored.conn_id):
        return None
    return AskedServing(name, version, stored.conn_id)


def _page(
    request: Request, task: TaskKey, asked: AskedServing, rollout: TaskRollout | None, look: ServingLook
) -> Response:
    record = look.record or Deployment()
    live, other_owner, is_own = record.rollout, "", False
    if live is not None:
        is_own = live.owner == Owner(task.dag_id, task.task_id, task.run_id, task.map_index)
        rollout, other_owner = (
            (TaskRollout.of(live), "") if is_own else (rollout, _shown(str(live.owner), task, request))
        )
    champion = record.current
    return render(
        request,
        "serving.html",
        query=urlencode(task._asdict()),
        asked=asked,
        look=look,
        rollout=rollout,
        timeline=rollout_timeline(rollout, is_live=is_own) if rollout else None,
        is_deploying=is_own,
        other_owner=other_owner,
        champion=champion,
        versions=[
            (version, shown_metrics(version), version.deployed_by and _shown(version.deployed_by, task, request))
            for version in record.versions
        ],
        # The record has no secret values; what only looks like one is hidden, too.
        specification=json.dumps(hide_secrets(champion.spec), indent=2, ensure_ascii=False) if champion else "",
        is_live=live is not None or (look.serving is not None and not look.serving.status.is_terminal),
    )


def _shown(owner: str, task: TaskKey, request: Request) -> str:
    return owner if run_in(owner, task.dag_id) else translator_for(request)("by_another_dag")
