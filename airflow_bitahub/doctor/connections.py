"""Where an Airflow connection comes from: only in Airflow's own database can it be changed."""

from __future__ import annotations

from contextlib import suppress


def origin_of(conn_id: str) -> str:
    """Return what the connection comes from, in words; "": Airflow's own database, where it can be changed."""
    from airflow.configuration import ensure_secrets_loaded
    from airflow.secrets.environment_variables import CONN_ENV_PREFIX, EnvironmentVariablesBackend
    from airflow.secrets.metastore import MetastoreBackend

    for backend in ensure_secrets_loaded():
        found = None
        with suppress(Exception):  # as Airflow itself does, go on with the next one
            found = backend.get_connection(conn_id=conn_id)
        if found is None:
            continue
        if isinstance(backend, EnvironmentVariablesBackend):
            return f"the environment variable {CONN_ENV_PREFIX}{conn_id.upper()}"
        return "" if isinstance(backend, MetastoreBackend) else f"the secrets backend {type(backend).__name__}"
    return "a place that Airflow's commands do not read"
