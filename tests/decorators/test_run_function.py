"""What a function returns becomes JSON in the job, after hours on a GPU, if there is any way."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from airflow_bitahub.decorators import run_function
from airflow_bitahub.decorators.source import function_source

TENSOR = SimpleNamespace(numpy=lambda: np.float32(0.5))  # as TensorFlow has it


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": (1, 2.5, None, True), 3: "text"}, {"a": [1, 2.5, None, True], "3": "text"}),
        ({"loss": math.nan, "best": -math.inf}, {"loss": None, "best": None}),
        ({np.int64(7): np.float32(0.5), "is": np.bool_(True)}, {"7": 0.5, "is": True}),
        (np.array([[1, 2], [3, math.nan]]), [[1, 2], [3, None]]),
        ([TENSOR], [0.5]),
    ],
)
def test_values_of_numerical_libraries_become_json(value: Any, expected: Any) -> None:
    assert run_function.as_json(value) == expected


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "^a value of type object$"),
        ({"net": [0, Path("model")]}, r"^a value of type PosixPath at \['net'\]\[1\]$"),
        ({"a": {(1, 2): 3}}, r"^a mapping with the key \[1, 2\] at \['a'\]$"),
        (b"bytes", "^a value of type bytes$"),
        ({1, 2}, "^a value of type set$"),
    ],
)
def test_value_that_json_does_not_have_is_named(value: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        run_function.as_json(value)


def old_python() -> str:
    """Return an interpreter of Python 3.6, for which TensorFlow 2.4 exists; "" if there is none."""
    versions = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    return next(map(str, versions.glob("3.6.*/bin/python3.6")), shutil.which("python3.6") or "")


OLD_PYTHON = old_python()


@pytest.mark.skipif(not OLD_PYTHON, reason="no Python 3.6 was found")
def test_python_3_6_calls_a_function_with_annotations_that_it_does_not_know(tmp_path: Path) -> None:
    def scale(numbers: list[float], factor: float | None) -> list[float]:
        def times(number: float | Any) -> float:
            return number * (factor or 1)

        return [times(number) for number in numbers]

    (tmp_path / "function.py").write_text(function_source(scale))
    (tmp_path / "arguments.json").write_text(
        json.dumps({"function": "scale", "args": [[1, 2]], "kwargs": {"factor": 3}})
    )
    result = tmp_path / "result.json"
    subprocess.run([OLD_PYTHON, run_function.__file__, str(tmp_path), str(result), "no code"], check=True)
    assert json.loads(result.read_text()) == {"value": [3, 6]}
