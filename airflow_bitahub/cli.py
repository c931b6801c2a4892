"""The command ``airflow-bitahub``: ``demo`` shows the whole, ``emulator`` runs the platform's emulator, ``jobs`` looks
after jobs whose tasks are gone.

A subcommand is a function that adds its own parser and names, as `run`, what performs it. What only one subcommand
needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_bitahub import __version__
from airflow_bitahub.exceptions import BitaHubError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEMO_HOME = Path("~/.airflow-bitahub/demo")
EMULATOR_HOME = Path("~/.airflow-bitahub/emulator")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and give the exit code; an expected error is one sentence on stderr and code 1."""
    parser = argparse.ArgumentParser(prog="airflow-bitahub", description="BitaHub for Apache Airflow, on a laptop.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="command", required=True)
    _add_demo(subparsers)
    _add_emulator(subparsers)
    _add_jobs(subparsers)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except (BitaHubError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def _add_demo(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="run the MNIST lifecycle on a real Airflow and the emulator",
        description="Run the MNIST lifecycle on a real Airflow and the emulator, both started for it.",
    )
    parser.add_argument(
        "--home", type=Path, default=DEMO_HOME, help="Airflow's and the emulator's files (default: %(default)s)"
    )
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="a folder with the four files of MNIST")
    parser.add_argument("--port", type=int, default=8080, help="Airflow's (default: %(default)s)")
    parser.add_argument("--emulator-port", type=int, default=8770, help="the emulator's (default: %(default)s)")
    parser.add_argument("--image-cache", type=Path, metavar="FOLDER", help="built environments (default: in the home)")
    parser.set_defaults(run=_run_demo)


def _run_demo(args: argparse.Namespace) -> int:
    from airflow_bitahub.demo.run import run

    return run(args)


def _add_emulator(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "emulator",
        help="run the platform's emulator until Ctrl-C",
        description="Run the platform's emulator until Ctrl-C. It really runs the jobs and servings it is sent.",
        epilog="The token is taken from the environment variable BITAHUB_EMULATOR_TOKEN, else from --token-file, else "
        "from the home, where a random one is kept. The password of a user who may sign in is taken from "
        "BITAHUB_EMULATOR_PASSWORD, else from --password-file.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s); any other than the loopback lets others run commands here",
    )
    parser.add_argument("--port", type=int, default=8770, help="0: a free one (default: %(default)s)")
    parser.add_argument(
        "--home", type=Path, default=EMULATOR_HOME, help="storage, logs, built environments (default: %(default)s)"
    )
    parser.add_argument("--images", type=Path, metavar="FILE", help="an images.toml (default: the package's own)")
    parser.add_argument("--image-cache", type=Path, metavar="FOLDER", help="built environments (default: in the home)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds the token")
    parser.add_argument("--max-running", type=int, default=8, help="jobs that run at once (default: %(default)s)")
    parser.add_argument(
        "--accelerators", metavar="LIST", help="what there is, such as gtx-1080-ti=2,rtx-3090=1 (default: any number)"
    )
    parser.add_argument("--cores", type=int, help="what jobs may take at once (default: any number)")
    parser.add_argument("--memory-mb", type=int, metavar="MB", help="likewise")
    parser.add_argument(
        "--oversized",
        choices=["refuse", "fail"],
        default="refuse",
        help="a job for which there can never be room is refused, or fails as UNDERPOWERED (default: %(default)s)",
    )
    parser.add_argument(
        "--mounts",
        choices=["auto", "bubblewrap", "links"],
        default="auto",
        help="how programs see their mounts: at their real paths, by bubblewrap; through links; or the first where it "
        "works (default: %(default)s)",
    )
    parser.add_argument(
        "--serving-tokens", action="store_true", help="let servings refuse whoever does not bring their access token"
    )
    parser.add_argument(
        "--expire", type=float, metavar="SECONDS", help="remove what is over after so long (default: keep it)"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name clients may call it by"
    )
    parser.add_argument(
        "--profile",
        default="default",
        metavar="NAME",
        help="how queries of jobs are answered: default, flat, openpai, octopus, volcano or business "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--sign-in",
        metavar="USER",
        help="let this user sign in at /oauth/token, as at KubeSphere; queries need a token then, too",
    )
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="a file that holds that user's password")
    parser.add_argument(
        "--expires-in",
        type=int,
        default=7200,
        metavar="SECONDS",
        help="life of that user's tokens (default: %(default)s)",
    )
    parser.set_defaults(run=_run_emulator)


def _run_emulator(args: argparse.Namespace) -> int:
    from airflow_bitahub.emulator.credentials import choose_password, choose_token
    from airflow_bitahub.emulator.http.signin import TOKEN_PATH, SignIn
    from airflow_bitahub.emulator.server import Emulator, run_until_signal
    from airflow_bitahub.emulator.state.capacity import parse_accelerators

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    home: Path = args.home.expanduser()
    sign_in = None
    if args.sign_in is not None:
        sign_in = SignIn({args.sign_in: choose_password(args.password_file)}, expires_in=args.expires_in)
    emulator = Emulator(
        home,
        host=args.host,
        port=args.port,
        images=args.images,
        image_cache=args.image_cache,
        token=choose_token(home, args.token_file),
        max_running=args.max_running,
        accelerators=None if args.accelerators is None else parse_accelerators(args.accelerators),
        cores=args.cores,
        memory_mb=args.memory_mb,
        oversized_fail=args.oversized == "fail",
        serving_tokens=args.serving_tokens,
        expire=args.expire,
        allowed_hosts=args.allow_host,
        mounts=args.mounts,
        profile=args.profile,
        sign_in=sign_in,
    )

    def announce() -> None:
        connection = emulator.connection(login="you", user_id="_you")
        print(f"BitaHub emulator  {emulator.url}")
        print(f"storage           {emulator.storage}")
        print(f"token             {emulator.token}")
        if sign_in is not None:
            print(f"signing in        {args.sign_in} at {emulator.url}{TOKEN_PATH}")
        print("as an Airflow connection:")
        print(f"  export AIRFLOW_CONN_BITAHUB_DEFAULT='{json.dumps(connection)}'")
        print("Ctrl-C ends it, and everything it runs.", flush=True)

    run_until_signal(emulator, announce)
    return 0


def _add_jobs(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "jobs",
        help="list this Airflow's live jobs, and stop those that nobody waits for",
        description="Look after the live jobs that this Airflow has submitted. To be run where Airflow's own commands "
        "run, since it reads Airflow's database.",
    )
    actions = parser.add_subparsers(metavar="action", required=True)
    listing = actions.add_parser("list", help="show each job, and who waits for it")
    listing.set_defaults(run=_run_jobs_list)
    reaping = actions.add_parser("reap", help="stop the jobs that nobody waits for")
    reaping.add_argument(
        "--dry-run",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="only show what would be stopped (default: %(default)s)",
    )
    reaping.set_defaults(run=_run_jobs_reap)
    for action in (listing, reaping):
        action.add_argument(
            "--conn-id", default="bitahub_default", metavar="ID", help="the Airflow connection (default: %(default)s)"
        )


def _run_jobs_list(args: argparse.Namespace) -> int:
    from airflow_bitahub.reaper import find_jobs, hook_on_server

    for found in find_jobs(hook_on_server(args.conn_id)):
        print(f"{found.verdict:9} {found.job.name:40} {found.job.status.value:9} {found.task or 'no task'}")
    return 0


def _run_jobs_reap(args: argparse.Namespace) -> int:
    from airflow_bitahub.reaper import find_jobs, hook_on_server, require_distinct_marker, stop

    hook = hook_on_server(args.conn_id)
    require_distinct_marker(hook)
    orphans = [found for found in find_jobs(hook) if found.verdict == "orphan"]
    alive = 0
    for found in orphans:
        try:
            end = "would be stopped" if args.dry_run else stop(hook, found)
        except BitaHubError as error:
            end, alive = str(error), alive + 1
        print(f"{found.job.name:40} {found.task or 'no task'}: {end}", flush=True)
    if args.dry_run and orphans:
        print("Nothing was stopped. To stop them: airflow-bitahub jobs reap --no-dry-run")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
