"""What the platform says: requests, answers and procedures as plain values. No I/O, no Airflow, no httpx."""
