"""Keeping secret arguments out of what Airflow shows and logs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from airflow_bitahub.texts import lines_of

log = logging.getLogger(__name__)

# A value in a shell line: `TOKEN=value`, `--token=value` or `--token value`. A variable such as $TOKEN is no secret.
_ASSIGNMENT = re.compile(r"""(?:--?([\w-]+)[=\s]\s*|\b(\w+)=)("[^"]*"|'[^']*'|[^\s;&|"'$]+)""")

_ENVIRONMENTS = ("envs", "secret_envs")  # arguments whose values become text in any case


def hide_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Let Airflow mask the secrets among rendered arguments by their value, and return the arguments to show.

    Secret is what has a name that Airflow takes for the name of a secret, such as ``API_TOKEN``: an argument, an entry
    of a mapping, or an assignment in a shell line. Airflow masks text only, so a secret number in an environment
    becomes text. Other numbers stay numbers: ``{"maxTokens": "5"}`` is not ``{"maxTokens": 5}`` to the platform.

    A log shows one line at a time. So the lines of a secret, such as a private key, are masked one by one, too, and the
    secrets in a JSON file. This goes for secrets that Airflow knew before, such as a connection's.
    """
    from airflow.sdk._shared.secrets_masker import should_hide_value_for_key
    from airflow.sdk.log import mask_secret

    found: list[str] = []
    shown = {
        name: _collect(value, found, should_hide_value_for_key(name), is_environment=name in _ENVIRONMENTS)
        for name, value in fields.items()
    }
    known = masked_secrets_in(fields.values())
    if parts := [*found, *(part for secret in (*found, *known) for part in _parts(secret))]:
        mask_secret(list(dict.fromkeys(parts)))
    return shown


class AirflowMask:
    """Masks the secrets that Airflow masks in this process. Airflow itself masks them in what is logged, uncut."""

    @property
    def longest(self) -> int:
        """At least the number of characters of the longest secret."""
        from airflow.sdk._shared.secrets_masker import _secrets_masker

        return max(map(len, _secrets_masker().patterns), default=0)

    def hide(self, text: str) -> str:
        """Return a line of text without the secrets in it."""
        from airflow.sdk._shared.secrets_masker import redact

        return str(redact(text))


def masked_secrets_in(values: Iterable[Any]) -> set[str]:
    """Return the secrets that Airflow masks in this process and that some values contain."""
    from airflow.sdk._shared.secrets_masker import _secrets_masker

    texts = [text for value in values for text in _texts(value)]
    matches = (re.search(pattern, text) for pattern in _secrets_masker().patterns for text in texts)
    return {match[0] for match in matches if match}


def digests_to_store(secrets: Iterable[str]) -> dict[str, Any]:
    """Return the digests of secrets, and the name of their key, see `mask_keys`; empty where there are no secrets."""
    from airflow_bitahub.hooks.mask_keys import current_mask_key
    from airflow_bitahub.secret_digests import digests_of

    found = [*secrets]
    if not found:
        return {}
    try:
        key = current_mask_key()
    except Exception as error:  # Airflow's own errors are of many kinds, and the job matters more
        log.warning(  # without the error's text, which may contain the key
            "The page of the job will not show its log, because the key to mask it could not be read or stored (%s)",
            type(error).__name__,
        )
        return {"key": ""}
    return {"key": key.name, **digests_of(found, key.value)}


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


def _parts(secret: str) -> list[str]:
    """Return what a program may print of a secret: its lines if it has several, and the secrets in JSON."""
    found: list[str] = []
    with suppress(ValueError, RecursionError):
        _collect(json.loads(secret), found, is_secret=False, is_environment=False)
    return [*found, *(line for each in (secret, *found) for line in lines_of(each))]


def _assigned_secrets(line: str, is_secret_name: Callable[[str], bool]) -> list[str]:
    """Return the secrets that a shell line contains."""
    return [value for name, value in _assignments(line) if is_secret_name(name)]


def _assignments(line: str) -> list[tuple[str, str]]:
    """Return the values that a shell line gives, by name."""
    assignments = ((match[1] or match[2], match[3].strip("'\"")) for match in _ASSIGNMENT.finditer(line))
    return [(name, value) for name, value in assignments if value]
