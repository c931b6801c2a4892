"""Triggers wait: one event each."""
