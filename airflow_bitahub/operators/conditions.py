"""Conditions on metrics: a small language, and its evaluation. Nothing here knows Airflow.

    condition  = metric comparison (number | champion)
    metric     = bare | quoted
    bare       = characters other than blanks, quotes, "<", ">", "=" and "!"        accuracy  mAP@0.5  val/acc  准确率
    quoted     = any text in single or double quotes                                'top 5 accuracy'  "a>b"  "0.5"
    comparison = ">=" | "<=" | ">" | "<"
    number     = as in Python or JSON                                               0.9  .5  -1  1e-3
    champion   = "champion." metric [blank ("+" | "-" | "*") blank number]          champion.accuracy - 0.005

``test.accuracy`` is the metric of that whole name, or else ``accuracy`` within ``test``. A bare name that is itself a
number must be quoted. The champion is the version of a serving that serves now.
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
from decimal import Context, Decimal
from typing import Any, Final, Literal

from airflow_bitahub.exceptions import ConfigurationError

_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_COMBINE: Final[Mapping[str, Callable[[Context, Decimal, Decimal], Decimal]]] = {
    "+": Context.add,
    "-": Context.subtract,
    "*": Context.multiply,
}
_DECIMALS = Context(traps=[])  # a result that is too large becomes infinite
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NAME = r"""(?: (?P<bare>[^\s'"<>=!]+) | '(?P<single>[^']+)' | "(?P<double>[^"]+)" )"""
_CONDITION = re.compile(rf"\s* {_NAME} \s* (?P<sign>>=|<=|>|<) \s* (?P<bound>\S.*?) \s*", re.VERBOSE | re.DOTALL)
_CHAMPION = "champion."
_CHAMPIONS_METRIC = re.compile(rf"champion\. {_NAME} (?: \s+ (?P<sign>[-+*]) \s+ (?P<number>\S+) )?", re.VERBOSE)
_LOOKS_COMBINED = re.compile(rf".*[-+*]{_NUMBER.pattern}")
_SHOWN = 100  # characters of a text in a message
MISSING: Final = object()


@dataclass(frozen=True)
class Bound:
    """What a metric is compared with: a number, or a metric of the champion that is combined with a number.

    :param text: as it was written
    :param champion: the champion's metric; "": the bound is the number alone
    :param sign: how the two are combined; "": the bound is the champion's metric alone
    """

    text: str
    number: Decimal = Decimal(0)
    champion: str = ""
    sign: str = ""


@dataclass(frozen=True)
class Condition:
    """One comparison of a metric."""

    metric: str
    sign: str
    bound: Bound


def parse_condition(text: Any) -> Condition:
    """Return what a condition says. Raise ConfigurationError if it is malformed."""
    match = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if match is None or _NUMBER.fullmatch(match["bare"] or ""):
        raise ConfigurationError(
            f"{shown(text)} is not a condition such as 'accuracy >= 0.9': a metric, one of >=, <=, > and <, and a "
            f"number or a metric of the champion. Put the metric's name in quotes if it contains blanks or one of "
            f"these signs. Give several conditions as a list."
        )
    if (match["bare"] or "").startswith(_CHAMPION):
        raise ConfigurationError(
            f"{shown(text)} is not a condition that can be checked: the champion's metric comes second, as in "
            f"'accuracy >= champion.accuracy'. Put the name in quotes if it is one of the metrics themselves."
        )
    return Condition(_name_in(match), match["sign"], _parse_bound(match["bound"], text))


def evaluate_condition(
    condition: str,
    metrics: Mapping[str, Any],
    champion: Mapping[str, Any] | None = None,
    champion_missing: Literal["open", "closed"] = "closed",
) -> tuple[bool, str]:
    """Return whether a condition is true, and the reason in words. Raise ConfigurationError if it is malformed.

    A condition is false for a metric that is missing, NaN, infinite or not a number.

    :param champion: the champion's metrics; None: there is no champion
    :param champion_missing: whether a condition about a metric that the champion does not have is true (``open``)
    """
    parsed = parse_condition(condition)
    name, bound, wanted = parsed.metric, parsed.bound, f"{parsed.sign} {parsed.bound.text}"
    value = look_up(name, metrics)
    if value is MISSING:
        return False, f"{name} is missing, so not {wanted}"
    if not is_number(value):
        return False, f"{name} = {shown(value)} is not a number, so not {wanted}"
    number, origin = _number_of(bound, champion), ""
    if bound.champion:
        best = look_up(bound.champion, champion or {})
        if number is None:
            flaw = "is missing" if best is MISSING else f"= {shown(best)} is not a number"
            reason = "there is no champion" if champion is None else f"champion.{bound.champion} {flaw}"
            said = f"{name} = {shown(value)} is not compared with {bound.text}: {reason}"
            return champion_missing == "open", f"{said}, and champion_missing={champion_missing!r}"
        where = f", where champion.{bound.champion} = {shown(best)}"
        origin = f" = {number}{where}" if bound.sign else f" = {shown(best)}"
    # As floats, a metric of 0.7 is >= 0.7. Integers are compared exactly, also those that no float can hold.
    holds = _COMPARE[parsed.sign](value, float(number or 0) if isinstance(value, float) else number)
    return holds, f"{name} = {shown(value)} {'' if holds else 'is not '}{wanted}{origin}"


def comparison_of(
    condition: str, metrics: Mapping[str, Any], champion: Mapping[str, Any] | None
) -> tuple[str, Any, float | None]:
    """Return what a condition compares: the metric's name, its value, and the number; None: there is none.

    :raises ConfigurationError: the condition is malformed
    """
    parsed = parse_condition(condition)
    number = _number_of(parsed.bound, champion)
    value = look_up(parsed.metric, metrics)
    return parsed.metric, None if value is MISSING else value, None if number is None else float(number)


def _number_of(bound: Bound, champion: Mapping[str, Any] | None) -> Decimal | None:
    """Return the number with which a metric is compared; None where the champion's metric is no number."""
    if not bound.champion:
        return bound.number
    best = look_up(bound.champion, champion or {})
    if not is_number(best):
        return None
    return _combined(Decimal(repr(best)) if isinstance(best, float) else Decimal(best), bound)


def _name_in(match: re.Match[str]) -> str:
    return match["bare"] or match["single"] or match["double"]


def _parse_bound(text: str, condition: str) -> Bound:
    if (number := _parse_number(text)) is not None:
        return Bound(text, number)
    match = _CHAMPIONS_METRIC.fullmatch(text)
    number = _parse_number(match["number"]) if match and match["number"] else Decimal(0)
    if match is None or number is None:
        raise ConfigurationError(
            f"{shown(text)} in {shown(condition)} is not a number, and not a metric of the champion such as "
            f"champion.accuracy or 'champion.accuracy - 0.005' (with +, - or *, and blanks around it)."
        )
    if _LOOKS_COMBINED.fullmatch(match["bare"] or ""):
        raise ConfigurationError(
            f"{shown(text)} in {shown(condition)} is not a number, and may mean two things. Put blanks around the "
            f"+, - or *, or put the metric's name in quotes, as in champion.'top-5'."
        )
    return Bound(text, number, _name_in(match), match["sign"] or "")


def _parse_number(text: str) -> Decimal | None:
    try:
        return Decimal(text) if _NUMBER.fullmatch(text) else None
    except ArithmeticError:  # its exponent has more than 18 digits
        return None


def _combined(value: Decimal, bound: Bound) -> Decimal:
    return _COMBINE[bound.sign](_DECIMALS, value, bound.number) if bound.sign else value


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
            raise ConfigurationError(f"metrics cannot be read: {shown(given)} is neither JSON nor a Python literal.")
    if isinstance(metrics, Mapping):
        return metrics
    message = f"metrics must be a mapping such as {{'accuracy': 0.9}}, not {shown(metrics)}"
    if metrics is None:
        raise ConfigurationError(f"{message}. Did the task that returns them run, and return something?")
    if isinstance(metrics, Sequence) and not isinstance(metrics, str):
        raise ConfigurationError(
            f"{message}. A mapped task returns one value for each index: map the gate too, or put both into one mapped "
            f"task group."
        )
    raise ConfigurationError(f"{message}.")


def shown(value: Any) -> str:
    """Return a value for a message, or only its type where it may be long. A text that is cut could not be masked."""
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"a text of {len(value)} characters"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"{Decimal(value):.6e}"  # Python refuses to print more than 4,300 digits
    return repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def look_up(name: str, metrics: Mapping[str, Any]) -> Any:
    """Return a metric's value by its whole name, or else part by part; `MISSING` if there is none."""
    if name in metrics:
        return metrics[name]
    for dot in (index for index, character in enumerate(name) if character == "."):
        inner = metrics.get(name[:dot])
        if isinstance(inner, Mapping) and (value := look_up(name[dot + 1 :], inner)) is not MISSING:
            return value
    return MISSING


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
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
