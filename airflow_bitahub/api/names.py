"""Which names the platform accepts."""

from __future__ import annotations

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"  # names of Kubernetes objects (family)
LONGEST_SERVING_NAME = 49  # it becomes part of a host name: `{name}-testinference` (seed)
