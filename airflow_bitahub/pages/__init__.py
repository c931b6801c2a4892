"""What all pages share, those of the emulator's console and those in the Airflow UI: style, language and formats."""
