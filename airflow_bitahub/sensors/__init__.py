"""Sensors ask, and never stop anything."""
