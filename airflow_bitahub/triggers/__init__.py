"""Triggers wait for a job or a serving in the triggerer, and report once how that ended."""
