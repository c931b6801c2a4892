"""
### Check each new version of a model

    newest_version -> verify

| task | what happens |
|---|---|
| `newest_version` | finds out which version is the newest |
| `verify` | runs a small job that compares the files of this version with their digests in its manifest |

It runs whenever a task has saved a version of `dense-mnist-tf`, as `mnist_lifecycle` does. Put what you need behind
`verify`: an evaluation on other data, a message, a deployment.

Several versions that are saved at about the same time may start only one run. So the run takes the newest version,
instead of the one that started it. For a run for each version, or for versions that other programs save, read
`docs/en/assets.md`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_bitahub.assets import BitaHubModel
from airflow_bitahub.operators.job import BitaHubJobOperator

MODEL = BitaHubModel("dense-mnist-tf")

# Each file has a line in the manifest, of which this makes a line as sha256sum reads it.
VERIFY = r"""cd "/model/{user_name}/dense-mnist-tf" &&
sed -n 's/^{"path": "\(.*\)", "size": .*"sha256": "\([0-9a-f]*\)".*/\2  \1/p' bitahub_manifest.json | sha256sum -c -"""


@task(inlets=[MODEL.asset])
def newest_version(inlet_events: Any = None) -> dict[str, Any]:
    """Return what is known of the newest version: its path, metrics, and the run that saved it.

    :param inlet_events: Airflow's; it fills in what has the name of a variable of a task's context
    """
    return MODEL.newest(inlet_events)


with DAG(
    dag_id="on_new_model",
    schedule=MODEL.asset,
    is_paused_upon_creation=True,  # whatever Airflow's own setting is
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["bitahub", "example"],
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "image": Param(
            "10.11.3.8:5000/bitahub/tensorflow-2.3-cuda-11.0-py3:v1.0",
            type="string",
            minLength=1,
            title="Image of the job",
            description="Any that has a shell and sha256sum.",
        )
    },
) as dag:
    BitaHubJobOperator(
        task_id="verify",
        project="verify-model",
        image="{{ params.image }}",
        code_path=None,
        models=[newest_version()["path"]],
        command=VERIFY,
        cpu=1,
        memory_mb=1024,
        deferrable=True,
        poll_interval=5,
    )
