"""The demo user's dataset and programs on the platform, in the folders that the document names (seed)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.hooks import DEFAULT_CONN_ID
from airflow_bitahub.storage.paths import Folders

# The user in the document's examples.
FOLDERS = Folders("_2f1fe8d0df7a48f6b471e02e054b4852", "PengchengYang")
_PROGRAMS = {
    "mnist-train-demo": "train.py",
    "mnist-infer-demo": "predict.py",
    "mnist-eval-demo": "evaluate.py",
}


def server_folder(storage: Path, server_path: str) -> Path:
    """Return the folder on this machine that a server path stands for in the emulator."""
    return storage / server_path.lstrip("/")


def upload_programs(storage: Path, workloads: Path) -> None:
    """Copy each program into the code folder of its project."""
    for project, program in _PROGRAMS.items():
        folder = server_folder(storage, FOLDERS.code(project)) / "dense-mnist-tf"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(workloads / "dense-mnist-tf" / program, folder / program)


def connection(emulator: Emulator) -> dict[str, object]:
    """Return the Airflow connection to an emulator, in the form that Airflow's REST API accepts."""
    fields = emulator.connection(login=FOLDERS.user_name, user_id=FOLDERS.user_id)
    return {"connection_id": DEFAULT_CONN_ID, **fields, "extra": json.dumps(fields["extra"])}
