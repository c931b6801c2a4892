"""The command ``airflow-bitahub``.

``demo`` runs the example DAG on a real Airflow, ``emulator`` runs the platform's emulator, ``jobs`` lists live jobs and
stops orphaned ones, ``servings`` lists what is served and ends deployments that were left.

For each subcommand, one function adds its parser and sets `run`, the function that executes it. Imports that only one
subcommand needs are inside that function, so that the others start fast.
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
from airflow_bitahub.hooks import DEFAULT_CONN_ID

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEMO_HOME = Path("~/.airflow-bitahub/demo")
EMULATOR_HOME = Path("~/.airflow-bitahub/emulator")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code. An expected error is printed to stderr, and the code is 1."""
    parser = argparse.ArgumentParser(prog="airflow-bitahub", description="Tools for BitaHub and Apache Airflow.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="command", required=True)
    _add_demo(subparsers)
    _add_emulator(subparsers)
    _add_jobs(subparsers)
    _add_servings(subparsers)
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
        help="run the MNIST example on a real Airflow and the emulator",
        description="Start a real Airflow and the emulator, and run the example DAG mnist_lifecycle on them.",
    )
    parser.add_argument(
        "--home", type=Path, default=DEMO_HOME, help="folder for all files of the demo (default: %(default)s)"
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
    parser.set_defaults(run=_run_demo)


def _run_demo(args: argparse.Namespace) -> int:
    from airflow_bitahub.demo.run import run

    return run(args)


def _add_emulator(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "emulator",
        help="run the platform's emulator until Ctrl-C",
        description="Run the platform's emulator until Ctrl-C. It really runs the jobs and servings it receives.",
        epilog="The token comes from the environment variable BITAHUB_EMULATOR_TOKEN, else from --token-file, else "
        "from the file 'token' in the home, which is created with a random token. The password for --sign-in comes "
        "from BITAHUB_EMULATOR_PASSWORD, else from --password-file.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s); if other machines can reach it, they can run commands here",
    )
    parser.add_argument(
        "--port", type=int, default=8770, help="port to listen on; 0: any free port (default: %(default)s)"
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=EMULATOR_HOME,
        help="folder for storage, records, logs and built environments (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=Path, metavar="FILE", help="an images.toml, which describes images (default: the package's)"
    )
    parser.add_argument(
        "--image-cache", type=Path, metavar="FOLDER", help="folder for built environments (default: in the home)"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that contains the token")
    parser.add_argument(
        "--token-for-reading",
        action="store_true",
        help="queries need the token, too; without it, other users of this machine and jobs can read jobs and logs",
    )
    parser.add_argument(
        "--max-running", type=int, default=8, help="jobs that may run at the same time (default: %(default)s)"
    )
    parser.add_argument(
        "--accelerators",
        metavar="LIST",
        help="available devices, such as gtx-1080-ti=2,rtx-3090=1 (default: unlimited)",
    )
    parser.add_argument("--cores", type=int, help="CPU cores for all running jobs together (default: unlimited)")
    parser.add_argument(
        "--memory-mb", type=int, metavar="MB", help="memory for all running jobs together (default: unlimited)"
    )
    parser.add_argument(
        "--oversized",
        choices=["refuse", "fail"],
        default="refuse",
        help="for a job that is larger than the limits above: refuse the submission, or let the job fail as "
        "UNDERPOWERED (default: %(default)s)",
    )
    parser.add_argument(
        "--mounts",
        choices=["auto", "bubblewrap", "links"],
        default="auto",
        help="how programs see their mounts: 'bubblewrap' at the real paths, 'links' through symbolic links, 'auto' "
        "with bubblewrap where it works (default: %(default)s)",
    )
    parser.add_argument(
        "--serving-tokens", action="store_true", help="servings refuse requests without their access token"
    )
    parser.add_argument(
        "--serving-update",
        choices=["rolling", "recreate"],
        default="rolling",
        help="how an updated serving changes its programs: 'rolling' ends an old one when a new one listens, "
        "'recreate' ends all old ones first (default: %(default)s)",
    )
    parser.add_argument(
        "--expire",
        type=float,
        metavar="SECONDS",
        help="remove jobs and servings this long after their end (default: never)",
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further host name that clients may use"
    )
    parser.add_argument(
        "--profile",
        default="default",
        metavar="NAME",
        help="shape of the answers to job queries: default, flat, openpai, octopus, volcano or business "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--sign-in",
        metavar="USER",
        help="let this user sign in at /oauth/token, as at KubeSphere; queries then also need a token",
    )
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE", help="file that contains the password of this user"
    )
    parser.add_argument(
        "--expires-in",
        type=int,
        default=7200,
        metavar="SECONDS",
        help="lifetime of this user's tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--single-session",
        action="store_true",
        help="new tokens of this user invalidate the earlier ones, as in KubeSphere's older releases",
    )
    parser.set_defaults(run=_run_emulator)


def _run_emulator(args: argparse.Namespace) -> int:
    from airflow_bitahub.emulator.credentials import choose_password, choose_token, hide_environment
    from airflow_bitahub.emulator.http.signin import TOKEN_PATH, SignIn
    from airflow_bitahub.emulator.server import Emulator, run_until_signal
    from airflow_bitahub.emulator.state.capacity import parse_accelerators

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    home: Path = args.home.expanduser()
    sign_in = None
    if args.sign_in is not None:
        users = {args.sign_in: choose_password(args.password_file)}
        sign_in = SignIn(users, expires_in=args.expires_in, single_session=args.single_session)
    emulator = Emulator(
        home,
        host=args.host,
        port=args.port,
        images=args.images,
        image_cache=args.image_cache,
        token=choose_token(home, args.token_file),
        token_for_reading=args.token_for_reading,
        max_running=args.max_running,
        accelerators=None if args.accelerators is None else parse_accelerators(args.accelerators),
        cores=args.cores,
        memory_mb=args.memory_mb,
        oversized_fail=args.oversized == "fail",
        serving_tokens=args.serving_tokens,
        serving_update=args.serving_update,
        expire=args.expire,
        allowed_hosts=args.allow_host,
        mounts=args.mounts,
        profile=args.profile,
        sign_in=sign_in,
    )

    if not emulator.is_sandboxed:
        hide_environment()

    def announce() -> None:
        connection = emulator.connection(login="you", user_id="_you")
        print(f"BitaHub emulator  {emulator.url}")
        print(f"console           {emulator.console_url}")
        print(f"storage           {emulator.storage}")
        print(f"token             {emulator.token}")
        if sign_in is not None:
            print(f"sign-in           {args.sign_in} at {emulator.url}{TOKEN_PATH}")
        print("As an Airflow connection:")
        print(f"  export AIRFLOW_CONN_BITAHUB_DEFAULT='{json.dumps(connection)}'")
        print("Ctrl-C stops the emulator and everything it runs.", flush=True)

    run_until_signal(emulator, announce)
    return 0


def _add_jobs(subparsers: Subparsers) -> None:
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
    _add_dry_run(reaping, "only show which jobs would be stopped")
    _add_conn_id(listing, reaping)


def _add_dry_run(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "--dry-run", action=argparse.BooleanOptionalAction, default=True, help=f"{text} (default: %(default)s)"
    )


def _add_conn_id(*parsers: argparse.ArgumentParser) -> None:
    for parser in parsers:
        parser.add_argument(
            "--conn-id", default=DEFAULT_CONN_ID, metavar="ID", help="the Airflow connection (default: %(default)s)"
        )


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


def _add_servings(subparsers: Subparsers) -> None:
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
    _add_dry_run(reaping, "only show which deployments would be ended")
    _add_conn_id(listing, reaping)


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


if __name__ == "__main__":
    sys.exit(main())
