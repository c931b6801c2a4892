"""What the doctor found: a table that grows while it works, and the extras to set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

WORKS, FAILS, SKIPPED, NOTE = "works", "FAILS", "skipped", "note"
_INDENT = " " * 10
_SECRET_WORDS = ("secret", "password", "token", "private_key")


class Report:
    """Prints what was found, line by line.

    :param out: where to print
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.failures = 0

    def say(self, text: str = "") -> None:
        """Print text."""
        print(text, file=self._out, flush=True)

    def row(self, outcome: str, what: str, detail: str = "") -> None:
        """Print a line of the table.

        :param outcome: `WORKS`, `FAILS`, `SKIPPED` or `NOTE`
        """
        self.failures += outcome == FAILS
        first, *others = detail.splitlines() or [""]
        self.say(f"  {outcome:8}{what:22}{first}".rstrip())
        for line in others:
            self.say(f"{_INDENT}{'':22}{line}")

    def extras(self, extras: Mapping[str, Any]) -> None:
        """Print extras as JSON, without the value of a secret."""
        shown = {key: "***" if any(word in key for word in _SECRET_WORDS) else value for key, value in extras.items()}
        for line in json.dumps(shown, indent=2, ensure_ascii=False).splitlines():
            self.say(f"  {line}")
