"""Masking secrets in a process which does not know them: a triggerer, or the server of the pages.

Airflow masks secrets by their value, which a worker learns when it fills in a task's templates, and other processes
never. A job may print the secrets that it was given. So other processes are told a salted digest of each, by which they
find them in what the job prints, without having them.

A digest could be used to test guesses. So digests are only where Airflow encrypts them, as it does with the arguments
of triggers, or are made with a key which is stored encrypted.

A digest for each character of a line would hold up the triggerer. Few secrets contain blanks, so a secret without any
is only looked for in words that are long enough. And a checksum of one byte tells most other texts from a secret.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

_DIGEST_SIZE = 8  # bytes
_MASK = "***"  # as Airflow's own


def digests_of(values: Iterable[str], key: bytes = b"") -> dict[str, Any]:
    """Return the digests of secrets, as JSON: a salt, and the digests of those that are words, and of others.

    They are sorted by the secrets' lengths in characters. Each entry begins with the digest of a one-byte checksum. The
    plain checksum would help somebody who guesses. A secret of several lines has no digest, since a mask is given one
    line at a time.

    :param key: who reads the digests, but does not have this key, cannot test guesses; empty: there is no key
    """
    salt = secrets.token_bytes(8)
    found: dict[str, dict[str, list[str]]] = {"words": {}, "others": {}}
    for value in sorted({*values} - {""}):
        if "\n" not in value and "\r" not in value:
            kind = "others" if re.search(r"\s", value) else "words"
            entry = _digest(chr(_checksum(value)), salt, key, 1) + _digest(value, salt, key)
            found[kind].setdefault(str(len(value)), []).append(entry)
    return {"salt": salt.hex(), **found} if any(found.values()) else {}


class SecretMask:
    """Masks the secrets in texts.

    :param known: what `digests_of` has returned
    :param key: what it was given
    :ivar longest: the number of characters of the longest secret
    """

    def __init__(self, known: Mapping[str, Any], key: bytes = b"") -> None:
        self._key = key
        self._salt = bytes.fromhex(known.get("salt", ""))
        checksums: dict[str, set[int]] = {}  # by their digests
        for each in range(256 if known else 0):
            checksums.setdefault(_digest(chr(each), self._salt, key, 1), set()).add(each)
        # The longest first: a shorter one may be a part of it.
        self._digests = sorted(
            (
                (
                    int(length),
                    re.compile(rf"{character}{{{length},}}", re.DOTALL),
                    {each[2:] for each in all_},
                    {number for each in all_ for number in checksums.get(each[:2], ())},
                )
                for kind, character in (("words", r"\S"), ("others", "."))
                for length, all_ in known.get(kind, {}).items()
            ),
            key=lambda each: each[0],
            reverse=True,
        )
        self.longest = self._digests[0][0] if self._digests else 0

    def hide(self, text: str) -> str:
        """Return a text without the secrets in it."""
        for length, places, digests, checksums in self._digests:
            text = places.sub(partial(self._hide, length, digests, checksums), text)
        return text

    def _hide(self, length: int, digests: set[str], checksums: set[int], found: re.Match[str]) -> str:
        text, parts, end = found[0], [], 0
        sums = [0, *accumulate(map(ord, text))]
        pairs = enumerate(zip(sums, sums[length:], strict=False))
        for position in [at for at, (before, after) in pairs if (after - before) & 0xFF in checksums]:
            part = text[position : position + length]
            if position >= end and _digest(part, self._salt, self._key) in digests:
                parts += [text[end:position], _MASK]
                end = position + length
        return "".join([*parts, text[end:]])


def _checksum(value: str) -> int:
    return sum(map(ord, value)) & 0xFF


def _digest(value: str, salt: bytes, key: bytes, size: int = _DIGEST_SIZE) -> str:
    return hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=size, salt=salt, key=key).hexdigest()
