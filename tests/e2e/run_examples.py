"""Run the example DAGs by `dag.test()`, on emulators with every form of answers, and with sign-in.

The arguments are the folder with the DAGs, a folder for files and the profiles. Airflow's environment has been set, and
its database is made here, since another process would import Airflow again. Prints a JSON
object: profile -> DAG -> task -> the states of its instances.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from airflow.utils.db import upgradedb

from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import Emulator

USER, PASSWORD, USER_ID = "ann", "examples-correct-horse", "_" + "2f" * 16
OUTPUTS: dict[str, dict[str, Any]] = {
    "mnist-train-demo": {"dense-mnist-tf/saved_model.pb": "a model"},
    "mnist-infer-demo": {"prediction_results.npy": "predictions"},
    "mnist-eval-demo": {"evaluation_result.json": {"accuracy": 0.9}},
}
LIFECYCLE = {"mnist_lifecycle": {"image": "python", "serving_image": "python"}}
ALL = {**LIFECYCLE, "nightly_check": {}, "python_function": {"image": "python"}}


def prepare(storage: Path) -> None:
    """Write what the examples say that they need."""
    for project in OUTPUTS:
        (storage / "projects" / USER_ID / project / "code/dense-mnist-tf").mkdir(parents=True)
    pictures = storage / "datasets" / USER_ID / "MNIST"
    (pictures / "sample").mkdir(parents=True)
    for picture in ("digit-7.png", "sample/a.png"):
        (pictures / picture).write_bytes(b"a picture")
    (pictures / "sample/labels.csv").write_text("file,label\na.png,7\n")


def run_on(profile: str, dags: Path, home: Path) -> dict[str, Any]:
    """Return the states of all tasks."""
    sign_in = SignIn({USER: PASSWORD}, expires_in=30, single_session=True)
    with Emulator(home / profile, image_cache=home / "images", profile=profile, sign_in=sign_in) as emulator:
        for project, outputs in OUTPUTS.items():
            emulator.scripts.add(ScriptedJob(job_name=f"{project}-*", outputs=outputs))
        emulator.scripts.add(ScriptedServing(answer={"predictions": [7]}))
        prepare(emulator.storage)
        connection = emulator.connection(login=USER, user_id=USER_ID, auth="kubesphere")
        os.environ["AIRFLOW_CONN_BITAHUB_DEFAULT"] = json.dumps({**connection, "password": PASSWORD})
        found: dict[str, Any] = {}
        # The other examples query no more than the lifecycle does, so one form of answers is enough for them.
        for name, conf in (ALL if profile == "default" else LIFECYCLE).items():
            run = runpy.run_path(str(dags / f"{name}.py"))["dag"].test(run_conf=conf)
            found[name] = {}
            for instance in run.get_task_instances():
                found[name].setdefault(instance.task_id, []).append(instance.state)
        return found


if __name__ == "__main__":
    dags, home, *profiles = sys.argv[1:]
    upgradedb()
    results = {profile: run_on(profile, Path(dags), Path(home)) for profile in profiles}
    print(json.dumps(results))
