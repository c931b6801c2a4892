"""From an Airflow connection to a client."""

DEFAULT_CONN_ID = "bitahub_default"  # here, since a DAG needs no more of the hooks to be parsed
