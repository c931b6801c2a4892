"""The serving of a task that deploys, changes or asks it: on the task's page, and its log on a page of its own."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args
from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.sdk.exceptions import AirflowException
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from airflow_bitahub.airflow_database import DatabaseRecords
from airflow_bitahub.api.metering import Metering, get_metered_serving
from airflow_bitahub.api.servings import Serving, get_serving, get_serving_log
from airflow_bitahub.exceptions import BitaHubError, NotFoundError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.operators.records import TaskRollout, TaskServing
from airflow_bitahub.pages.hiding import HIDDEN, hide_secrets
from airflow_bitahub.pages.log_text import readable
from airflow_bitahub.pages.timeline import Span, Timeline, timeline
from airflow_bitahub.procedures.deployments import Deployment, Owner, StepName, Version
from airflow_bitahub.procedures.retry import Retry
from airflow_bitahub.texts import shorten
from airflow_bitahub.ui.access import RequestedTask, TaskKey, may_see
from airflow_bitahub.ui.rendering import render
from airflow_bitahub.ui.store import read_rollout, read_serving
from airflow_bitahub.ui.threads import in_thread

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call

T = TypeVar("T")

_SECONDS = 10  # for a query of the platform: a person waits for it
_LOG_LINES = 200
_METRICS = 12  # of a version
_STEPS = get_args(StepName)

router = APIRouter()


@router.get(
    "/serving-log",
    dependencies=[may_see(DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM, DagAccessEntity.TASK_LOGS)],
)
async def show_serving_log(request: Request, task: RequestedTask) -> Response:
    """Show the last lines that the programs of a task's serving printed."""
    return await in_thread(_log_page, request, task)


def serving_page(request: Request, task: TaskKey) -> Response | None:
    """Return the page of a task instance with the serving that it is about; None where it is about none."""
    asked = read_serving(task)
    if asked is None:
        return None
    look = _look(asked)
    live, rollout = look.record.rollout, read_rollout(task)
    is_own = live is not None and live.owner == Owner(task.dag_id, task.task_id, task.run_id, task.map_index)
    if live is not None and is_own:
        rollout = TaskRollout.of(live)
    return render(
        request,
        "serving.html",
        task=task,
        query=urlencode(task._asdict()),
        asked=asked,
        serving=look.serving,
        metering=look.metering,
        problem=look.problem,
        is_missing=look.is_missing,
        steps=rollout and _timeline(rollout, is_live=is_own),
        rollout=rollout,
        other_owner=str(live.owner) if live is not None and not is_own else "",
        champion=look.record.current,
        versions=look.record.versions,
        metrics={version.digest: _metrics(version) for version in look.record.versions},
        specification=_specification(look.record.current),
        is_live=is_own or (look.serving is not None and not look.serving.status.is_terminal),
    )


def _log_page(request: Request, task: TaskKey) -> Response:
    asked = read_serving(task)
    text, problem = "", ""
    if asked is not None:
        try:
            with closing(_Platform(asked)) as platform:
                serving = platform.send(get_serving(asked.name, asked.version))
                text = platform.send(get_serving_log(asked.name, asked.version, tail_lines=_LOG_LINES))
        except (BitaHubError, AirflowException) as error:
            problem = str(error)
        else:  # programs may print the requests that they get
            text = hide_secrets(text.replace(serving.token, HIDDEN) if serving.token else text)
    lines, is_cut = readable(text)
    return render(
        request,
        "serving_log.html",
        task=task,
        query=urlencode(task._asdict()),
        asked=asked,
        problem=problem,
        log=lines,
        log_is_cut=is_cut or len(text.splitlines()) >= _LOG_LINES,
    )


class _Platform:
    """The platform of a task's serving, asked once and not for long."""

    def __init__(self, asked: TaskServing) -> None:
        self.hook = BitaHubHook(asked.conn_id)
        self._client = self.hook.new_client(Retry(attempts=1))

    def send(self, call: Call[T]) -> T:
        """Send a query and return its result."""
        return self._client.send(replace(call, request=replace(call.request, timeout=_SECONDS)))

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


@dataclass(frozen=True)
class _Seen:
    """What there is to see of a serving.

    :param serving: None: the platform has none, or did not say
    :param record: the versions that this Airflow deployed
    :param problem: why something is missing, in words
    """

    serving: Serving | None = None
    metering: Metering | None = None
    record: Deployment = field(default_factory=Deployment)
    is_missing: bool = False
    problem: str = ""


def _look(asked: TaskServing) -> _Seen:
    seen = _Seen()
    try:
        with closing(_Platform(asked)) as platform:
            record = DatabaseRecords(platform.hook, asked.name, asked.version).load()
            seen = replace(seen, record=record or Deployment())
            serving, metering = platform.send(get_metered_serving(asked.name, asked.version))
    except NotFoundError:
        return replace(seen, is_missing=True)
    except (BitaHubError, AirflowException) as error:
        return replace(seen, problem=str(error))
    return replace(seen, serving=serving, metering=metering)


def _timeline(rollout: TaskRollout, *, is_live: bool) -> Timeline | None:
    """Return the steps as a picture; the last one lasts until now if the task goes on with it."""
    steps = [(name, at * 1000) for name, at in rollout.steps if name in _STEPS]
    if not steps:
        return None
    begins = [at for _, at in steps]
    last = time.time() * 1000 if is_live else rollout.ended_at * 1000 if rollout.ended_at else begins[-1]
    spans = [Span("", name.upper(), begin, end) for (name, begin), end in zip(steps, [*begins[1:], last], strict=True)]
    return timeline(begins[0], last, spans)


def _metrics(version: Version) -> list[tuple[str, str]]:
    def shown(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else shorten(str(value), 60)

    return [(shorten(name, 60), shown(value)) for name, value in list(version.metrics.items())[:_METRICS]]


def _specification(version: Version | None) -> str:
    """Return what serves as JSON. The record has no secret values; what only looks like one is hidden as well."""
    return "" if version is None else json.dumps(hide_secrets(version.spec), indent=2, ensure_ascii=False)
