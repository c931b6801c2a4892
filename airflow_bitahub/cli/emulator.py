"""``airflow-bitahub emulator``."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_bitahub.cli.parsing import Subparsers

_HOME = Path("~/.airflow-bitahub/emulator")


def add_emulator(subparsers: Subparsers) -> None:
    """Add the parser of the subcommand."""
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
        default=_HOME,
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
        "--prefix",
        default="lapis",
        help="first part of the addresses of jobs and servings, which differs between installations (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--auth",
        choices=["any", "bearer", "header", "basic", "kubesphere"],
        default="any",
        help="the only way of signing requests that is accepted: 'bearer' and 'header' with the token, 'basic' and "
        "'kubesphere' as the user of --sign-in (default: %(default)s)",
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
    from airflow_bitahub.emulator.http.access import BASIC, KUBESPHERE
    from airflow_bitahub.emulator.http.signin import TOKEN_PATH, SignIn, user_id_of
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
        prefix=args.prefix,
        auth=args.auth,
    )

    if not emulator.is_sandboxed:
        hide_environment()

    def announce() -> None:
        connection = emulator.connection(login="you", user_id="_you")
        if args.auth in (BASIC, KUBESPHERE):  # the emulator's own token is then no token of the platform
            connection = emulator.connection(login=args.sign_in, user_id=user_id_of(args.sign_in), auth=args.auth)
            connection["password"] = "<password>"  # noqa: S105  a placeholder
        print(f"BitaHub emulator  {emulator.url}")
        print(f"console           {emulator.console_url}")
        print(f"storage           {emulator.storage}")
        print(f"token             {emulator.token}")
        if sign_in is not None:
            print(f"sign-in           {args.sign_in} at {emulator.url}{TOKEN_PATH}")
            print(f"user id           {user_id_of(args.sign_in)}")
        print("As an Airflow connection:")
        print(f"  export AIRFLOW_CONN_BITAHUB_DEFAULT='{json.dumps(connection)}'")
        print("Ctrl-C stops the emulator and everything it runs.", flush=True)

    run_until_signal(emulator, announce)
    return 0
