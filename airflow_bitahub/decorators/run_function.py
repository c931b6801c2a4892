"""Call a function that a DAG has sent, and write what it returns. Runs in the job, on Python 3.6 or later.

    python3 run_function.py FOLDER RESULT_FILE CODE_FOLDER

FOLDER contains `function.py` and `arguments.json`. Modules of CODE_FOLDER can be imported, if there is such a folder.
RESULT_FILE becomes a JSON object with the entry `value`, or with the entry `problem`, which says in words what JSON
does not have.
"""

import ast
import json
import math
import sys
from collections.abc import Mapping
from typing import Any


def load(path: str, name: str) -> Any:
    """Return the function that a file defines, without its annotations, which may need modules of the DAG's file."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    statement = tree.body[-1].body[0] if isinstance(tree.body[-1], ast.If) else tree.body[-1]
    definitions = [statement]
    if sys.version_info < (3, 7):
        # `from __future__ import annotations`, the statement before, is not known there, so all annotations go.
        tree.body = tree.body[-1:]
        definitions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for definition in definitions:
        remove_annotations(definition)
    namespace = {"__name__": "function", "__file__": path}
    exec(compile(tree, path, "exec"), namespace)
    return namespace[name]


def remove_annotations(definition: Any) -> None:
    """Remove the annotations of a function's parameters and of its value."""
    arguments = definition.args
    positional = [*getattr(arguments, "posonlyargs", []), *arguments.args]
    for argument in (*positional, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    definition.returns = None


def as_json(value: Any, where: str = "") -> Any:
    """Return a value as JSON has it. Numbers and arrays of NumPy, PyTorch and TensorFlow become numbers and lists.

    :raises TypeError: JSON does not have it
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key_as_json(key, where): as_json(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry, f"{where}[{number}]") for number, entry in enumerate(value)]
    if not hasattr(value, "tolist") and callable(getattr(value, "numpy", None)):
        value = value.numpy()
    if callable(getattr(value, "tolist", None)):
        return as_json(value.tolist(), where)
    raise TypeError(f"a value of type {type(value).__name__}" + (f" at {where}" if where else ""))


def key_as_json(key: Any, where: str) -> str:
    """Return the key of a mapping as JSON has it: text."""
    key = as_json(key, where)
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"a mapping with the key {key!r}" + (f" at {where}" if where else ""))


def main(folder: str, result_file: str, code_folder: str) -> None:
    """Call the function. An exception that it raises ends the program, with its traceback."""
    sys.path[0] = code_folder  # instead of this program's own
    with open(f"{folder}/arguments.json", encoding="utf-8") as file:
        call = json.load(file)
    function = load(f"{folder}/function.py", call["function"])
    value = function(*call["args"], **call["kwargs"])
    try:
        result = {"value": as_json(value)}
    except TypeError as error:
        result = {"problem": str(error)}
    except RecursionError:
        result = {"problem": "a value that contains itself, or is nested too deeply"}
    if "problem" in result:
        print(f"{call['function']}() returned {result['problem']}, which JSON does not have.", file=sys.stderr)
    with open(result_file, "w", encoding="utf-8") as file:
        json.dump(result, file, allow_nan=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
