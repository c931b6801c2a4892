"""The keys of the digests by which pages mask the secrets in jobs' logs. See `secret_digests`.

Digests are kept in Airflow's task state store, which is not encrypted. Without the key they allow no guesses. A key is
in an Airflow Variable, whose value Airflow encrypts, and masks because of its name.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from airflow.sdk import Variable

MASK_KEY = "bitahub_mask_secret."  # a Variable's key; the key's name follows

_DESCRIPTION = (
    "Lets the pages of BitaHub jobs mask secrets in logs. If it is deleted, they do not show the logs of earlier jobs."
)


class MaskKey(NamedTuple):
    """A key.

    :param name: what is stored beside digests
    """

    name: str
    value: bytes


def current_mask_key() -> MaskKey:
    """Return the key of this Airflow, which the first task that needs it makes.

    As with the markers of jobs, its name is a part of the Variable's key. If two first tasks make a key at the same
    time, both stay. Raises Airflow's own errors.
    """
    names = _names()
    if not names:
        Variable.set(MASK_KEY + secrets.token_hex(4), secrets.token_hex(32), description=_DESCRIPTION)
        names = _names()
    return mask_key(min(names))


def mask_key(name: str) -> MaskKey:
    """Return the key of a name. Raises Airflow's own errors, for example because there is none."""
    return MaskKey(name, bytes.fromhex(Variable.get(MASK_KEY + name)))


def _names() -> list[str]:
    return [key.removeprefix(MASK_KEY) for key in Variable.keys(prefix=MASK_KEY)]
