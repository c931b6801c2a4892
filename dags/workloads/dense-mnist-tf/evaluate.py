"""Compare predictions with the MNIST test labels and write the accuracy and the confusion matrix.

Runs on the platform and needs only numpy. It is one file, since a job's code folder contains nothing else.
"""

import argparse
import gzip
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Read labels and predictions, and write how they agree."""
    args = parse_args()
    labels = read_idx(args.label_dir / "t10k-labels-idx1-ubyte.gz", 1)
    predictions = read_predictions(args.predictions)
    if len(predictions) != len(labels) or len(labels) == 0:
        fail(f"there are {len(predictions)} predictions but {len(labels)} labels.")
    if labels.max() > 9:
        fail(f"the labels go up to {labels.max()} instead of 9.")
    guesses = predictions.argmax(axis=1)
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, guesses), 1)
    matrix = {"labels": [str(digit) for digit in range(10)], "counts": counts.tolist()}
    accuracy = round(float((guesses == labels).mean()), 4)

    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        write(args.output_dir / "confusion_matrix.json", matrix)  # a row for each true digit, a column for each guess
        target = args.output_dir / "evaluation_result.json"
        write(target, {"accuracy": accuracy})
    except OSError as error:
        fail(f"cannot write to {args.output_dir}: {error.strerror}.")
    print(f"Accuracy {accuracy} on {len(labels)} pictures, written to {target}")


def write(target: Path, value: Any) -> None:
    """Write a value as JSON."""
    temporary = target.parent / f".{target.name}"
    temporary.write_text(json.dumps(value))
    # Rename the complete file, so a reader never sees a part of it.
    temporary.replace(target)


def read_predictions(path: Path) -> np.ndarray:
    """Return the class probabilities: one row of ten for each picture."""
    try:
        predictions = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        fail(f"{path} is missing.")
    except (OSError, EOFError, ValueError) as error:
        fail(f"{path} cannot be read: {error}")
    shape = getattr(predictions, "shape", ())
    if len(shape) != 2 or shape[1] != 10:
        fail(f"the predictions in {path} have shape {shape} instead of (pictures, 10).")
    if predictions.dtype.kind != "f" or not np.isfinite(predictions).all():
        fail(f"the predictions in {path} are not all numbers.")
    return predictions


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
    sys.exit(f"evaluate.py: {sentence}")


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Measure the accuracy of predictions on the MNIST test pictures.")
    parser.add_argument("--label-dir", type=Path, required=True, help="folder with t10k-labels-idx1-ubyte.gz")
    parser.add_argument("--predictions", type=Path, required=True, help="prediction_results.npy, written by predict.py")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
