"""Conditions on metrics: a small language, and its evaluation. Nothing here knows Airflow.

    condition  = metric comparison number
    metric     = bare | quoted
    bare       = characters other than blanks, quotes, "<", ">", "=" and "!"        accuracy  mAP@0.5  val/acc  准确率
    quoted     = any text in single or double quotes                                'top 5 accuracy'  "a>b"  "0.5"
    comparison = ">=" | "<=" | ">" | "<"
    number     = as in Python or JSON                                               0.9  .5  -1  1e-3

``test.accuracy`` is the metric of that whole name, or else ``accuracy`` within ``test``. A bare name that is itself a
number must be quoted.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from airflow_bitahub.exceptions import ConfigurationError

_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_CONDITION = re.compile(
    r"""\s* (?: (?P<bare>[^\s'"<>=!]+) | '(?P<single>[^']+)' | "(?P<double>[^"]+)" ) \s*
        (?P<sign>>=|<=|>|<) \s* (?P<limit>[^\s<>=!]+) \s*""",
    re.VERBOSE,
)
_SHOWN = 100  # characters of a text in a message
_MISSING: Final = object()


@dataclass(frozen=True)
class Condition:
    """One comparison of a metric with a number; `limit` is the number as it was written."""

    metric: str
    sign: str
    limit: str
    bound: Decimal


def parse_condition(text: Any) -> Condition:
    """Return what a condition says. Raise ConfigurationError if it is malformed."""
    match = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if match is None or _NUMBER.fullmatch(match["bare"] or ""):
        raise ConfigurationError(
            f"{_shown(text)} is not a condition such as 'accuracy >= 0.9': a metric, one of >=, <=, > and <, and a "
            f"number. Put the metric's name in quotes if it contains blanks or one of these signs. Give several "
            f"conditions as a list."
        )
    try:
        bound = Decimal(match["limit"]) if _NUMBER.fullmatch(match["limit"]) else None
    except ArithmeticError:  # its exponent has more than 18 digits
        bound = None
    if bound is None:
        raise ConfigurationError(f"{_shown(match['limit'])} in {_shown(text)} is not a number.")
    return Condition(match["bare"] or match["single"] or match["double"], match["sign"], match["limit"], bound)


def evaluate_condition(condition: str, metrics: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether a condition is true, and the reason in words. Raise ConfigurationError if it is malformed.

    A condition is false for a metric that is missing, NaN, infinite or not a number.
    """
    parsed = parse_condition(condition)
    name, wanted = parsed.metric, f"{parsed.sign} {parsed.limit}"
    value = _look_up(name, metrics)
    if value is _MISSING:
        return False, f"{name} is missing, so not {wanted}"
    if not _is_number(value):
        return False, f"{name} = {_shown(value)} is not a number, so not {wanted}"
    # As floats, a metric of 0.7 is >= 0.7. Integers are compared exactly, also those that no float can hold.
    holds = _COMPARE[parsed.sign](value, float(parsed.bound) if isinstance(value, float) else parsed.bound)
    return holds, f"{name} = {_shown(value)} {'' if holds else 'is not '}{wanted}"


def read_metrics(metrics: Any) -> Mapping[str, Any]:
    """Return metrics as a mapping; a template may have turned the mapping into text.

    :raises ConfigurationError: they are not a mapping
    """
    given = metrics
    if isinstance(given, str):
        for read in (_read_json, _read_literal):
            with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                metrics = read(given)
                break
        else:
            raise ConfigurationError(f"metrics cannot be read: {_shown(given)} is neither JSON nor a Python literal.")
    if isinstance(metrics, Mapping):
        return metrics
    message = f"metrics must be a mapping such as {{'accuracy': 0.9}}, not {_shown(metrics)}"
    if metrics is None:
        raise ConfigurationError(f"{message}. Did the task that returns them run, and return something?")
    if isinstance(metrics, Sequence) and not isinstance(metrics, str):
        raise ConfigurationError(
            f"{message}. A mapped task returns one value for each index: map the gate too, or put both into one mapped "
            f"task group."
        )
    raise ConfigurationError(f"{message}.")


def _shown(value: Any) -> str:
    """Return a value for a message, or only its type where it may be long. A text that is cut could not be masked."""
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"a text of {len(value)} characters"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"{Decimal(value):.6e}"  # Python refuses to print more than 4,300 digits
    return repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _look_up(name: str, metrics: Mapping[str, Any]) -> Any:
    """Return a metric's value by its whole name, or else part by part; `_MISSING` if there is none."""
    if name in metrics:
        return metrics[name]
    for dot in (index for index, character in enumerate(name) if character == "."):
        inner = metrics.get(name[:dot])
        if isinstance(inner, Mapping) and (value := _look_up(name[dot + 1 :], inner)) is not _MISSING:
            return value
    return _MISSING


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _read_json(text: str) -> Any:
    return json.loads(text, parse_int=lambda digits: int(Decimal(digits)))  # int() refuses more than 4,300 digits


def _read_literal(text: str) -> Any:
    """Return the value of a Python literal, as Jinja renders a mapping; `nan` and `inf` are not literals to Python."""
    return ast.literal_eval(_Constants().visit(ast.parse(text.strip(), mode="eval")))


class _Constants(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("nan", "inf") else node
