"""Many cheap jobs and servings at the same time: on workers and in the triggerer, mapped and plain, short and endless.

A job's name begins with its task instance, because the project does. Each job writes its owner into its result, so a
test notices a result of another job.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_bitahub.operators.job import BitaHubJobOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator

RESULT = 'echo "$PAI_JOB_NAME {{ run_id }} {{ ti.task_id }} {{ ti.map_index }}" > /output/result.txt'
# The first attempt of each generation fails.
FLAKY = f'case "$PAI_JOB_NAME" in *-1) sleep 2; exit 3;; esac; sleep 4; {RESULT}'
ENDLESS = "sleep 3000"
SERVE = "sleep {{ 6 * dag_run.conf['pace'] }}; exec python3 -m http.server --bind 127.0.0.1 --directory /tmp $PORT"

# The servings that all runs deploy, so that they get into each other's way; a neighbour's are its own.
SHARED = "{{ 'neighbour' if run_id.startswith('n') else 'shared' }}"
VERSIONED = (
    "import http.server, os\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200)\n"
    "        self.end_headers()\n"
    "        self.wfile.write(os.environ['VERSION'].encode())\n"
    "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()\n"
)
DEPLOY = f'exec python3 -c "{VERSIONED}"'
CRASH = "sleep 2; exit 3"


def lasting(seconds: int) -> str:
    """Return the command of a job that lasts so long."""
    return f"sleep {{{{ {seconds} * dag_run.conf['pace'] }}}}; {RESULT}"


DEFAULTS: dict[str, Any] = {
    "project": "{{ run_id }}-{{ ti.task_id }}-{{ ti.map_index }}",
    "serving_name": "{{ run_id }}-{{ ti.task_id }}",
    "model": "chaos",
    "image": "python:3",
    "code_path": None,
    "poll_interval": 1,
    "retries": 8,
    "retry_delay": timedelta(seconds=2),
}

with DAG(dag_id="chaos", schedule=None, max_active_tasks=200, default_args=DEFAULTS):
    for prefix, deferrable in (("w", False), ("d", True)):
        waiting: dict[str, Any] = {"deferrable": deferrable, "defer_after": 5}
        BitaHubJobOperator(task_id=f"{prefix}1", command=lasting(8), **waiting)
        BitaHubJobOperator(task_id=f"{prefix}2", command=lasting(35), **waiting)
        BitaHubJobOperator(task_id=f"{prefix}3", command=lasting(35), resubmit_stopped=True, **waiting)
        BitaHubJobOperator(task_id=f"{prefix}f", command=FLAKY, resubmit_stopped=True, **waiting)
        BitaHubJobOperator(task_id=f"{prefix}e", command=ENDLESS, resubmit_stopped=True, **waiting)
        # With a single try, so a killed worker is always the last one.
        BitaHubJobOperator(task_id=f"{prefix}l", command=ENDLESS, retries=0, **waiting)
        seconds = (4, 12, 25) if deferrable else (10, 20)
        BitaHubJobOperator.partial(task_id=f"{prefix}m", resubmit_stopped=True, **waiting).expand(
            command=[lasting(each) for each in seconds]
        )
        BitaHubDeployServingOperator(task_id=f"{prefix}s", commands=SERVE, **waiting)
        # Some deploy at once, the others after a bad version.
        shared = [{"serving_name": f"{SHARED}-{prefix}{number}", "commands": DEPLOY} for number in range(3)]
        bad = [{**shared[number], "commands": CRASH} for number in range(2)]
        arguments: dict[str, Any] = {"envs": {"VERSION": "{{ run_id }}"}, "only_newer": False, **waiting}
        spoil = BitaHubDeployServingOperator.partial(task_id=f"{prefix}b", **{**arguments, "retries": 0})
        deploy = BitaHubDeployServingOperator.partial(task_id=f"{prefix}v", trigger_rule="all_done", **arguments)
        spoil.expand_kwargs(bad) >> deploy.expand_kwargs(shared)
