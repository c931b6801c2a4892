"""Run BitaHub jobs and servings from Apache Airflow."""

__version__ = "0.2.0"
