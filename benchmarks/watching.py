"""Measures one contestant in a process of its own: ``python -m benchmarks.watching NAME JOBS CERTIFICATE RESULT``.

First, while all jobs run, it measures the cost of polling them. Then every tenth job finishes, and it measures how soon
that is detected. All contestants log as in a triggerer: at Airflow's default level, as JSON, which is discarded here.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS
from benchmarks.server import end_of

# Number of jobs -> seconds between two polls of each.
INTERVALS = {100: 5.0, 1000: 5.0, 2000: 10.0, 5000: 10.0, 20000: 10.0}
_TICK = 0.05  # seconds between two measurements of the event loop's lag


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Server:
    """Runs the server in another process."""

    def __init__(self, certificate: str) -> None:
        command = [sys.executable, "-m", "benchmarks.server", certificate]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = f"localhost:{self._line()}"

    def send(self, line: str) -> Any:
        """Send a command, and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


async def measure(name: str, jobs: int, server: Server) -> dict[str, Any]:
    """Let a contestant watch a number of jobs, all from the same moment on, and return what that costs."""
    interval = INTERVALS[jobs]
    cycles = 2 if interval >= 10 else 3  # intervals to measure
    finished_at: dict[int, float] = {}

    def on_finished(number: int) -> None:
        finished_at[number] = time.time()

    lags: list[float] = []

    async def measure_lag() -> None:
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            lags.append(time.perf_counter() - due)

    # What is imported and opened only once must not count as memory of the triggers.
    warm = [asyncio.ensure_future(each) for each in CONTESTANTS[name](1, interval, server.address, lambda _: None)]
    server.send(f"begin 1 {time.time() + 3600} {time.time() + 7200} {time.time() + 7200}")
    await asyncio.sleep(2)
    for task in warm:
        task.cancel()
    await asyncio.gather(*warm, return_exceptions=True)
    gc.collect()

    start = time.time()
    since = start + 1.5 * interval + jobs / 2500
    until = since + cycles * interval
    end = until + interval
    server.send(f"begin {jobs} {since} {until} {end}")
    before = _resident()
    tasks = [asyncio.ensure_future(each) for each in CONTESTANTS[name](jobs, interval, server.address, on_finished)]
    await asyncio.sleep(since - time.time())
    gc.collect()
    memory = (_resident() - before) / jobs / 1024
    measuring_lag = asyncio.create_task(measure_lag())
    clock, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(max(0.0, until - time.time()))
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    await asyncio.sleep(end + interval + 2 - time.time())  # for the jobs that finish last
    measuring_lag.cancel()
    report = server.send("report")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=10)
    failed = [task.exception() for task in tasks if task.done() and not task.cancelled() and task.exception()]
    if failed:
        print(f"{name}: {len(failed)} failed, such as {failed[0]!r}", file=sys.stderr)
    due = (until - since) / interval
    delays = sorted(at - end_of(number, jobs, until, end) for number, at in finished_at.items())
    polls = sum(report["polls"])
    first = [at - start for at in report["first"].values()]
    return {
        "contestant": name,
        "jobs": jobs,
        "interval": interval,
        "cpu_per_1000": cpu / max(1, polls) * 1000,
        "cpu_share": cpu / seconds,
        "requests": report["requests"],
        "connections_opened": report["opened"],
        "connections_peak": report["peak"],
        "kb_per_trigger": memory,
        "lag_p99_ms": _percentile(lags, 99) * 1000,
        "lag_max_ms": max(lags, default=float("nan")) * 1000,
        "detection_p50": statistics.median(delays) if delays else float("nan"),
        "detection_p99": _percentile(delays, 99),
        "detected": len(delays) / max(1, len(range(0, jobs, 10))),
        "polls_kept": sum(min(seen, due) for seen in report["polls"]) / (due * jobs),
        "all_seen_after": max(first) if len(first) == jobs else float("nan"),
        "busiest_second": report["busiest_second"],
    }


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def main() -> None:
    """Measure, and write the figures as JSON."""
    name, jobs, certificate, result = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    from airflow.sdk.log import configure_logging

    nowhere = Path(os.devnull).open("wb", buffering=0)  # noqa: SIM115
    configure_logging(json_output=True, output=nowhere, sending_to_supervisor=True)
    server = Server(certificate)
    try:
        result.write_text(json.dumps(asyncio.run(measure(name, jobs, server))))
    finally:
        server.close()
    os._exit(0)  # some contestants leave threads and sessions behind


if __name__ == "__main__":
    main()
