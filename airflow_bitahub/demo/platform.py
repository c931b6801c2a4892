"""What the demo's user has on the platform: a dataset and the programs, in the folders of the document (seed)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.storage import Folders

# The document's own names.
FOLDERS = Folders("_2f1fe8d0df7a48f6b471e02e054b4852", "PengchengYang")
CONNECTION_ID = "bitahub_default"
_PROGRAMS = {
    "mnist-train-demo": "train.py",
    "mnist-infer-demo": "predict.py",
    "mnist-eval-demo": "evaluate.py",
}


def server_folder(storage: Path, server_path: str) -> Path:
    """Give the folder in which the emulator keeps a server path."""
    return storage / server_path.lstrip("/")


def upload_programs(storage: Path, workloads: Path) -> None:
    """Put each program into the code folder of its project."""
    for project, program in _PROGRAMS.items():
        folder = server_folder(storage, FOLDERS.code(project)) / "dense-mnist-tf"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(workloads / "dense-mnist-tf" / program, folder / program)


def connection(emulator: Emulator) -> dict[str, object]:
    """Return the Airflow connection to an emulator, in the form that Airflow's REST API accepts."""
    fields = emulator.connection(login=FOLDERS.user_name, user_id=FOLDERS.user_id)
    return {"connection_id": CONNECTION_ID, **fields, "extra": json.dumps(fields["extra"])}
