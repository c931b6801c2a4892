"""Measure, and print tables. It takes about an hour, and listens on the loopback interface only."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import trustme

from benchmarks.contestants import CONTESTANTS, WITH_LOGS
from benchmarks.lifecycle import STAGES, chain_costs, lifecycle_costs
from benchmarks.parsing import dag_costs, import_costs
from benchmarks.short_tasks import burst_costs, noticing_costs
from benchmarks.stand import Sizes, open_stand
from benchmarks.transport import transport_costs
from benchmarks.watching import INTERVALS

_REPOSITORY = Path(__file__).parents[1]
_MINUTES = 3  # limit for one contestant
_LEFT_OUT = {("sagemaker", 5000): "left out: 13 GB of memory"}
# Numbers of jobs with which only one contestant is measured.
_ALONE = {2000: WITH_LOGS, 20000: "bitahub, collection"}

_WATCHING: dict[str, tuple[str, Callable[[Any], str]]] = {
    "contestant": ("", str),
    "jobs": ("jobs", str),
    "cpu_per_1000": ("CPU s / 1,000 polls", "{:.3f}".format),
    "polls_kept": ("polls kept", "{:.1%}".format),
    "requests": ("requests", "{:,}".format),
    "connections_opened": ("connections", "{:,}".format),
    "connections_peak": ("at once", "{:,}".format),
    "kb_per_trigger": ("KB / trigger", "{:.1f}".format),
    "lag_p99_ms": ("lag p99 ms", "{:.1f}".format),
    "lag_max_ms": ("lag max ms", "{:.0f}".format),
    "detection_p50": ("detected p50 s", "{:.2f}".format),
    "detection_p99": ("p99 s", "{:.2f}".format),
    "detected": ("ends detected", "{:.0%}".format),
    "all_seen_after": ("all seen after s", "{:.1f}".format),
    "busiest_second": ("requests in the busiest second", "{:,}".format),
}
_IMPORTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "import": ("import of", str),
    "cpu_ms": ("CPU ms", "{:.0f}".format),
    "modules": ("modules", "{:.0f}".format),
    "memory_mb": ("MB", "{:.2f}".format),
}
_DAGS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "dag": ("DAG", str),
    "first_ms": ("first parse ms", "{:.1f}".format),
    "again_ms": ("again ms", "{:.1f}".format),
    "with_airflow_ms": ("with Airflow itself ms", "{:.0f}".format),
}
_LIFECYCLE: dict[str, tuple[str, Callable[[Any], str]]] = {
    "task": ("seconds until", str),
    **{stage: (title, "{:.2f}".format) for stage, title in STAGES.items()},
    "added": ("sum without the job", "{:.2f}".format),
    "requests": ("requests", str),
}
_CHAIN: dict[str, tuple[str, Callable[[Any], str]]] = {"run": ("run", str), "seconds": ("seconds", "{:.2f}".format)}
_NOTICING: dict[str, tuple[str, Callable[[Any], str]]] = {
    "way": ("a job's end", str),
    "length": ("length s", "{:g}".format),
    "noticed_p50": ("noticed after s, median", "{:.2f}".format),
    "noticed_max": ("longest", "{:.2f}".format),
    "requests_p50": ("requests for a job, median", "{:g}".format),
    "requests_max": ("most", str),
}
_BURST: dict[str, tuple[str, Callable[[Any], str]]] = {
    "way": ("mapped short jobs", str),
    "jobs": ("jobs", str),
    "length": ("length s", "{:g}".format),
    "seconds": ("seconds for all", "{:.1f}".format),
}
_TRANSPORT: dict[str, tuple[str, Callable[[Any], str]]] = {
    "by": ("a query by", str),
    "cpu_us": ("CPU µs", "{:.0f}".format),
}
_ON_AIRFLOW = ("lifecycle", "noticing", "burst")
_OTHERS = (*_ON_AIRFLOW, "parsing", "transport")


def main() -> None:
    """Measure what the command line selects."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file, as JSON")
    parser.add_argument("--only", action="append", choices=[*CONTESTANTS, *_OTHERS], help="measure only this")
    parser.add_argument("--jobs", action="append", type=int, choices=[*INTERVALS], help="only this number of jobs")
    parser.add_argument(
        "--image-cache",
        type=Path,
        default=_REPOSITORY / ".images",
        metavar="FOLDER",
        help="built environments for the lifecycle's jobs (default: the demo's)",
    )
    parser.add_argument("--burst", type=int, default=Sizes.burst, help="mapped short jobs at once")
    parser.add_argument("--rounds", type=int, default=Sizes.rounds, help="jobs of each length, for noticing")
    parser.add_argument("--length", action="append", type=float, help="only jobs of so many seconds, for noticing")
    arguments = parser.parse_args()
    only = arguments.only or [*CONTESTANTS, *_OTHERS]
    with tempfile.TemporaryDirectory() as home:
        figures: dict[str, Any] = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
        if chosen := [name for name in _ON_AIRFLOW if name in only]:
            # First, because installing an image's packages needs the usual certificates.
            sizes = Sizes(arguments.burst, arguments.rounds, arguments.length or Sizes.lengths)
            _measure_on_airflow(Path(home) / "stand", arguments.image_cache.resolve(), sizes, chosen, figures)
        environment = _environment(Path(home))
        os.environ.update(environment)
        if "parsing" in only:
            figures["imports"], figures["dags"] = import_costs(), dag_costs(_REPOSITORY / "dags/mnist_lifecycle.py")
            _show(_IMPORTS, figures["imports"])
            _show(_DAGS, figures["dags"])
        certificate = environment["BENCHMARK_CERTIFICATE"]
        if "transport" in only:
            figures["transport"] = transport_costs(certificate)
            _show(_TRANSPORT, figures["transport"])
        names = [name for name in CONTESTANTS if name in only]
        figures["watching"] = [
            _watch(name, jobs, certificate)
            for jobs in arguments.jobs or INTERVALS
            for name in names
            if _ALONE.get(jobs, name) == name and (name != WITH_LOGS or jobs in _ALONE)
        ]
    if names:
        _show(_WATCHING, figures["watching"])
    print(f"{figures['cores']} cores, Python {figures['python']}, intervals {INTERVALS} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def _measure_on_airflow(
    home: Path, image_cache: Path, sizes: Sizes, chosen: Sequence[str], figures: dict[str, Any]
) -> None:
    with open_stand(home, image_cache, sizes) as stand:
        for name in chosen:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            if name == "lifecycle":
                figures["lifecycle"] = lifecycle_costs(stand)
                _show(_LIFECYCLE, figures["lifecycle"])
                figures["chain"] = chain_costs(stand, figures["lifecycle"])
                _show(_CHAIN, figures["chain"])
            elif name == "noticing":
                figures["noticing"] = noticing_costs(stand)
                _show(_NOTICING, figures["noticing"])
            else:
                figures["burst"] = burst_costs(stand)
                _show(_BURST, figures["burst"])


def _environment(home: Path) -> dict[str, str]:
    """Make a certificate and a home for Airflow; return the environment in which all contestants use them."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(home / "server.pem")
    )
    trusted = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"), str(home / "ca.pem"))
    return {
        **trusted,
        "BENCHMARK_CERTIFICATE": str(home / "server.pem"),
        "AIRFLOW_HOME": str(home / "airflow"),
        "NO_PROXY": "localhost",
    }


def _watch(name: str, jobs: int, certificate: str) -> dict[str, Any]:
    if (name, jobs) in _LEFT_OUT:
        return {"contestant": name, "jobs": jobs, "failed": _LEFT_OUT[name, jobs]}
    print(f"measuring {name}, {jobs} jobs", file=sys.stderr, flush=True)
    result = Path(certificate).with_name("result.json")
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.watching", name, str(jobs), certificate, str(result)]
    with suppress(subprocess.TimeoutExpired):
        quiet = subprocess.DEVNULL
        subprocess.run(command, stdout=quiet, stderr=quiet, timeout=_MINUTES * 60, cwd=_REPOSITORY, check=False)
    if not result.exists():
        return {"contestant": name, "jobs": jobs, "failed": "no result"}
    row: dict[str, Any] = json.loads(result.read_text())
    return row


def _show(columns: dict[str, tuple[str, Callable[[Any], str]]], rows: Sequence[dict[str, Any]]) -> None:
    """Print a table in Markdown."""
    print("\n| " + " | ".join(title for title, _ in columns.values()) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        cells = (say(row[key]) if key in row else row.get("failed", "") for key, (_, say) in columns.items())
        print("| " + " | ".join(cells) + " |")
    print(flush=True)


if __name__ == "__main__":
    main()
