"""Arguments that several subcommands have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

from airflow_bitahub.hooks import DEFAULT_CONN_ID

if TYPE_CHECKING:
    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def add_dry_run(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--dry-run`` and ``--no-dry-run``; `text` says what the first one does."""
    parser.add_argument(
        "--dry-run", action=argparse.BooleanOptionalAction, default=True, help=f"{text} (default: %(default)s)"
    )


def add_conn_id(*parsers: argparse.ArgumentParser) -> None:
    """Add ``--conn-id``."""
    for parser in parsers:
        parser.add_argument(
            "--conn-id", default=DEFAULT_CONN_ID, metavar="ID", help="the Airflow connection (default: %(default)s)"
        )
