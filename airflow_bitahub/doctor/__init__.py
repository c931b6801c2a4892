"""``airflow-bitahub doctor``: what of an installation works, and what to set in the connection so that it does."""
