"""``airflow-bitahub demo``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_bitahub.cli.parsing import Subparsers

_HOME = Path("~/.airflow-bitahub/demo")


def add_demo(subparsers: Subparsers) -> None:
    """Add the parser of the subcommand."""
    parser = subparsers.add_parser(
        "demo",
        help="run the MNIST example on a real Airflow and the emulator",
        description="Start a real Airflow and the emulator, and run the example DAG mnist_lifecycle on them.",
    )
    parser.add_argument(
        "--home", type=Path, default=_HOME, help="folder for all files of the demo (default: %(default)s)"
    )
    parser.add_argument(
        "--mnist",
        type=Path,
        metavar="FOLDER",
        help="folder with the four MNIST files (default: MNIST from the internet, else scikit-learn's digits)",
    )
    parser.add_argument("--port", type=int, default=8080, help="Airflow's port (default: %(default)s)")
    parser.add_argument("--emulator-port", type=int, default=8770, help="the emulator's port (default: %(default)s)")
    parser.add_argument(
        "--image-cache", type=Path, metavar="FOLDER", help="folder for built environments (default: in the home)"
    )
    parser.add_argument(
        "--runs",
        type=int,
        choices=range(1, 7),
        default=1,
        metavar="N",
        help="how often to run the DAG, up to 6; of several runs, each trains twice as long as the one before, so that "
        "the pages show a history (default: %(default)s)",
    )
    parser.set_defaults(run=_run_demo)


def _run_demo(args: argparse.Namespace) -> int:
    from airflow_bitahub.demo.run import run

    return run(args)
