"""What the Airflow UI shows of this package: a plugin, and the pages that it serves from Airflow's api-server."""
