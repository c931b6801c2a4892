"""Training."""

from __future__ import annotations

from airflow_bitahub.operators.job import BitaHubJobOperator


class BitaHubTrainOperator(BitaHubJobOperator):
    """Runs a training job.

    Code is mounted at ``/code``, datasets at ``/data/{user_name}/...``; results go to ``/output`` (seed).

    Parameters and result are those of `BitaHubJobOperator`. Pass ``output_path`` on to the task that uses the model:

    .. code-block:: python

        train = BitaHubTrainOperator(
            task_id="train",
            project="mnist-train-demo",
            datasets=["MNIST"],
            command="cd /code/dense-mnist-tf; "
            "python train.py --data-dir /data/{user_name}/MNIST/mnist --output-dir /output/dense-mnist-tf;",
            accelerator="gtx-1080-ti",
        )
        train.output["output_path"]
    """
