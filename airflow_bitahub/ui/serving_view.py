"""What there is to see of a serving: what the platform says, asked once, and what is on record."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any, NamedTuple, get_args

from airflow_bitahub.airflow_database import DatabaseRecords
from airflow_bitahub.api.metering import Metering, get_metered_serving
from airflow_bitahub.api.servings import Serving, get_serving_log
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.exceptions import BitaHubError, NotFoundError
from airflow_bitahub.operators.records import TaskRollout
from airflow_bitahub.pages.hiding import HIDDEN, hide_secrets
from airflow_bitahub.pages.log_text import MAX_LINES, readable
from airflow_bitahub.pages.timeline import Span, Timeline, timeline
from airflow_bitahub.procedures.deployments import Deployment, StepName, Version
from airflow_bitahub.procedures.retry import Retry
from airflow_bitahub.texts import shorten
from airflow_bitahub.ui.platform import SECONDS, Log, masked, open_hook

_MAX_METRICS = 12  # of a version
_STEPS = get_args(StepName)


class AskedServing(NamedTuple):
    """Which serving a task's arguments name, and the connection to its platform."""

    name: str
    version: str
    conn_id: str


class ServingLook(NamedTuple):
    """What the platform says now, and what is on record.

    :param serving: None: the platform does not say anything about it
    :param record: the versions that this Airflow has deployed, and a deployment that is under way
    :param problem: the key of the text that says why something is missing
    :param reason: the same in the platform's words
    :param url: the address of the serving's page in the platform's console; "" where it is none for a browser
    :param log: None: nobody asked for it
    """

    serving: Serving | None = None
    metering: Metering | None = None
    record: Deployment | None = None
    problem: str = ""
    reason: str = ""
    url: str = ""
    log: Log | None = None


def look_at_serving(asked: AskedServing, *, with_log: bool) -> ServingLook:
    """Return what there is to see of a task's serving."""
    try:
        hook = open_hook(asked.conn_id)
        hook.client = hook.new_client(Retry(attempts=1), request_timeout=SECONDS)
        url = hook.serving_url(asked.name)
        record = DatabaseRecords(hook, asked.name, asked.version).load()
    except Exception as error:  # Airflow's own errors are of many kinds
        return ServingLook(problem="connection_problem", reason=masked(error))
    look = ServingLook(record=record, url=url if url.startswith(("http://", "https://")) else "")
    with closing(hook.client) as client:
        try:
            serving, metering = client.send(get_metered_serving(asked.name, asked.version))
        except NotFoundError:
            return look._replace(problem="serving_gone")
        except BitaHubError as error:
            return look._replace(problem="not_reached", reason=masked(error))
        log = _read_log(client, asked, serving.token) if with_log else None
        serving = _without_secrets(serving)
    return look._replace(serving=serving, metering=metering, log=log)


def _read_log(client: BitaHubClient, asked: AskedServing, token: str) -> Log:
    try:
        text = client.send(get_serving_log(asked.name, asked.version, tail_lines=MAX_LINES + 1))
    except BitaHubError as error:
        return Log(problem=masked(error))
    return Log(*readable(_hide(text, token)))


def _without_secrets(serving: Serving) -> Serving:
    """Return a serving whose messages are masked as its log is."""

    def hide(text: str) -> str:
        return _hide(text, serving.token)

    pods = tuple(pod.model_copy(update={"message": hide(pod.message)}) for pod in serving.pods)
    return serving.model_copy(update={"message": hide(serving.message), "pods": pods})


def _hide(text: str, token: str) -> str:
    if token:  # programs may print the requests that they get
        text = text.replace(token, HIDDEN)
    return str(hide_secrets(masked(text)))


def rollout_timeline(rollout: TaskRollout, *, is_live: bool) -> Timeline | None:
    """Return the steps of a deployment as a picture; the last one lasts until now if it goes on."""
    steps = [(name, at * 1000) for name, at in rollout.steps if name in _STEPS]
    if not steps:
        return None
    begins = [at for _, at in steps]
    last = time.time() * 1000 if is_live else rollout.ended_at * 1000 if rollout.ended_at else begins[-1]
    spans = [Span("", name.upper(), begin, end) for (name, begin), end in zip(steps, [*begins[1:], last], strict=True)]
    return timeline(begins[0], last, spans)


def shown_metrics(version: Version) -> list[tuple[str, str]]:
    """Return what a version was deployed with, as texts."""

    def shown(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else shorten(str(value), 60)

    return [(shorten(name, 60), shown(value)) for name, value in list(version.metrics.items())[:_MAX_METRICS]]
