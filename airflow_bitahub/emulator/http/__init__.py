"""The platform over HTTP: its routes, who may use them, and how the answers look."""
