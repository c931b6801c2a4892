"""Predict the digits of the MNIST test pictures with a model that train.py saved.

Runs on the platform, with TensorFlow 2.3 or newer. It is one file, since a job's code folder contains nothing else.
"""

import argparse
import gzip
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

BATCH_SIZE = 1000


def main() -> None:
    """Read the pictures and the model, predict, and write the class probabilities."""
    args = parse_args()
    images = read_idx(args.data_dir / "t10k-images-idx3-ubyte.gz", 3)
    if len(images) == 0:
        fail("there are no pictures to predict.")
    model = load_model(args.model_dir, images.shape[1:])

    print(f"Predicting {len(images)} pictures with the model in {args.model_dir}", flush=True)
    batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
    results = np.concatenate([model(batch / np.float32(255)) for batch in batches])

    target = args.output_dir / "prediction_results.npy"
    temporary = args.output_dir / f".{target.name}"
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.save(stream, results.astype(np.float32))
        # Rename the complete file, so a reader never sees a part of it.
        temporary.replace(target)
    except OSError as error:
        fail(f"cannot write {target}: {error.strerror}.")
    print(f"Probabilities written to {target}")


def load_model(folder: Path, shape: tuple):
    """Return the SavedModel's serving function. It takes pictures of `shape` and returns class probabilities."""
    if not (folder / "saved_model.pb").is_file():
        fail(f"{folder} has no saved_model.pb.")
    # TensorFlow loads slowly, so wrong input is reported first.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    try:
        model = tf.saved_model.load(str(folder))
        function = model.signatures["serving_default"]
    except Exception as error:
        fail(f"the model in {folder} cannot be loaded: {' '.join(str(error).split())}")
    # The names of inputs and outputs depend on the TensorFlow version; the signature contains them.
    inputs = function.structured_input_signature[1]
    outputs = function.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        fail(f"the model in {folder} has {len(inputs)} inputs and {len(outputs)} outputs; one of each is expected.")
    (input_name, input_spec), (output_name, output_spec) = *inputs.items(), *outputs.items()
    if not input_spec.shape.is_compatible_with((None, *shape)):
        fail(f"the model takes input of shape {input_spec.shape}, but the pictures have shape {shape}.")
    if not output_spec.shape.is_compatible_with((None, 10)):
        fail(f"the model's output has shape {output_spec.shape} instead of 10 probabilities per picture.")

    def predict(pictures: np.ndarray) -> np.ndarray:
        # Call it through the model: the function alone does not keep the variables alive.
        return model.signatures["serving_default"](**{input_name: tf.constant(pictures)})[output_name].numpy()

    return predict


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
    sys.exit(f"predict.py: {sentence}")


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Predict the digits of the MNIST test pictures.")
    parser.add_argument("--model-dir", type=Path, required=True, help="folder of the SavedModel")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with t10k-images-idx3-ubyte.gz")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for prediction_results.npy")
    return parser.parse_args()


if __name__ == "__main__":
    main()
