"""What Airflow's pages and the emulator's console share: style, templates, language, formats and charts."""
