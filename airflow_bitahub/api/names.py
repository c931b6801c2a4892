"""Which names the platform accepts."""

from __future__ import annotations

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"  # names of Kubernetes objects (family)
LONGEST_SERVING_NAME = 49  # it becomes part of a host name: `{name}-testinference` (seed)
CANDIDATE_SUFFIX = "-next"  # of the name under which a new version of a serving is tried
LONGEST_DEPLOYED_NAME = LONGEST_SERVING_NAME - len(CANDIDATE_SUFFIX)
