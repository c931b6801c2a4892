"""Masking secrets in a triggerer, which does not know them.

Airflow masks secrets by their value, which a worker learns when it fills in a task's templates, and a triggerer never.
A job may print the secrets that it was given. So a trigger is told a salted digest of each, by which it finds them in
what the job prints, without having them. A digest could be used to test guesses: Airflow stores arguments of triggers
encrypted.

A digest for each character of a line would hold up the triggerer. Few secrets contain blanks, so a secret without any
is only looked for in words that are long enough.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

_DIGEST_SIZE = 8  # bytes
_MASK = "***"  # as Airflow's own


def digests_of(values: Iterable[str]) -> dict[str, Any]:
    """Return the digests of secrets, as JSON: a salt, and the digests of those that are words, and of others.

    They are by their length in characters.
    """
    salt = secrets.token_bytes(8)
    found: dict[str, dict[str, list[str]]] = {"words": {}, "others": {}}
    for value in sorted({*values} - {""}):
        kind = "others" if re.search(r"\s", value) else "words"
        found[kind].setdefault(str(len(value)), []).append(_digest(value, salt))
    return {"salt": salt.hex(), **found} if any(found.values()) else {}


class SecretMask:
    """Masks the secrets in texts.

    :param known: what `digests_of` has returned
    """

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._salt = bytes.fromhex(known.get("salt", ""))
        # The longest first: a shorter one may be a part of it.
        self._digests = sorted(
            (
                (int(length), re.compile(rf"{character}{{{length},}}", re.DOTALL), {*all_})
                for kind, character in (("words", r"\S"), ("others", "."))
                for length, all_ in known.get(kind, {}).items()
            ),
            key=lambda each: each[0],
            reverse=True,
        )

    def hide(self, text: str) -> str:
        """Return a text without the secrets in it."""
        for length, places, digests in self._digests:
            text = places.sub(partial(self._hide, length, digests), text)
        return text

    def _hide(self, length: int, digests: set[str], found: re.Match[str]) -> str:
        text, position = found[0], 0
        while position + length <= len(text):
            if _digest(text[position : position + length], self._salt) in digests:
                text = f"{text[:position]}{_MASK}{text[position + length :]}"
                position += len(_MASK)
            else:
                position += 1
        return text


def _digest(value: str, salt: bytes) -> str:
    return hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=_DIGEST_SIZE, salt=salt).hexdigest()
