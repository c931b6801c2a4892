"""``airflow-bitahub examples``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_bitahub.cli.parsing import Subparsers

_NEXT = """
What to do next:
- Create the connection bitahub_default. The text at the top of each DAG says what else it needs before its first run.
- Airflow finds the DAGs if this folder is its DAGs folder or inside it: airflow config get-value core dags_folder
- Set [core] load_examples to False. Otherwise Airflow also loads the examples inside the package, whose names are the
  same, and may run those instead of yours."""


def add_examples(subparsers: Subparsers) -> None:
    """Add the parser of the subcommand."""
    parser = subparsers.add_parser(
        "examples",
        help="copy the example DAGs into a folder of yours",
        description="Copy the example DAGs, and the programs that they run on BitaHub, into a folder of yours.",
    )
    actions = parser.add_subparsers(metavar="action", required=True)
    copying = actions.add_parser(
        "copy",
        help="copy all examples; a file that is there already is never overwritten",
        description="Copy all example DAGs and their programs. A file that is there already is never overwritten: if "
        "one has another content, nothing is copied.",
    )
    copying.add_argument(
        "folder", type=Path, metavar="FOLDER", help="where to: Airflow's DAGs folder, or a folder in it"
    )
    copying.set_defaults(run=_run_examples_copy)


def _run_examples_copy(args: argparse.Namespace) -> int:
    from airflow_bitahub.examples import copy_examples

    copied = copy_examples(args.folder.expanduser())
    if copied.new:
        print(f"Copied to {copied.folder}:")
        print(*(f"  {file}" for file in copied.new), sep="\n")
    if copied.unchanged:
        print(f"Files that were in {copied.folder} already, with the same content: {len(copied.unchanged)}")
    print(_NEXT)
    return 0
