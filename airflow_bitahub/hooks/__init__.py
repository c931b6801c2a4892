"""Hooks connect: from an Airflow connection to a client."""

DEFAULT_CONN_ID = "bitahub_default"  # here, since parsing a DAG needs nothing else of the hooks
