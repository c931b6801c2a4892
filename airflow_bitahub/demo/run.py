"""The laptop demo: an emulator, a real Airflow, and one run of the MNIST lifecycle, or several for a history."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_bitahub.demo import platform
from airflow_bitahub.demo.airflow import USER, LocalAirflow, require_free_port
from airflow_bitahub.demo.dataset import prepare
from airflow_bitahub.emulator.credentials import make_private
from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, Images, load_images
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.examples import examples_folder
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError

DAG = "mnist_lifecycle"
_MODELS_PAGE = f"dags/{DAG}/plugin/bitahub-models"  # of the DAG, in the Airflow UI
# A worker then tells the scheduler sooner that a task has ended or was deferred; see docs/en/performance.md.
AIRFLOW_CONFIG = {"workers.min_heartbeat_interval": "1"}
_SERVING_IMAGE = "ypc-mnist-flask-serving"  # uses the same environment as the jobs' image
_RUN_SECONDS = 1200


def run(args: argparse.Namespace) -> int:
    """Run the demo and return the exit code: 0, or 1 when a task failed."""
    home: Path = args.home.expanduser().resolve()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with _interruptible():
        # Check the ports first, since the preparation takes minutes.
        require_free_port(args.port, "Airflow", "PORT")
        require_free_port(args.emulator_port, "The emulator", "EMULATOR_PORT")
        make_private(home)
        storage = home / "emulator" / "storage"
        _prepare_storage(storage, args.mnist, home / "downloads")
        return _run_emulator(args, home, storage)


def _run_emulator(args: argparse.Namespace, home: Path, storage: Path) -> int:
    cache = args.image_cache.expanduser() if args.image_cache else home / "images"
    with (
        _environment_build(cache) as environment,
        Emulator(home / "emulator", port=args.emulator_port, storage=storage, image_cache=cache) as emulator,
    ):
        # Remove what a killed demo may have left. No other demo is using this home: the emulator holds its lock.
        emulator.clear()
        shutil.rmtree(home / "airflow", ignore_errors=True)
        return _run_airflow(args, home, emulator, environment)


def _run_airflow(args: argparse.Namespace, home: Path, emulator: Emulator, environment: Future[Path]) -> int:
    with LocalAirflow(home / "airflow", examples_folder(), port=args.port, config=AIRFLOW_CONFIG) as airflow:
        _print_progress(f"Airflow runs at {airflow.url}, the emulator at {emulator.url}")
        airflow.set_connection(platform.connection(emulator))
        airflow.await_dag(DAG)
        environment.result()
        states = []
        for conf in _confs(args.runs):
            run_id = airflow.trigger(DAG, conf)
            what = f" with {conf}" if conf else ""
            _print_progress(f"Started the DAG {DAG}, run {run_id}{what}")
            states.append(airflow.wait(DAG, run_id, seconds=_RUN_SECONDS, on_change=_show_change))
            print(_report(airflow, run_id), flush=True)
        if sys.stdin.isatty() and sys.stdout.isatty():
            print(
                f"\nAirflow   {airflow.url}  user {USER}, password {airflow.password}"
                f"\nmodels    {airflow.url}/{_MODELS_PAGE}"
                f"\nlast run  {airflow.url}/dags/{DAG}/runs/{quote(run_id)}"
                f"\nconsole   {emulator.console_url}  token {emulator.token}"
                f"\nstorage   {emulator.storage}"
                f"\n\nBoth run until Ctrl-C.",
                flush=True,
            )
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
            _print_progress("Stopping")
    return 0 if set(states) == {"success"} else 1


def _confs(runs: int) -> list[dict[str, int]]:
    """Return the parameters of each run. Of several, each trains twice as long as the one before, from one epoch on."""
    return [{}] if runs == 1 else [{"epochs": 2**number} for number in range(runs)]


def _prepare_storage(storage: Path, mnist: Path | None, cache: Path) -> None:
    platform.upload_programs(storage, examples_folder() / "workloads")
    folder = platform.server_folder(storage, platform.FOLDERS.dataset("MNIST")[0])
    try:
        dataset = prepare(folder, mnist.expanduser() if mnist else None, cache=cache)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    _print_progress(f"Dataset: {dataset.source}, {dataset.train_count} training and {dataset.test_count} test pictures")


@contextlib.contextmanager
def _environment_build(cache: Path) -> Iterator[Future[Path]]:
    """Build the Python environment for the images in the background, while Airflow starts. Yields its future."""
    images = Images(load_images(DEFAULT_IMAGES), cache)
    image = images.find(_SERVING_IMAGE)
    if not images.is_ready(image):
        _print_progress("Building the Python environment for the TensorFlow image (about 1.6 GB, only once)")
    with ThreadPoolExecutor(1) as pool:
        stop = threading.Event()

        async def build() -> Path:
            building = asyncio.ensure_future(images.prepare(image))
            while not building.done() and not stop.is_set():
                await asyncio.wait([building], timeout=0.5)
            if not building.done():
                building.cancel()
                await images.close()
                raise BitaHubError("The build of the environment was canceled.")
            return building.result()

        future = pool.submit(lambda: asyncio.run(build()))
        try:
            yield future
        finally:
            stop.set()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM and a closed terminal work like Ctrl-C, which also stops everything that the demo started."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def _show_change(task: str, state: str, details: dict[str, Any]) -> None:
    tries = f" (try {details['try_number']})" if (details["try_number"] or 0) > 1 else ""
    _print_progress(f"  {task:<12} {state}{tries}")


def _report(airflow: LocalAirflow, run_id: str) -> str:
    def result(task: str) -> dict[str, Any]:
        value = airflow.xcom(DAG, run_id, task)
        return value if isinstance(value, dict) else {}

    tasks = airflow.tasks(DAG, run_id)
    lines = ["", f"{'task':<14}{'state':<18}{'seconds':>8}"]
    for name, ti in sorted(tasks.items(), key=lambda item: (item[1]["start_date"] or "~", item[1]["end_date"] or "~")):
        seconds = "" if ti["duration"] is None else f"{ti['duration']:.1f}"
        lines.append(f"{name:<14}{ti['state'] or 'none':<18}{seconds:>8}")
    gate, prediction = result("gate"), result("ask")
    gate_state = "not reached" if "open" not in gate else "open" if gate["open"] else "closed"
    label = airflow.call("GET", f"/dags/{DAG}/dagRuns/{run_id}")["conf"].get("label", 7)
    lines += [
        "",
        f"accuracy      {result('evaluate').get('metrics', {}).get('accuracy', 'unknown')}",
        f"gate          {gate_state}{''.join(f' ({reason})' for reason in gate.get('reasons', []))}",
        f"service       {result('deploy').get('url', 'not deployed')}",
        f"prediction    {prediction.get('predictions', ['none'])[0]} for a picture of a {label}",
    ]
    return "\n".join(lines)
