"""The first part: how to sign in, and where the platform's addresses begin."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_bitahub.api import candidates
from airflow_bitahub.api.jobs import list_jobs
from airflow_bitahub.doctor.report import FAILS, NOTE, WORKS
from airflow_bitahub.exceptions import BitaHubError, UnexpectedResponseError
from airflow_bitahub.procedures.access import Access, find_access
from airflow_bitahub.procedures.retry import Retry

if TYPE_CHECKING:
    from airflow_bitahub.doctor.examination import Examination

_HOW = {
    "none": "nothing is sent: the platform asks for no sign-in",
    "bearer": "the password is a token",
    "header": "the password is a token, sent in the header 'token'",
    "basic": "login and password are sent with every request",
    "kubesphere": "login and password are exchanged for tokens",
}


def examine_access(examination: Examination) -> bool:
    """Find out how to reach the platform. Return whether that works."""
    report, stated = examination.report, examination.stated
    for sentence in (*stated.warnings(), *stated.unknown_extras()):
        report.row(NOTE, "connection", sentence)
    # A password in the connection that is refused counts as sent, so the search itself has to begin with it.
    wanted = {key: stated.text(key) for key in ("auth", "prefix", "client_id") if stated.text(key)}
    try:
        access = examination.run(
            find_access(
                wanted,
                examination.name("x"),
                has_password=bool(stated.token),
                has_login=bool(stated.login),
            )
        )
    except BitaHubError as error:
        report.row(FAILS, "address", examination.why(error))
        return False
    if not access.works:
        _report_failure(examination, access)
        for line in access.tried:
            report.say(f"            tried {line}")
        return False
    examination.adopt(_differing(examination, access.extras))
    auth, prefix = access.extras["auth"], access.extras["prefix"]
    report.row(WORKS, "address", f"{stated.base_url}/{prefix}")
    report.row(WORKS, "signing in", f"auth {auth!r}: {_HOW[auth]}")
    if access.denial is not None:
        report.row(FAILS, "permission", examination.why(access.denial))
        return False
    return _list(examination)


def _list(examination: Examination) -> bool:
    """Query the list of jobs, as the Test button does. Return whether there is any use in going on."""
    report, namespace = examination.report, examination.settings.platform().job_namespace
    try:
        with closing(examination.hook.new_client(Retry(attempts=2))) as client:
            page = client.send(list_jobs(page_size=100))
    except BitaHubError as error:
        report.row(FAILS, "list of jobs", examination.why(error))
        report.row(NOTE, "", "Without a list, every job is queried by itself.")
        examination.adopt({"watch": "single"})
    else:
        unreadable = f"; {page.unreadable} entries cannot be read" if page.unreadable else ""
        report.row(WORKS, "list of jobs", f"{len(page.names)} on the first page of {namespace!r}{unreadable}")
    return True


def _report_failure(examination: Examination, access: Access) -> None:
    report, refusal = examination.report, access.refusal
    if isinstance(refusal, UnexpectedResponseError) and refusal.status == HTTPStatus.NOT_FOUND:
        prefix = examination.stated.platform().prefix
        report.row(
            FAILS,
            "address",
            f"Wrong: address, or gateway prefix. The server answers, and knows none of the prefixes that are known, "
            f"nor {prefix!r}. Check the host; if it is right, ask whoever runs the platform for the API's prefix, and "
            f"set the extra 'prefix'.",
        )
        return
    if refusal is None or isinstance(refusal, UnexpectedResponseError):
        report.row(FAILS, "address", examination.why(refusal) if refusal else "It was not found.")
        return
    report.row(FAILS, "signing in", examination.why(refusal, access.extras))
    if access.extras["auth"] in candidates.PASSWORD_AUTHS:
        report.row(NOTE, "", "The password was sent once. Correct it before the doctor is run again.")


def _differing(examination: Examination, extras: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extras that say something else than the connection does already."""
    settings = examination.stated
    platform = settings.platform()
    now = {
        "auth": settings.auth_kind,
        "prefix": platform.prefix,
        "client_id": settings.text("client_id", "kubesphere"),
    }
    found = {key: value for key, value in extras.items() if key in now and value != now[key]}
    endpoints = {key: value for key, value in extras.get("endpoints", {}).items() if platform.endpoints[key] != value}
    return {**found, **({"endpoints": endpoints} if endpoints else {})}
