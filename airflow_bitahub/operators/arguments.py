"""What the arguments of operators and sensors may be.

A check is a function of an argument's name and its value. It returns the value that the operator works with, or raises
ConfigurationError. An error names the argument, and shows no value that may be secret.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeAlias

from airflow_bitahub.api.names import DNS_LABEL
from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.storage.paths import Folders, path_part

Check: TypeAlias = Callable[[str, Any], Any]

_LARGEST = 2**31 - 1
_LONGEST_LIMIT = 10 * 366 * 86400.0  # ten years; dates that are much later do not exist in Python
_ANYONE = Folders("_user", "user")  # stands for the connection's user, whom nobody knows when a DAG is parsed


class CheckedArguments:
    """Checks its arguments when the DAG is parsed, as far as no template is involved, and all of them when it runs.

    It has no constructor: Airflow copies all of a DAG's params for every constructor among an operator's ancestors.
    """

    argument_checks: ClassVar[Mapping[str, Check]] = {}

    def check_arguments(self) -> None:
        """Raise ConfigurationError for a wrong argument, for use at the end of a constructor.

        A mapped task instance is constructed when it runs, before its job's record is loaded. Its arguments are read
        only afterwards, so that a wrong one can still stop the job that an earlier try submitted.
        """
        if getattr(self, "_BaseOperator__from_mapped", False):
            return
        for name, check in self.argument_checks.items():
            # A subclass's constructor sets its own arguments later, and then calls this again.
            if name in self.__dict__ and not is_template(value := self.__dict__[name]):
                check(name, value)
        self.check_combinations()

    def check_combinations(self) -> None:
        """Raise ConfigurationError for arguments that exclude each other, as far as they are known."""

    def read_arguments(self, *names: str) -> None:
        """Replace arguments by the values to work with: a number for text such as "3", None for "None", and so on.

        :param names: the arguments; default: all. A resumed task reads only those that it still needs: one that was
            needed for the submission must not cost the result of a finished job
        :raises ConfigurationError: one of them is wrong
        """
        for name in names or self.argument_checks:
            setattr(self, name, self.argument_checks[name](name, getattr(self, name)))
        self.check_combinations()


def is_template(value: Any) -> bool:
    """Return whether Airflow fills in the value, or a part of it, when the task runs."""
    if isinstance(value, str):
        return any(mark in value for mark in ("{{", "{%", "{#"))
    if isinstance(value, Mapping):
        return any(is_template(part) for item in value.items() for part in item)
    if isinstance(value, list | tuple | set | frozenset):
        return any(is_template(part) for part in value)
    return callable(value) or callable(getattr(value, "resolve", None))  # an upstream task's output, for example


def is_none(value: Any) -> bool:
    """Return whether an argument stands for nothing. Where a value is missing, Jinja writes the word None."""
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def kind_of(value: Any) -> str:
    """Return what kind of value this is, without showing any of it."""
    if value is None:
        return "None"
    kinds: tuple[tuple[Any, str], ...] = (
        (bool, "a boolean"),
        (int | float, "a number"),
        (str, "text"),
        (Mapping, "a mapping"),
        (bytes, "bytes"),
        (Sequence, "a list"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    """Return a number or a name as it is; for anything else, its kind."""
    return repr(value)[:100] if isinstance(value, str | int | float | timedelta) else kind_of(value)


# Checks --------------------------------------------------------------------------------------------------------


def optional(check: Check, default: Any = None) -> Check:
    """Return a check that takes None, "" and the word "None" for the default."""
    return lambda name, value: default if is_none(value) else check(name, value)


def as_text(name: str, value: Any) -> str:
    """Take text; a number becomes text."""
    if is_none(value):
        raise ConfigurationError(f"{name} is {value!r}, and cannot be left out. Did an upstream task return no value?")
    return _text(name, value)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigurationError(f"{name} must be text, not {kind_of(value)}.")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} contains half of a character (a lone surrogate).") from None
    return text


def as_env(name: str, value: Any) -> dict[str, str]:
    """Take a mapping of environment variables; numbers and booleans become text, as Jinja writes them."""
    for key, entry in as_mapping(name, value).items():
        if not isinstance(key, str) or not key or "=" in key:
            raise ConfigurationError(f"{name} must have names without '=', not {_shown(key)}.")
        if entry is None:
            raise ConfigurationError(f"{name}[{key!r}] is None. Did an upstream task return no value?")
    return {key: _text(f"{name}[{key!r}]", str(e) if isinstance(e, bool) else e) for key, e in value.items()}


def as_count(least: int = 1, most: int = _LARGEST) -> Check:
    """Return a check that takes a whole number within limits, also as text."""

    def check(name: str, value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = _number(value)  # Jinja's division writes "8192.0"
        is_whole = isinstance(number, int | float) and not isinstance(number, bool) and number % 1 == 0
        if not (is_whole and least <= number <= most):
            upper = "" if most == _LARGEST else f" and at most {most}"
            raise ConfigurationError(f"{name} must be a whole number of at least {least}{upper}, not {_shown(value)}.")
        return int(number)

    return check


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def as_seconds(name: str, value: Any) -> float:
    """Take a limit of time of more than 0 seconds, as a ``timedelta`` or a number of seconds."""
    return _seconds(name, value, "more than 0 seconds", lambda seconds: seconds > 0)


def as_seconds_or_zero(name: str, value: Any) -> float:
    """Take a limit of time of 0 seconds or more, as a ``timedelta`` or a number of seconds."""
    return _seconds(name, value, "0 seconds or more", lambda seconds: seconds >= 0)


def _seconds(name: str, value: Any, range_: str, is_in_range: Callable[[float], bool]) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ConfigurationError(f"{name} must be a timedelta or a number of seconds, not {_shown(value)}.")
    if not (is_in_range(seconds) and seconds <= _LONGEST_LIMIT):
        raise ConfigurationError(f"{name} must be {range_} and at most ten years, not {_shown(value)}.")
    return float(seconds)


def as_flag(name: str, value: Any) -> bool:
    """Take True or False. Text is refused, since "False" would count as true."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {_shown(value)}.")
    return value


def one_of(*words: str) -> Check:
    """Return a check that takes one of several words."""

    def check(name: str, value: Any) -> str:
        if value not in words:
            raise ConfigurationError(f"{name} must be {' or '.join(map(repr, words))}, not {_shown(value)}.")
        return str(value)

    return check


def as_dns_label(longest: int) -> Check:
    """Return a check that takes a name as Kubernetes has them."""

    def check(name: str, value: Any) -> str:
        text = as_text(name, value)
        if not re.fullmatch(DNS_LABEL, text) or len(text) > longest:
            raise ConfigurationError(
                f"{name} must have lower-case letters, digits and '-' only, begin and end with a letter or digit, and "
                f"have at most {longest} characters. {_shown(text)} has {len(text)}."
            )
        return text

    return check


def as_path_part(name: str, value: Any) -> str:
    """Take a name that can be one part of a path."""
    return path_part(name, as_text(name, value))


def as_model_name(name: str, value: Any) -> str:
    """Take a model's name, in which ``{user_id}`` and ``{user_name}`` may stand."""
    text = as_text(name, value)
    path_part(name, _ANYONE.fill(text))
    return text


def as_path(name: str, value: Any) -> str:
    """Take an absolute path without ``..``."""
    text = as_text(name, value)
    if not text.startswith("/") or ".." in text.split("/"):
        raise ConfigurationError(f"{name} must be an absolute path without '..', not {_shown(text)}.")
    return text


def as_dataset(name: str, value: Any) -> str | dict[str, str]:
    """Take a dataset's name, or any folder."""
    return _folder(name, value, _ANYONE.dataset)


def as_model(name: str, value: Any) -> str | dict[str, str]:
    """Take a model's name, the server path of one of its versions, or any folder."""
    return _folder(name, value, _ANYONE.model_mount)


def as_model_path(name: str, value: Any) -> str:
    """Take a model's name, or the server path of one of its versions."""
    return str(_folder(name, as_text(name, value), _ANYONE.model_mount))


def _folder(name: str, value: Any, by_name: Callable[[str], object]) -> str | dict[str, str]:
    if isinstance(value, Mapping):
        if set(value) != {"path", "mount_path"}:
            raise ConfigurationError(
                f"{name} must be a name, or have exactly 'path' and 'mount_path'. It has {sorted(map(str, value))}."
            )
        return {key: as_path(f"{name}[{key!r}]", value[key]) for key in ("path", "mount_path")}
    text = as_text(name, value)
    try:
        by_name(_ANYONE.fill(text))
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None
    return text


def as_list(check: Check) -> Check:
    """Return a check that takes a list of values that each pass another check."""

    def read(name: str, value: Any) -> list[Any]:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise ConfigurationError(f"{name} must be a list, not {kind_of(value)}.{_hint(value)}")
        return [check(f"{name}[{number}]", item) for number, item in enumerate(value)]

    return read


def as_mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """Take a mapping."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name} must be a mapping, not {kind_of(value)}.{_hint(value)}")
    return value


def _hint(value: Any) -> str:
    return (
        " A template gives text: pass the upstream task's output itself, or set render_template_as_native_obj=True."
        if isinstance(value, str)
        else ""
    )


def as_commands(name: str, value: Any) -> list[str]:
    """Take one shell line, or a list of at least one."""
    lines = [as_text(name, value)] if isinstance(value, str) else as_list(as_text)(name, value)
    if not lines:
        raise ConfigurationError(f"{name} must have at least one shell line.")
    return lines


def as_json(name: str, value: Any) -> Any:
    """Take a value that JSON has. What only behaves like a list or a mapping becomes one."""
    try:
        plain = _plain(value)
        json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        what = "a value that JSON does not have" if isinstance(error, ValueError) else str(error)
        raise ConfigurationError(f"{name} cannot be sent as JSON: {what}.") from None
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return [_plain(entry) for entry in value] if is_list else value


def as_metrics(name: str, value: Any) -> dict[str, Any]:
    """Take a mapping that can be stored as JSON. A metric may be NaN."""
    try:
        return dict(json.loads(json.dumps(_plain(as_mapping(name, value)))))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} cannot be stored as JSON: {error}.") from None


def as_extra_body(name: str, value: Any) -> dict[str, Any]:
    """Take fields of a job's submission other than its name."""
    fields = dict(as_mapping(name, value))
    if "jobName" in fields:
        raise ConfigurationError(f"{name} must be without jobName: the name is job_name.")
    return dict(as_json(name, fields))


# The fields of `api.jobs.TaskRole`, by the names that a DAG uses. That module is too expensive for parsing a DAG.
_ROLE_CHECKS: Mapping[str, Check] = {
    "task_role_name": as_dns_label(63),
    "task_number": as_count(),
    "image": optional(as_text),
    "command": optional(as_text),
    "cpu": as_count(),
    "memory_mb": as_count(),
    "shm_mb": optional(as_count(0)),
    "acc_device": optional(as_mapping),
    "min_failed_task_count": optional(as_count()),
    "min_succeeded_task_count": optional(as_count()),
}


def as_task_role(name: str, value: Any) -> dict[str, Any]:
    """Take the fields of one task role, without those that are not set."""
    fields = as_mapping(name, value)
    if unknown := [str(key) for key in fields if key not in _ROLE_CHECKS]:
        raise ConfigurationError(f"{name} has no field {', '.join(unknown)}. Its fields are {', '.join(_ROLE_CHECKS)}.")
    return {key: _ROLE_CHECKS[key](f"{name}.{key}", entry) for key, entry in fields.items()}
