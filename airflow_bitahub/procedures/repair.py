"""Ending a deployment that its task does not end: the task was killed, marked or timed out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.protocol import Procedure
from airflow_bitahub.api.servings import Serving, probe_serving
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError
from airflow_bitahub.procedures.deployments import Owner, RolloutEnd
from airflow_bitahub.procedures.servings import end_serving
from airflow_bitahub.procedures.site import Site, find_serving


def repair(site: Site, secrets: Mapping[str, str]) -> Procedure[str]:
    """End a replacement whose task has ended, and return in words what became of it.

    The candidate is removed. A new version that was checked, and that answers under the public name, stays.
    Otherwise the old version gets the name back; whether it answers is not waited for.

    :param secrets: the secret values, in case the old version must be created again
    :raises ConfigurationError: one of them is missing
    """
    rollout = site.record.rollout
    if rollout is None:
        return "there was nothing to end"
    yield from site.remove_candidate()
    end, record = "nothing was changed", site.record
    outcome: RolloutEnd = "deployed" if rollout.phase == "tidy" else "abandoned"
    if rollout.phase not in ("candidate", "tidy"):
        # In a process that is about to be killed, there is no time for a second look.
        found = yield from site.find(None if site.may_recreate else 0)
        if found is not None and not site.record.owns(found, site.clock()):
            end, record = "someone else has taken the name", replace(site.record, exists=False, since=None)
            outcome = "failed"
        elif found is not None and (yield from _has_proved_itself(site, found)):
            end = f"the {rollout.version} was checked and serves"
            record = record.with_version(replace(rollout.version, deployed_at=site.clock(), is_withdrawn=False))
            outcome = "deployed"
        elif rollout.replaces:
            try:
                end = yield from put_back(site, secrets)
                record, outcome = site.record, "restored"
            except ConfigurationError:
                if rollout.can_restore:  # a task that knows the secret values may still come
                    raise
                end, record, outcome = "the name was left as it is", site.left_in_place(found), "failed"
        else:
            end = yield from clear(site)
            record, outcome = site.record, "failed"
    site.end(outcome, record)
    return f"{end}, and the candidate was removed" if rollout.has_candidate else end


def abandon(site: Site, owner: Owner, secrets: Mapping[str, str], grace: float = 0) -> Procedure[str]:
    """End what a task instance has under way, see `repair`; also a creation that is not yet on record.

    :param grace: seconds to wait for a serving whose creation may still be on its way
    """
    rollout = site.load().rollout
    if rollout is not None:
        return (yield from repair(site, secrets)) if rollout.owner == owner else "another task deploys it now"
    if (intent := site.creation_of(owner)) is None:
        return "there was nothing to end"
    found = yield from find_serving(intent.name, site.version, site.clock, grace=grace)
    if found is None or not intent.explains(found, site.clock()):
        return "nothing had been created"
    if found.name == site.name and site.record.owns(found, site.clock()):
        return "nothing had been created"  # it is the old version
    yield from end_serving(found, site.version, timeout=site.timeout, clock=site.clock)
    return f"serving {intent.name!r} was removed"


def put_back(site: Site, secrets: Mapping[str, str]) -> Procedure[str]:
    """Give the public name back to the version on record, and return in words what was done."""
    old = site.record.versions[0]
    yield from site.put(lambda: old.to_spec(secrets), "old")
    return f"the {old} has the name again"


def clear(site: Site) -> Procedure[str]:
    """Remove the serving of the public name if it is ours, and return in words what was done."""
    found = yield from site.find()
    if found is not None and site.record.owns(found, site.clock()):
        yield from end_serving(found, site.version, timeout=site.timeout, clock=site.clock)
    site.save(replace(site.record, exists=False, since=None, created_at=None))
    return "it was removed"


def _has_proved_itself(site: Site, found: Serving) -> Procedure[bool]:
    """Return whether the new version was checked, here or as a candidate, and answers under the public name."""
    rollout = site.rollout
    if rollout.phase != "switch" or rollout.placed != "new":
        return False
    if rollout.ready_at is None and (not rollout.has_candidate or found.busy_pods):
        return False
    try:
        return found.status is ServingStatus.RUNNING and (yield from probe_serving(found))
    except BitaHubError:
        return False
