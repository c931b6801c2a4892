"""What a function returns becomes JSON in the job, after hours on a GPU, if there is any way."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from airflow_bitahub.decorators import run_function

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


def test_program_is_one_for_old_versions_of_python() -> None:
    source = Path(run_function.__file__).read_text("utf-8")
    ast.parse(source, feature_version=(3, 6))
    assert "\nfrom __future__" not in source
