"""The manifest of a saved model: what it consists of, and where it comes from.

    {"saved_by": "save-model-20260101-abc-1", "model": "mnist", "version": "20260101-abc-1", ...
    "files": [
    {"path": "dense/weights", "size": 7, "sha256": "..."}
    ]}

It is the last file that a saved model gets, so a model that has one is complete. Its first line begins with the job or
task attempt that saved it, so that a shell can read that. A job that copies a model writes the same form, see
`operators.model_script`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from airflow_bitahub.storage.files import CopiedFile

MANIFEST = "bitahub_manifest.json"
MANIFEST_LIMIT = 64 * 2**20  # bytes

# Files that programs open first, by the conventions of TensorFlow, Keras, PyTorch, ONNX, MLflow and Hugging Face.
_MAIN_FILES = (
    *("saved_model.pb", "*.keras", "*.h5", "*.index", "*.index.json", "*.onnx", "*.pt", "*.pth", "MLmodel"),
    *("model_index.json", "config.json"),
)


def head(about: Mapping[str, Any]) -> str:
    """Return the first line of a manifest. `about` begins with ``saved_by`` and ``model``."""
    return json.dumps(about, ensure_ascii=False, allow_nan=False).removesuffix("}") + ","


def saver_of(first_line: str) -> str:
    """Return the beginning of a manifest's first line that says who saved the model.

    :param first_line: what `head` returns
    """
    return first_line[: first_line.index('", "') + 1]


def manifest(first_line: str, files: Iterable[CopiedFile]) -> bytes:
    """Return the manifest of a model with these files."""
    entries = [
        json.dumps({"path": file.name, "size": file.size, "sha256": file.sha256}, ensure_ascii=False) for file in files
    ]
    return "\n".join((first_line, '"files": [', ",\n".join(entries), "]}\n")).encode("utf-8", "replace")


def main_file_last(name: str) -> tuple[bool, int, str]:
    """Return the key that sorts the files of a model: folders first, and the file that programs open first last."""
    own_name = name.rsplit("/", 1)[-1]
    return any(fnmatchcase(own_name, pattern) for pattern in _MAIN_FILES), -name.count("/"), name
