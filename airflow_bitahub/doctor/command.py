"""``airflow-bitahub doctor``: its arguments, and the order of its parts."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_bitahub.doctor.examination import Examination

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_doctor(subparsers: Subparsers) -> None:
    """Add the parser of the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="find out what of a BitaHub installation works, and which extras its connection needs",
        description="Sign in, find the platform's addresses, run two tiny jobs without accelerators, and print what "
        "works and which extras to set in the Airflow connection. Run it where Airflow's own commands run.",
    )
    parser.add_argument("conn_id", metavar="CONNECTION", help="the id of the Airflow connection")
    parser.add_argument("--no-job", action="store_true", help="submit nothing; only sign in, look and list")
    parser.add_argument("--serving", action="store_true", help="also create one tiny serving, and remove it")
    parser.add_argument("--write", action="store_true", help="set the extras that were found in the Airflow connection")
    parser.add_argument(
        "--timeout",
        type=float,
        default=600,
        metavar="SECONDS",
        help="how long to wait for a job or serving to start or end (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine a connection, and return 0 if tasks can work with it."""
    from airflow_bitahub.doctor.examination import Examination
    from airflow_bitahub.doctor.report import Report
    from airflow_bitahub.reaper import server_hook

    hook, report = server_hook(args.conn_id), Report(sys.stdout)
    settings = hook.settings
    who = f" as {settings.login}" if settings.login else ""
    report.say(f"The Airflow connection {args.conn_id!r}: {settings.base_url}{who}\n")
    examination = Examination(hook, report, timeout=args.timeout)
    with _interrupted_by_sigterm(), closing(examination):
        works = _examine(examination, with_jobs=not args.no_job, with_serving=args.serving)
    report.say()
    if examination.found:
        _tell_extras(examination, args.conn_id, write=args.write)
    else:
        report.say("No extra has to be set." if works else "No extra was found that would help.")
    return 0 if works else 1


def _examine(examination: Examination, *, with_jobs: bool, with_serving: bool) -> bool:
    """Do all parts in their order, and return whether tasks can work."""
    from airflow_bitahub.doctor import jobs, servings
    from airflow_bitahub.doctor.access import examine_access
    from airflow_bitahub.doctor.report import SKIPPED
    from airflow_bitahub.doctor.shared_folder import prepare_folder

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
    if folder is not None:
        folder.remove()
    return True


def _tell_extras(examination: Examination, conn_id: str, *, write: bool) -> None:
    from airflow_bitahub.airflow_database import update_extra
    from airflow_bitahub.doctor.connections import origin_of
    from airflow_bitahub.doctor.extras import merged

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
