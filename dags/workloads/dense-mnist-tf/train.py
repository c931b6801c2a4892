"""Train one dense layer on MNIST and save it as a TensorFlow SavedModel, with the training curve in `metrics.jsonl`.

Runs on the platform, with TensorFlow 2.3 or newer. It is one file, since a job's code folder contains nothing else.
"""

import argparse
import gzip
import json
import os
import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, TextIO

import numpy as np

SIDE = 28
LEARNING_RATE = 0.1
VALIDATION = "validation.json"
PORT = 2222  # for traffic between replicas, if the platform sets none
METRICS = "metrics.jsonl"  # the training curve: a JSON object a line


def main() -> None:
    """Read the training pictures, train, and write the model."""
    args = parse_args()
    images = read_idx(args.data_dir / "train-images-idx3-ubyte.gz", 3)
    labels = read_idx(args.data_dir / "train-labels-idx1-ubyte.gz", 1)
    if images.shape[1:] != (SIDE, SIDE):
        fail("the training pictures are {}x{} pixels instead of {}x{}.".format(*images.shape[1:], SIDE, SIDE))
    if len(images) != len(labels) or len(images) == 0:
        fail(f"there are {len(images)} training pictures but {len(labels)} labels.")
    if labels.max() > 9:
        fail(f"the training labels go up to {labels.max()} instead of 9.")
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot write to {args.output_dir}: {error.strerror}.")

    print(
        f"Training on {len(images)} pictures: {args.epochs} epochs, batch size {args.batch_size}, seed {args.seed}",
        flush=True,
    )
    if train(images, labels, args):
        print(f"Model written to {args.output_dir}")


def train(images: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> bool:
    """Train the network. Return whether this replica wrote it to the output folder, over any older model."""
    index = join_cluster() if args.strategy else 0
    # TensorFlow loads slowly, so wrong input is reported first.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    random.seed(args.seed)
    np.random.seed(args.seed)
    tf.random.set_seed(args.seed)
    if args.strategy:
        train_together(tf, images, labels, args, save=index == 0)
        return index == 0

    if args.validation_share:
        images, labels, held_out = hold_out(images, labels, args.validation_share)
    model = tf.keras.Sequential(
        [
            tf.keras.Input(shape=(SIDE, SIDE)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=tf.keras.optimizers.SGD(args.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    with (args.output_dir / METRICS).open("w") as metrics:
        curve = tf.keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: note(metrics, epoch + 1, logs))
        model.fit(
            images / np.float32(255),
            labels,
            batch_size=args.batch_size,
            epochs=args.epochs,
            verbose=2,
            callbacks=[curve],
        )

    if args.validation_share:
        loss, accuracy = (float(value) for value in model.evaluate(*held_out, verbose=0))
        # JSON has no NaN, which the loss of a training that diverged is.
        validation = {"accuracy": round(accuracy, 4), "loss": round(loss, 4) if np.isfinite(loss) else None}
        (args.output_dir / VALIDATION).write_text(json.dumps(validation))
        print(f"Validation: {validation}", flush=True)

    # Keras 3 writes a SavedModel only with export(), which Keras 2 may lack.
    if hasattr(model, "export"):
        model.export(str(args.output_dir))
    else:
        tf.saved_model.save(model, str(args.output_dir))
    return True


def train_together(tf: Any, images: np.ndarray, labels: np.ndarray, args: argparse.Namespace, save: bool) -> None:
    """Train the same network together with the other replicas of the role, and write it if `save` is set.

    This function has its own training loop, since `fit` of Keras 3 does not work over several machines.
    """
    strategies = tf.distribute if hasattr(tf.distribute, "MultiWorkerMirroredStrategy") else tf.distribute.experimental
    strategy = strategies.MultiWorkerMirroredStrategy()
    with strategy.scope():
        weights, bias = tf.Variable(tf.zeros([SIDE * SIDE, 10])), tf.Variable(tf.zeros([10]))

    pictures = tf.data.Dataset.from_tensor_slices((images / np.float32(255), labels.astype(np.int32)))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = strategy.experimental_distribute_dataset(
        pictures.shuffle(len(labels), seed=args.seed).batch(args.batch_size, drop_remainder=True).with_options(options)
    )

    def step(inputs: Any, truth: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = tf.matmul(tf.reshape(inputs, [-1, SIDE * SIDE]), weights) + bias
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=truth, logits=logits)
            loss = tf.reduce_sum(losses) / args.batch_size
        gradients = tape.gradient(loss, [weights, bias])
        summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        for variable, gradient in zip([weights, bias], summed):  # noqa: B905  Python 3.8 has no `strict`
            variable.assign_sub(args.learning_rate * gradient)
        return loss

    @tf.function
    def train_batch(inputs: Any, truth: Any) -> Any:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(step, args=(inputs, truth)), axis=None)

    with (args.output_dir / METRICS if save else Path(os.devnull)).open("w") as metrics:
        for epoch in range(1, args.epochs + 1):
            loss = np.mean([float(train_batch(inputs, truth)) for inputs, truth in batches])
            print(f"Epoch {epoch}, {strategy.num_replicas_in_sync} replicas: loss {loss:.4f}", flush=True)
            note(metrics, epoch, {"loss": loss})

    if not save:
        return
    network = tf.Module()
    network.weights, network.bias = tf.Variable(weights.numpy()), tf.Variable(bias.numpy())

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE], tf.float32)])
    def predict(inputs: Any) -> Any:
        return tf.nn.softmax(tf.matmul(tf.reshape(inputs, [-1, SIDE * SIDE]), network.weights) + network.bias)

    tf.saved_model.save(network, str(args.output_dir), signatures=predict)


def note(metrics: TextIO, epoch: int, values: Any) -> None:
    """Add a line to the training curve, which may be read while the training goes on."""
    known = {name: round(float(value), 6) for name, value in values.items() if np.isfinite(value)}
    metrics.write(json.dumps({"step": epoch, **known}) + "\n")
    metrics.flush()


def join_cluster() -> int:
    """Set TF_CONFIG from the platform's variables, unless it is set, and return the index of this replica."""
    environment = os.environ
    if "TF_CONFIG" not in environment:
        role = environment.get("VC_TASK_NAME", "")
        hosts = environment.get("PAI_TASK_ROLE_{}_HOST_LIST".format(role.replace("-", "_")), "")
        if not hosts:
            names = environment.get("VC_{}_HOSTS".format(role.upper().replace("-", "_")), "")
            hosts = ",".join(f"{name}:{PORT}" for name in names.split(",") if name)
        if not hosts:
            fail("--strategy must know who the replicas are: set TF_CONFIG, or run as a job with several replicas.")
        task = {"type": "worker", "index": int(environment["VC_TASK_INDEX"])}
        environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts.split(",")}, "task": task})
    return int(json.loads(environment["TF_CONFIG"])["task"]["index"])


def hold_out(images: np.ndarray, labels: np.ndarray, share: float) -> Any:
    """Return the pictures and labels to train on, and a share of both that no training sees, ready to evaluate."""
    count = max(1, round(len(labels) * (1 - share)))
    if count == len(labels):
        fail("--validation-share leaves no picture to validate with.")
    return images[:count], labels[:count], (images[count:] / np.float32(255), labels[count:])


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the bytes of a gzipped idx file as an array."""
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except FileNotFoundError:
        fail(f"{path} is missing.")
    except (OSError, EOFError, zlib.error) as error:
        fail(f"{path} cannot be read: {error}.")
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        fail(f"{path} is not an idx{dimensions} file of bytes.")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != np.prod(shape):
        fail(f"{path} has fewer or more bytes than its header says.")
    return values.reshape(shape)


def fail(sentence: str) -> None:
    """Exit with an error message for the user."""
    sys.exit(f"train.py: {sentence}")


def positive(text: str) -> int:
    """Return a number of the command line, which must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def share_of(text: str) -> float:
    """Return a number of the command line, which must be from 0 to below 1."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError("must be from 0 to below 1")
    return number


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Train one dense layer on MNIST.")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with train-*-ubyte.gz")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write the SavedModel to")
    parser.add_argument("--epochs", type=positive, default=2)
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument(
        "--validation-share",
        type=share_of,
        default=0.0,
        help=f"share of the pictures to hold out, for {VALIDATION} in the output folder; not with --strategy",
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--strategy", action="store_true", help="train together with the other replicas of the role")
    return parser.parse_args()


if __name__ == "__main__":
    main()
