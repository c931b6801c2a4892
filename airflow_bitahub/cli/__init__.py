"""The command ``airflow-bitahub``.

``demo`` runs the example DAG on a real Airflow, ``doctor`` examines a connection, ``emulator`` runs the platform's
emulator, ``examples`` copies the example DAGs, ``jobs`` lists live jobs and stops orphaned ones, ``servings`` lists
what is served and ends deployments that were left.

Each subcommand has a module: a function that adds its parser and sets `run`, and the function that executes it. Imports
that only one subcommand needs are inside that function, so that the others start fast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from airflow_bitahub import __version__
from airflow_bitahub.cli.demo import add_demo
from airflow_bitahub.cli.doctor import add_doctor
from airflow_bitahub.cli.emulator import add_emulator
from airflow_bitahub.cli.examples import add_examples
from airflow_bitahub.cli.jobs import add_jobs
from airflow_bitahub.cli.servings import add_servings
from airflow_bitahub.exceptions import BitaHubError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code. An expected error is printed to stderr, and the code is 1."""
    parser = argparse.ArgumentParser(prog="airflow-bitahub", description="Tools for BitaHub and Apache Airflow.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="command", required=True)
    add_demo(subparsers)
    add_doctor(subparsers)
    add_emulator(subparsers)
    add_examples(subparsers)
    add_jobs(subparsers)
    add_servings(subparsers)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except (BitaHubError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
