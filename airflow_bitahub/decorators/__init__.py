"""Decorators for `task`: a Python function that runs as a job."""
