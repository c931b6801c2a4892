"""Where the tokens of a sign-in are kept: in an Airflow Variable that all workers and triggerers share.

Airflow encrypts its Variables, and masks this one because of its name. It contains tokens and no password.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace
from functools import cache
from typing import Any

from airflow.sdk import Variable

from airflow_bitahub.api.tokens import Session, session_from_json, session_to_json

log = logging.getLogger(__name__)

SESSION_KEY = "bitahub_token."  # a Variable's key; what identifies the platform and the user follows

_DESCRIPTION = "The BitaHub tokens that all workers and triggerers share. It may be deleted: they sign in again."


def mask(*secrets: str) -> None:
    """Let Airflow mask texts wherever they appear in logs. This may send a request to the supervisor."""
    from airflow.sdk.log import mask_secret

    for secret in filter(None, secrets):
        mask_secret(secret)


class ProcessSessions:
    """Keeps a session in this process."""

    name = ""
    settling = 0.0

    def __init__(self) -> None:
        self.known = Session()

    def load(self) -> Session:
        """Return the session that this process knows."""
        return self.known

    def save(self, session: Session) -> bool:
        """Keep a session, after Airflow has learned to mask its tokens. Return whether all who share it see it."""
        self._mask(session)
        self.known = session
        return True

    def _mask(self, session: Session) -> None:
        if session.access_token != self.known.access_token:
            mask(session.access_token, session.refresh_token)


class VariableSessions(ProcessSessions):
    """Keeps a session in an Airflow Variable; where that fails, in this process.

    :param name: the Variable's key
    """

    settling = 0.5

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._failed = ""  # what failed last, and how

    def load(self) -> Session:
        """Return the session in the Variable; what cannot be read is the one that this process knows."""
        try:
            stored: Any = Variable.get(self.name, default=None, deserialize_json=True)
            session = self.known if stored is None else session_from_json(stored)
        except Exception as error:  # whatever it is: a sign-in replaces it
            self._warn("read", error)
            return self.known
        # What this process has been refused stays refused, also after somebody has deleted the Variable.
        refused = tuple(dict.fromkeys((*session.refused, *self.known.refused)))
        session = replace(session, refused=refused)
        self._mask(session)
        self.known = session
        return session

    def save(self, session: Session) -> bool:
        """Keep a session in this process, and in the Variable. Return whether the latter succeeded."""
        super().save(session)
        try:
            _variables().set(self.name, session_to_json(session), description=_DESCRIPTION, serialize_json=True)
        except Exception as error:  # such as a place where Airflow allows no changes
            self._warn("changed", error)
            return False
        return True

    def _warn(self, what: str, error: Exception) -> None:
        # Without the error's text, which may contain the value.
        failed = f"{what} ({type(error).__name__})"
        if failed != self._failed:
            self._failed = failed
            log.warning("The Airflow Variable %r cannot be %s: this process signs in by itself", self.name, failed)


def _variables() -> Any:
    """Return what changes Variables where this process runs: Airflow's servers and commands do so in its database."""
    if os.environ.get("_AIRFLOW_PROCESS_CONTEXT") != "server":
        return Variable
    from airflow.models.variable import Variable as StoredVariable

    return StoredVariable


@cache
def sessions_of(base_url: str, user: str, client_id: str, *, shared: bool) -> ProcessSessions:
    """Return where this process keeps the tokens of a user on one platform.

    :param shared: all workers and triggerers share them
    """
    identity = hashlib.sha256("\n".join((base_url, user, client_id)).encode()).hexdigest()[:16]
    return VariableSessions(SESSION_KEY + identity) if shared else ProcessSessions()
