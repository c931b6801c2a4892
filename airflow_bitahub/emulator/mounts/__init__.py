"""The folders that a program sees, at the paths it would have in a container."""
