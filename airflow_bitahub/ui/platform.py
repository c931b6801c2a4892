"""What the platform says about a job, asked once for a person who waits. Its secrets are masked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

from airflow.sdk._shared.secrets_masker import redact

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import get_job, read_job_log
from airflow_bitahub.exceptions import BitaHubError, NotFoundError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.mask_keys import mask_key
from airflow_bitahub.pages.hiding import HIDDEN
from airflow_bitahub.pages.log_text import MAX_LINES, readable
from airflow_bitahub.procedures.retry import Retry
from airflow_bitahub.secret_digests import SecretMask

SECONDS = 6  # for each request


class Log(NamedTuple):
    """The end of a job's log.

    :param problem: why it could not be read, in the platform's words
    :param is_withheld: it is not shown, since the secrets in it cannot be masked
    """

    text: str = ""
    is_cut: bool = False
    problem: str = ""
    is_withheld: bool = False


class Look(NamedTuple):
    """What the platform says now.

    :param job: None: it does not say anything about it
    :param problem: the key of the text that says why
    :param reason: the same in the platform's words
    :param url: the address of the job's page in the platform's console; "" where it is none for a browser
    :param log: None: nobody asked for it
    """

    job: Job | None = None
    problem: str = ""
    reason: str = ""
    url: str = ""
    log: Log | None = None


def open_hook(bitahub_conn_id: str) -> BitaHubHook:
    """Return the hook of a connection, which has been looked up.

    :raises BitaHubError: the connection is wrong
    :raises Exception: Airflow's own, for example because there is no such connection
    """
    hook = BitaHubHook(bitahub_conn_id)
    hook.settings  # noqa: B018  reads the connection
    return hook


def look_at_job(bitahub_conn_id: str, job_name: str, masks: Mapping[str, Any], *, with_log: bool) -> Look:
    """Return what the platform says about a job.

    :param masks: what is on record of the secrets that the job may print
    """
    try:
        hook = open_hook(bitahub_conn_id)
        hook.client = hook.new_client(Retry(attempts=1), request_timeout=SECONDS)
        url = hook.job_url(job_name)
    except Exception as error:  # Airflow's own errors are of many kinds
        return Look(problem="connection_problem", reason=masked(error))
    url = url if url.startswith(("http://", "https://")) else ""
    with closing(hook.client):
        try:
            job = hook.send(get_job(job_name))
        except NotFoundError:
            return Look(problem="job_gone", url=url)
        except BitaHubError as error:
            return Look(problem="not_reached", reason=masked(error), url=url)
        try:
            mask = SecretMask(masks, mask_key(masks["key"]).value) if masks else None
        except Exception:  # the key is missing, or somebody has changed the record
            job = job.model_copy(update={"message": job.message and HIDDEN})
            return Look(job, url=url, log=Log(is_withheld=True) if with_log else None)
        message = masked(job.message)
        job = job.model_copy(update={"message": mask.hide(message) if mask else message})
        return Look(job, url=url, log=_read_log(hook, job_name, mask) if with_log else None)


def _read_log(hook: BitaHubHook, job_name: str, mask: SecretMask | None) -> Log:
    try:
        text = hook.send(read_job_log(job_name, tail_lines=MAX_LINES + 1))
    except BitaHubError as error:
        return Log(problem=masked(error))
    return Log(*readable(masked(text), mask))


def masked(text: object) -> str:
    """Return a text without the secrets that this process knows, such as those of the connection."""
    return str(redact(str(text)))
