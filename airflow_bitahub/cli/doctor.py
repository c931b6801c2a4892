"""``airflow-bitahub doctor``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_bitahub.cli.parsing import Subparsers


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
    parser.set_defaults(run=_run_doctor)


def _run_doctor(args: argparse.Namespace) -> int:
    from airflow_bitahub.doctor.examine import examine

    return examine(
        args.conn_id, with_jobs=not args.no_job, with_serving=args.serving, write=args.write, timeout=args.timeout
    )
