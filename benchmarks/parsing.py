"""Measures the cost of parsing a DAG beyond the import of ``airflow.sdk``, in fresh interpreters."""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_REPEATS = 7
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


# What every process of Airflow has loaded before it reads plugins.
_PLUGIN = f"""
import airflow.sdk.plugins_manager
modules, memory, cpu = len(sys.modules), resident(), time.process_time()
import {_OURS}ui.plugin
"""


def import_costs() -> list[dict[str, Any]]:
    """Return the cost of importing operators, and of the plugin that every process of Airflow imports."""
    cpu, loaded, memory = _measured(_PLUGIN)
    rows: list[dict[str, Any]] = [
        {"import": "bitahub, the plugin", "cpu_ms": cpu, "modules": loaded, "memory_mb": memory}
    ]
    for name, modules in IMPORTS.items():
        cpu, loaded, memory = _measured(f"import {', '.join(modules)}")
        rows.append({"import": name, "cpu_ms": cpu, "modules": loaded, "memory_mb": memory})
    return rows


def dag_costs(example: Path) -> list[dict[str, Any]]:
    """Return the cost of the example DAG's file, and of the same DAG with EmptyOperators, imports included."""
    source = example.read_text("utf-8")
    rows = []
    for name, dag in {"mnist_lifecycle": source, "the same of EmptyOperators": _emptied(source)}.items():
        work = f"exec(compile({dag!r}, 'dag', 'exec'), {{'__name__': 'dag'}})"
        first = _measured(work)[0]
        again = _measured(f"{work}\ncpu = time.process_time()\n{work}")[0]
        whole = _measured("cpu = 0")[0]
        rows.append({"dag": name, "first_ms": first, "again_ms": again, "with_airflow_ms": whole + first})
    return rows


def _emptied(source: str) -> str:
    """Return a DAG with the same arguments and the same order of tasks, in which every operator is an EmptyOperator."""
    file = ast.parse(source)
    empty = "from airflow.providers.standard.operators.empty import EmptyOperator"
    imports = ("airflow.providers", _OURS)
    file.body = [node for node in file.body if not getattr(node, "module", "").startswith(imports)]
    [dag] = [node for node in file.body if isinstance(node, ast.With)]
    file.body.insert(file.body.index(dag), ast.parse(empty).body[0])
    for node in dag.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            node.value.func = ast.Name("EmptyOperator")
            node.value.keywords = [argument for argument in node.value.keywords if argument.arg == "task_id"]
    return ast.unparse(file)


def _measured(work: str) -> list[float]:
    """Return the medians of CPU milliseconds, modules and megabytes over several runs."""
    program = _FRESH.replace("{work}", work)
    # Let Python store compiled modules, as it does where Airflow runs. The first run compiles, and the median drops it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
        for _ in range(_REPEATS)
    ]
    if failed := [run.stderr for run in runs if run.returncode]:
        raise RuntimeError(failed[0][-1000:])
    lines: Iterable[list[str]] = (run.stdout.splitlines()[-1].split() for run in runs)
    return [statistics.median(map(float, column)) for column in zip(*lines, strict=True)]
