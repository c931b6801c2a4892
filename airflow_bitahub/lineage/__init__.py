"""Lineage: what tasks read and write, in the words of OpenLineage. Imported only where its Airflow provider is on."""
