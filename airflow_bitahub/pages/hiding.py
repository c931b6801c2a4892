"""Hides secrets in what was sent to the platform: values whose names say that they are secret."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_SECRET = re.compile(r"access|api_?key|auth(?!or)|credential|passphrase|passw|private_?key|secret|token", re.IGNORECASE)
# In a shell line: TOKEN=value, --token=value or --token value. A variable such as $TOKEN is no secret.
_ASSIGNMENT = re.compile(r"""(--?([\w-]+)[=\s]\s*|\b(\w+)=)("[^"]*"|'[^']*'|[^\s;&|"'$]+)""")


def hide_secrets(value: Any, name: str = "") -> Any:
    """Return a JSON value with its secrets replaced.

    :param name: the name that the value has
    """
    if isinstance(value, dict):
        return {key: hide_secrets(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [hide_secrets(each, name) for each in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and _SECRET.search(name) else _ASSIGNMENT.sub(_hide_assignment, value)


def _hide_assignment(match: re.Match[str]) -> str:
    name = match[2] or match[3]
    return f"{match[1]}{HIDDEN}" if _SECRET.search(name) else match[0]
