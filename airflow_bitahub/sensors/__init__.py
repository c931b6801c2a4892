"""Sensors query the platform, and never stop anything."""
