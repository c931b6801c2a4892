"""What a training job sees."""

from __future__ import annotations

import pytest

from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.operators.train import BitaHubTrainOperator
from tests.conftest import TaskRun

pytestmark = pytest.mark.usefixtures("connection")


def test_training_sees_code_and_dataset_and_its_output_is_kept(task_run: TaskRun, platform: Emulator) -> None:
    (platform.storage / FOLDERS.code("demo").lstrip("/") / "train.sh").write_text("cat $1 > $2/model")
    (platform.storage / FOLDERS.dataset("MNIST")[0].lstrip("/") / "pictures").write_text("digits")
    result = BitaHubTrainOperator(
        task_id="task",
        project="demo",
        datasets=["MNIST"],
        command="sh /code/train.sh /data/{user_name}/MNIST/pictures /output",
        poll_interval=0.02,
    ).execute(task_run.context())
    assert result is not None
    assert (platform.storage / result["output_path"].lstrip("/") / "model").read_text() == "digits"
