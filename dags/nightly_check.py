"""
### Watch a live service

    is_ready -> read_sample -> ask -> compare -> is_worse -> roll_back

| task | what happens |
|---|---|
| `is_ready` | waits until the service runs and answers |
| `read_sample` | reads the paths and labels of some pictures from the platform's storage |
| `ask` | asks the service about all of them, in one request |
| `compare` | computes the share of right answers, as the metric `accuracy` |
| `is_worse` | is a gate that opens only if the accuracy is *below* the limit |
| `roll_back` | gives the service the version back that worked before |

A night without a problem ends with `roll_back` skipped. The service is rolled back only because of wrong answers. If it
does not answer at all, the run fails and changes nothing: set `on_failure_callback` to be told.

The version before is tried beside the service and asked about the same pictures. If it is no better, the service stays
as it is, and the run fails, too.

**Before the first run**, deploy the service with `mnist_lifecycle`, whose documentation says how to make the sample:
a folder with pictures and a file `labels.csv` (`file,label`). Replace them by recent pictures from time to time. The
service takes up to 64 pictures in one request.
"""

from __future__ import annotations

import csv
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, task

from airflow_bitahub.operators.gate import BitaHubMetricGateOperator
from airflow_bitahub.operators.invoke import BitaHubInvokeServingOperator
from airflow_bitahub.operators.rollback import BitaHubRollbackServingOperator
from airflow_bitahub.sensors.serving import BitaHubServingSensor


@task
def read_sample(folder: str) -> dict[str, list[str]]:
    """Return the files of the sample, and their labels."""
    from airflow_bitahub.hooks.bitahub import BitaHubHook

    hook = BitaHubHook()
    content = hook.storage.read_bytes("sample", hook.folders.fill(f"{folder}/labels.csv"), limit=1_000_000)
    rows = list(csv.DictReader(content.decode().splitlines()))
    return {"files": [f"{folder}/{row['file']}" for row in rows], "labels": [row["label"] for row in rows]}


@task
def compare(answer: dict[str, Any], labels: list[str]) -> dict[str, float]:
    """Return the share of right answers."""
    pairs = zip(answer["predictions"], labels, strict=True)
    return {"accuracy": sum(str(prediction) == label for prediction, label in pairs) / len(labels)}


with DAG(
    dag_id="nightly_check",
    # Every night at three. Without a start date, unpausing the DAG starts no run.
    schedule=CronTriggerTimetable("0 3 * * *", timezone="UTC", run_immediately=timedelta()),
    is_paused_upon_creation=True,  # whatever Airflow's own setting is
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["bitahub", "example"],
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "deferrable": True,  # wait in the triggerer, where a task occupies no worker slot
    },
    params={
        "serving_name": Param("mnist-serving-demo", type="string", minLength=1, title="Name of the service"),
        "sample": Param(
            "/datasets/{user_id}/MNIST/sample",
            type="string",
            pattern="^/(projects|datasets|models)/.+$",
            title="Pictures to ask about",
            description="A folder on the platform's storage, with a file labels.csv.",
        ),
        "limit": Param(
            0.7,
            type="number",
            exclusiveMinimum=0,
            maximum=1,
            title="Least accuracy",
            description="Below it, the service is rolled back.",
        ),
    },
) as dag:
    is_ready = BitaHubServingSensor(
        task_id="is_ready",
        serving_name="{{ params.serving_name }}",
        readiness_path="/health",
        poke_interval=10,
        timeout=timedelta(minutes=10).total_seconds(),
    )

    sample = read_sample("{{ params.sample }}")

    ask = BitaHubInvokeServingOperator(
        task_id="ask",
        serving_name="{{ params.serving_name }}",
        image_file=sample["files"],
    )

    accuracy = compare(ask.output, sample["labels"])

    is_worse = BitaHubMetricGateOperator(
        task_id="is_worse",
        metrics=accuracy,
        conditions="accuracy < {{ params.limit }}",
    )

    roll_back = BitaHubRollbackServingOperator(
        task_id="roll_back",
        serving_name="{{ params.serving_name }}",
        readiness_path="/health",
        checks=[{"folder": "{{ params.sample }}", "labels": "labels.csv", "at_least": "{{ params.limit }}"}],
    )

    is_ready >> sample >> ask >> accuracy >> is_worse >> roll_back
