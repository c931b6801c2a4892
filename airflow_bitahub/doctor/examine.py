"""The order of an examination's parts, and what is done with what they found."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

from airflow_bitahub.airflow_database import update_extra
from airflow_bitahub.doctor import jobs, servings
from airflow_bitahub.doctor.access import examine_access
from airflow_bitahub.doctor.connections import origin_of
from airflow_bitahub.doctor.examination import Examination
from airflow_bitahub.doctor.extras import merged
from airflow_bitahub.doctor.report import FAILS, SKIPPED, Report
from airflow_bitahub.doctor.shared_folder import prepare_folder
from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.reaper import server_hook


def examine(conn_id: str, *, with_jobs: bool, with_serving: bool, write: bool, timeout: float) -> int:
    """Examine a connection, and return 0 if tasks can work with it.

    :param write: set what was found in the connection
    :param timeout: seconds to wait at most for a job or serving to start or end
    :raises ConfigurationError: there is no such connection, or it is wrong
    """
    hook, report = server_hook(conn_id), Report(sys.stdout)
    settings = hook.settings
    who = f" as {settings.login}" if settings.login else ""
    report.say(f"The Airflow connection {conn_id!r}: {settings.base_url}{who}\n")
    examination = Examination(hook, report, timeout=timeout)
    with _interrupted_by_sigterm(), closing(examination):
        try:
            works = _examine(examination, with_jobs=with_jobs, with_serving=with_serving)
        except BitaHubError as error:  # what was found so far is still worth knowing
            report.row(FAILS, "examination", examination.why(error))
            works = False
    report.say()
    if examination.found:
        _tell_extras(examination, conn_id, write=write)
    else:
        report.say("No extra has to be set." if works else "No extra was found that would help.")
    return 0 if works else 1


def _examine(examination: Examination, *, with_jobs: bool, with_serving: bool) -> bool:
    """Do all parts in their order, and return whether tasks can work."""
    if not examine_access(examination):
        return False
    if not with_jobs:
        examination.report.row(SKIPPED, "jobs", "--no-job: how jobs end, their logs and the storage were not tried.")
        return True
    jobs.announce(examination)
    if not jobs.examine_jobs(examination):
        return False
    folder = prepare_folder(examination, is_model=with_serving)
    jobs.examine_stop(examination, folder)
    if with_serving and folder is None:
        examination.report.row(SKIPPED, "serving", "It needs a folder as its model, and 'user_id' is not known.")
    elif with_serving and folder is not None:
        servings.announce(examination)
        servings.examine_serving(examination, folder.server_path)
    if folder is not None and examination.is_newest(folder.what):  # otherwise it is still used, and is removed later
        folder.remove()
    return True


def _tell_extras(examination: Examination, conn_id: str, *, write: bool) -> None:
    report = examination.report
    report.say("Extras to set in the connection; all others stay as they are:")
    report.extras(examination.found)
    origin = origin_of(conn_id)
    if origin and write:
        report.say(f"They cannot be written: the connection comes from {origin}. Set them there.")
    elif origin:
        report.say(f"The connection comes from {origin}: set them there.")
    elif write:
        update_extra(conn_id, lambda extra: merged(extra, examination.found))
        report.say(f"Written to the Airflow connection {conn_id!r}.")
    else:
        report.say(f"To set them: airflow-bitahub doctor {conn_id} --write")


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """End as after Ctrl-C when the process is asked to end, so that nothing is left on the platform."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
