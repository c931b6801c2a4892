"""``airflow-bitahub servings``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from airflow_bitahub.cli.parsing import add_conn_id, add_dry_run
from airflow_bitahub.exceptions import BitaHubError

if TYPE_CHECKING:
    from airflow_bitahub.cli.parsing import Subparsers


def add_servings(subparsers: Subparsers) -> None:
    """Add the parser of the subcommand."""
    parser = subparsers.add_parser(
        "servings",
        help="list this Airflow's servings, and end deployments that were left",
        description="List the servings that this Airflow has deployed, and end deployments whose tasks have ended. Run "
        "it where Airflow's own commands run, since it reads and writes Airflow's database.",
    )
    actions = parser.add_subparsers(metavar="action", required=True)
    listing = actions.add_parser("list", help="show what serves, since when, and which deployments are under way")
    listing.set_defaults(run=_run_servings_list)
    reaping = actions.add_parser(
        "reap",
        help="end deployments whose tasks have ended: the candidate is removed, and the old version serves again",
    )
    reaping.set_defaults(run=_run_servings_reap)
    add_dry_run(reaping, "only show which deployments would be ended")
    add_conn_id(listing, reaping)


def _run_servings_list(args: argparse.Namespace) -> int:
    from airflow_bitahub.reaper import server_hook
    from airflow_bitahub.serving_reaper import find_servings

    servings = find_servings(server_hook(args.conn_id))
    for serving in servings.recorded:
        if serving.is_worth_showing:
            print(*serving.lines(), sep="\n")
    print(*servings.notes(), sep="\n", end="\n" if any(servings.notes()) else "")
    return 0


def _run_servings_reap(args: argparse.Namespace) -> int:
    from airflow_bitahub.reaper import server_hook
    from airflow_bitahub.serving_reaper import end_left, find_servings

    hook = server_hook(args.conn_id)
    servings = find_servings(hook)
    left = [serving for serving in servings.recorded if serving.needs_reaping]
    failures = 0
    for serving in left:
        print(*serving.lines(), sep="\n", flush=True)
        if args.dry_run:
            continue
        try:
            outcome = end_left(hook, serving)
        except BitaHubError as error:
            outcome, failures = f"could not be ended: {error}", failures + 1
        print(f"  {outcome}", flush=True)
    if not left:
        print("No deployment was left.")
    elif args.dry_run:
        print("Nothing was changed. To end what was left: airflow-bitahub servings reap --no-dry-run")
    return 1 if failures else 0
