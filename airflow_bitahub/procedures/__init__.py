"""Procedures put several calls in order. Each is a generator that is tested by stepping it, see `api.protocol`."""
