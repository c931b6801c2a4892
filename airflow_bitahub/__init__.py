"""Run BitaHub jobs and servings from Apache Airflow."""

__version__ = "0.1.0"
