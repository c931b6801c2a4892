"""Runs jobs and servings as processes of this machine."""
