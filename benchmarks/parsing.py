"""Measures what parsing a DAG costs, in fresh interpreters, above what importing ``airflow.sdk`` costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_REPEATS = 5
_OURS = "airflow_bitahub."
_PROVIDERS = "airflow.providers."

IMPORTS: dict[str, tuple[str, ...]] = {
    "bitahub, all operators and sensors": tuple(
        _OURS + name
        for name in (
            *(f"operators.{part}" for part in ("job", "train", "infer", "evaluate", "model", "serving", "gate")),
            *(f"sensors.{part}" for part in ("job", "serving")),
        )
    ),
    "PythonOperator": (f"{_PROVIDERS}standard.operators.python",),
    "airbyte": (f"{_PROVIDERS}airbyte.operators.airbyte",),
    "sagemaker": (f"{_PROVIDERS}amazon.aws.operators.sagemaker",),
    "dbt cloud": (f"{_PROVIDERS}dbt.cloud.operators.dbt",),
    "databricks": (f"{_PROVIDERS}databricks.operators.databricks",),
    "KubernetesPodOperator": (f"{_PROVIDERS}cncf.kubernetes.operators.pod",),
}

_FRESH = """
import os, sys, time
from airflow.sdk import DAG, BaseHook, BaseOperator, BaseOperatorLink, BaseSensorOperator, CronTriggerTimetable, Param
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
modules, memory, cpu = len(sys.modules), resident(), time.process_time()
{work}
print((time.process_time() - cpu) * 1000, len(sys.modules) - modules, (resident() - memory) / 2**20)
"""
_EMPTY = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import chain
params = {
    "threshold": Param(0.85, type="number", minimum=0, maximum=1, title="Accuracy needed"),
    "epochs": Param(2, type="integer", minimum=1, maximum=100, title="Epochs"),
}
daily = CronTriggerTimetable("@daily", timezone="UTC")
with DAG(dag_id="empty", schedule=daily, catchup=False, default_args={"retries": 2}, params=params):
    chain(*(EmptyOperator(task_id=f"task_{number}") for number in range(8)))
"""


def import_costs() -> list[dict[str, Any]]:
    """Give the cost of importing operators."""
    rows = []
    for name, modules in IMPORTS.items():
        cpu, loaded, memory = _measured(f"import {', '.join(modules)}")
        rows.append({"import": name, "cpu_ms": cpu, "modules": loaded, "memory_mb": memory})
    return rows


def dag_costs(example: Path) -> list[dict[str, Any]]:
    """Give the cost of a file with the example DAG, and with one of as many EmptyOperators, imports included."""
    real = f"exec(compile(open({str(example)!r}).read(), 'dag', 'exec'), {{'__name__': 'dag', '__doc__': ''}})"
    works = {"mnist_lifecycle": real, "8 EmptyOperators": _EMPTY}
    rows = []
    for name, work in works.items():
        first = _measured(work)[0]
        again = _measured(f"{work}\ncpu = time.process_time()\n{work}")[0]
        whole = _measured("cpu = 0")[0]
        rows.append({"dag": name, "first_ms": first, "again_ms": again, "with_airflow_ms": whole + first})
    return rows


def _measured(work: str) -> list[float]:
    """Give the medians of CPU ms, modules and MB."""
    program = _FRESH.replace("{work}", work)
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        for _ in range(_REPEATS)
    ]
    if failed := [run.stderr for run in runs if run.returncode]:
        raise RuntimeError(failed[0][-1000:])
    lines: Iterable[list[str]] = (run.stdout.splitlines()[-1].split() for run in runs)
    return [statistics.median(map(float, column)) for column in zip(*lines, strict=True)]
