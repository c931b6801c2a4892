"""Operators decide what to submit, and what its end means for the task."""
