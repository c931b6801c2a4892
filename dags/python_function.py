"""
### A Python function as a job

    train -> best

| task | what happens |
|---|---|
| `train` | runs a Python function on BitaHub, once for each learning rate, side by side |
| `best` | runs on an Airflow worker, and returns the learning rate with the smallest loss |

The platform needs no program in any folder: `train` itself is sent there, with its arguments, and what it returns is
the task's result. Only the function is sent, so its imports are inside it. Files that it writes to the folder it runs
in are kept: this folder is the task's XCom `bitahub_output_path`, from where the model could be saved and served.

**Before the first run**, create the connection `bitahub_default` with `storage_uri`, through which the function and
its result travel. The image needs `python3` and nothing else.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, task


@task.bitahub(project="python-function", image="{{ params.image or '' }}", cpu=1, memory_mb=1024)
def train(learning_rate: float) -> dict[str, float]:
    """Fit a line to some points by gradient descent, and return its loss."""
    import json
    from pathlib import Path

    points = [(x / 10, 3 * x / 10 + 2) for x in range(10)]
    slope = offset = 0.0
    for epoch in range(1, 201):
        errors = [(slope * x + offset - y, x) for x, y in points]
        slope -= learning_rate * sum(error * x for error, x in errors) / len(points)
        offset -= learning_rate * sum(error for error, _ in errors) / len(points)
        if epoch % 50 == 0:
            print(f"epoch {epoch}: y = {slope:.2f} x + {offset:.2f}")
    Path("model.json").write_text(json.dumps({"slope": slope, "offset": offset}))
    return {"learning_rate": learning_rate, "loss": sum(error**2 for error, _ in errors) / len(points)}


@task
def best(trained: list[dict[str, float]]) -> dict[str, float]:
    """Return the result with the smallest loss."""
    return min(trained, key=lambda each: each["loss"])


with DAG(
    dag_id="python_function",
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["bitahub", "example"],
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "deferrable": True,  # wait in the triggerer, where a task occupies no worker slot
        "poll_interval": 5,
    },
    params={
        "image": Param(
            None,
            type=["null", "string"],
            title="Image of the job",
            description="Empty: the default image of the connection.",
        )
    },
) as dag:
    best(train.expand(learning_rate=[0.01, 0.5]))
