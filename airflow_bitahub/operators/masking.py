"""Keeping secret arguments out of what Airflow shows and logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any

# A value in a shell line: `TOKEN=value`, `--token=value` or `--token value`. A variable such as $TOKEN is no secret.
_ASSIGNMENT = re.compile(r"""(?:--?([\w-]+)[=\s]\s*|\b(\w+)=)("[^"]*"|'[^']*'|[^\s;&|"'$]+)""")

_ENVIRONMENTS = ("envs", "secret_envs")  # arguments whose values become text in any case


def hide_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Let Airflow mask the secrets among rendered arguments by their value, and return the arguments to show.

    Secret is what has a name that Airflow takes for the name of a secret, such as ``API_TOKEN``: an argument, an entry
    of a mapping, or an assignment in a shell line. Airflow masks text only, so a secret number in an environment
    becomes text. Other numbers stay numbers: ``{"maxTokens": "5"}`` is not ``{"maxTokens": 5}`` to the platform.
    """
    from airflow.sdk._shared.secrets_masker import should_hide_value_for_key
    from airflow.sdk.log import mask_secret

    found: list[str] = []
    shown = {
        name: _collect(value, found, should_hide_value_for_key(name), is_environment=name in _ENVIRONMENTS)
        for name, value in fields.items()
    }
    if found:
        mask_secret(list(dict.fromkeys(found)))
    return shown


def masked_secrets_in(values: Iterable[Any]) -> set[str]:
    """Return the secrets that Airflow masks in this process and that some values contain."""
    from airflow.sdk._shared.secrets_masker import _secrets_masker

    texts = [text for value in values for text in _texts(value)]
    matches = (re.search(pattern, text) for pattern in _secrets_masker().patterns for text in texts)
    return {match[0] for match in matches if match}


def secrets_by_name(envs: Mapping[str, str], secret_envs: Mapping[str, str], commands: Iterable[str]) -> dict[str, str]:
    """Return the secret values among a program's environment and commands, by name. Equal names are numbered."""
    from airflow.sdk._shared.secrets_masker import should_hide_value_for_key

    found = dict(secret_envs)
    assigned = (pair for line in commands for pair in _assignments(line))
    for name, value in (*envs.items(), *assigned):
        if should_hide_value_for_key(name) and value not in found.values():
            number = next(each for each in count(1) if f"{name}#{each}" not in found) if name in found else 0
            found[f"{name}#{number}" if number else name] = value
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _collect(value: Any, found: list[str], is_secret: bool, *, is_environment: bool) -> Any:
    from airflow.sdk._shared.secrets_masker import should_hide_value_for_key

    if isinstance(value, Mapping):
        return {
            key: _collect(entry, found, is_secret or should_hide_value_for_key(key), is_environment=is_environment)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_collect(entry, found, is_secret, is_environment=is_environment) for entry in value]
    if is_secret and is_environment and isinstance(value, int | float):
        value = str(value)
    if isinstance(value, str):
        found += [value] if is_secret else _assigned_secrets(value, should_hide_value_for_key)
    return value


def _assigned_secrets(line: str, is_secret_name: Callable[[str], bool]) -> list[str]:
    """Return the secrets that a shell line contains."""
    return [value for name, value in _assignments(line) if is_secret_name(name)]


def _assignments(line: str) -> list[tuple[str, str]]:
    """Return the values that a shell line gives, by name."""
    assignments = ((match[1] or match[2], match[3].strip("'\"")) for match in _ASSIGNMENT.finditer(line))
    return [(name, value) for name, value in assignments if value]
