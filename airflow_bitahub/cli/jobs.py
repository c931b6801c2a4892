"""``airflow-bitahub jobs``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from airflow_bitahub.cli.parsing import add_conn_id, add_dry_run
from airflow_bitahub.exceptions import BitaHubError

if TYPE_CHECKING:
    from airflow_bitahub.cli.parsing import Subparsers


def add_jobs(subparsers: Subparsers) -> None:
    """Add the parser of the subcommand."""
    parser = subparsers.add_parser(
        "jobs",
        help="list this Airflow's live jobs, and stop the orphaned ones",
        description="List the live jobs that this Airflow submitted, and stop the orphaned ones. Run it where "
        "Airflow's own commands run, since it reads Airflow's database.",
    )
    actions = parser.add_subparsers(metavar="action", required=True)
    listing = actions.add_parser("list", help="show live jobs: owned by a task, unwatched, detached, or orphans")
    listing.set_defaults(run=_run_jobs_list)
    reaping = actions.add_parser("reap", help="stop orphans: live jobs whose tasks have ended, unless detached")
    reaping.set_defaults(run=_run_jobs_reap)
    add_dry_run(reaping, "only show which jobs would be stopped")
    add_conn_id(listing, reaping)


def _run_jobs_list(args: argparse.Namespace) -> int:
    from airflow_bitahub.reaper import find_live_jobs, server_hook

    findings = find_live_jobs(server_hook(args.conn_id))
    for live in findings.jobs:
        print(f"{live.ownership:9} {live.job.name:40} {live.job.status.value:9} {live.task or 'no task'}")
    print(*findings.notes(), sep="\n")
    return 0


def _run_jobs_reap(args: argparse.Namespace) -> int:
    from airflow_bitahub.reaper import find_live_jobs, server_hook, stop_orphan

    hook = server_hook(args.conn_id)
    findings = find_live_jobs(hook)
    orphans = [live for live in findings.jobs if live.ownership == "orphan"]
    failures = 0
    for orphan in orphans:
        try:
            outcome = "would be stopped" if args.dry_run else stop_orphan(hook, orphan)
        except BitaHubError as error:
            outcome, failures = str(error), failures + 1
        print(f"{orphan.job.name:40} {orphan.task or 'no task'}: {outcome}", flush=True)
    print(*findings.notes(), sep="\n")
    if args.dry_run and orphans:
        print("Nothing was stopped. To stop these jobs: airflow-bitahub jobs reap --no-dry-run")
    return 1 if failures else 0
