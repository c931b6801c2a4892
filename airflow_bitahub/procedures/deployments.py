"""What this Airflow remembers of a serving: which versions it deployed, and a replacement that is under way."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

from airflow_bitahub.api.names import CANDIDATE_SUFFIX
from airflow_bitahub.api.servings import Serving, ServingSpec
from airflow_bitahub.exceptions import ConfigurationError

# Seconds between the creation of a serving and its entry in the record: the creation, and all queries about it.
LONGEST_CLAIM = 300
# A record keeps so many versions, the newest first.
_VERSIONS = 5
_STEPS = 20  # of a replacement, the latest
_PLACE = "<secret {}>"  # of a secret value on record
# Seconds by which the platform's clock may be behind ours, and which a creation may take.
_CLOCK_SKEW, _LONGEST_CREATION = 60, 600
# Seconds after the begin of a creation in which a serving that appears is ours, whatever the platform's clock says:
# long enough for the next try after a worker was lost.
_NEXT_TRY = 3600

Phase = Literal["candidate", "switch", "restore", "tidy"]
Placed = Literal["", "new", "old"]
StepName = Literal["candidate", "check", "switch", "verify", "restore", "tidy"]
# How a replacement has ended. ``deployed``: the new version serves; ``reverted``: likewise, and it is an earlier one
# that somebody went back to; ``rejected``: the candidate failed; ``restored``: the old version has the name again;
# ``failed``: no version works, or it is not known which; ``abandoned``: its task ended before anything was changed.
RolloutEnd = Literal["deployed", "reverted", "rejected", "restored", "failed", "abandoned"]


def candidate_name(name: str) -> str:
    """Return the name under which a new version of a serving is tried."""
    return name + CANDIDATE_SUFFIX


@dataclass(frozen=True)
class Owner:
    """The task instance that replaces a serving. A retry is the same owner."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int = -1

    @classmethod
    def of(cls, ti: Any) -> Owner:
        """Return a task instance as the owner."""
        return cls(ti.dag_id, ti.task_id, ti.run_id, -1 if ti.map_index is None else ti.map_index)

    def __str__(self) -> str:
        mapped = f" [{self.map_index}]" if self.map_index >= 0 else ""
        return f"task {self.task_id!r}{mapped} of {self.dag_id} {self.run_id}"


@dataclass(frozen=True)
class Version:
    """One specification of a serving that was deployed.

    :param digest: a short text that differs for different specifications
    :param spec: the body of its creation, with the names of secret values in their place
    :param withheld: these names
    :param metrics: what its model was deployed with, such as ``{"accuracy": 0.93}``
    :param run_date: the date of the DAG run that deployed it. All times are seconds since the epoch
    :param deployed_at: when it was seen to work
    :param deployed_by: the task instance in words
    :param is_withdrawn: it was rolled back from, so that a rollback does not lead to it; or it failed, and was left in
        its place since the one before could not be restored
    """

    digest: str
    spec: dict[str, Any]
    withheld: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    run_date: float | None = None
    deployed_at: float | None = None
    deployed_by: str = ""
    is_withdrawn: bool = False

    @property
    def model_path(self) -> str:
        """The server path of its model."""
        return str(self.spec.get("model", {}).get("path", ""))

    def __str__(self) -> str:
        return f"version {self.digest[:6]} ({self.model_path})"

    @classmethod
    def of(cls, spec: ServingSpec, secrets: Mapping[str, str], **fields: Any) -> Version:
        """Return the version of a specification.

        :param secrets: the secret values in its environment and its commands, by name
        """
        body = spec.body()
        text = json.dumps(body, sort_keys=True)
        by_value = {value: _PLACE.format(name) for name, value in secrets.items() if value}
        body["envs"] = {
            name: _PLACE.format(name) if value and value == secrets.get(name) else _replaced(value, by_value)
            for name, value in spec.envs.items()
        }
        body["commands"] = [_replaced(line, by_value) for line in spec.commands]
        kept = [*body["envs"].values(), *body["commands"]]
        names = sorted(name for name in secrets if any(_PLACE.format(name) in text for text in kept))
        return cls(hashlib.sha256(text.encode()).hexdigest()[:16], body, names, **fields)

    def to_spec(self, secrets: Mapping[str, str]) -> ServingSpec:
        """Return the specification.

        :param secrets: the secret values by name; others are ignored
        :raises ConfigurationError: a value is missing
        """
        if missing := [each for each in self.withheld if each not in secrets]:
            raise ConfigurationError(
                f"The {self} needs the secret values {', '.join(missing)}, which are kept nowhere. Give them in "
                f"secret_envs, so that this version can be deployed again."
            )
        by_place = {_PLACE.format(name): secrets[name] for name in self.withheld}
        envs = {name: _replaced(value, by_place) for name, value in self.spec["envs"].items()}
        commands = [_replaced(line, by_place) for line in self.spec["commands"]]
        return ServingSpec.model_validate({**self.spec, "envs": envs, "commands": commands})


def _replaced(text: str, new_by_old: Mapping[str, str]) -> str:
    """Return the text after all replacements, which are done at once: none is applied to what another one gave."""
    longest_first = sorted(new_by_old, key=len, reverse=True)
    if not longest_first:
        return text
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: new_by_old[found[0]], text)


@dataclass(frozen=True)
class Step:
    """A step of a replacement, for people to see how long each took. It ends when the next one begins.

    :param name: ``candidate``: the candidate starts; ``check``: it is asked; ``switch``: the new version gets the
        public name and starts there; ``verify``: it is asked and watched there; ``restore`` and ``tidy`` as in
        `Rollout.phase`
    :param at: when it began
    """

    name: StepName
    at: float


@dataclass(frozen=True)
class Rollout:
    """A replacement that is under way.

    :param owner: the task instance that does it
    :param until: when it has certainly ended, in case Airflow does not say how its owner is
    :param version: the new version
    :param phase: ``candidate``: the new version is tried beside the old one; ``switch``: it gets the public name;
        ``restore``: the old version gets the public name back; ``tidy``: only the candidate is left to remove
    :param candidate_created_at: the platform's time of creation of the candidate
    :param has_candidate: there is a candidate, and it is to be removed at the end
    :param replaces: there was a serving before, which can be restored
    :param in_place: the platform replaces the specification of the serving that exists
    :param was_updated: the specification was replaced in place in this replacement
    :param was_update_seen: the platform has listed replicas that change since then
    :param can_restore: the secret values of the old version are known
    :param placing: which version is being created under the public name
    :param placed: which version has certainly got the public name in this replacement; "": none yet
    :param step_at: when the version that is awaited was created
    :param ready_at: when the new version was first seen to answer under the public name
    :param away_since: since when the public name does not answer; None: it answers
    :param away_seconds: for how long it did not answer before
    :param previous: the version that served before, once the new one serves
    :param reason: why the old version is restored
    :param is_final: another try would end in the same way
    :param steps: what was done, in order
    """

    owner: Owner
    until: float
    version: Version
    phase: Phase = "candidate"
    candidate_created_at: float | None = None
    has_candidate: bool = False
    replaces: bool = False
    in_place: bool = False
    was_updated: bool = False
    was_update_seen: bool = False
    can_restore: bool = True
    placing: Placed = ""
    placed: Placed = ""
    step_at: float = 0
    ready_at: float | None = None
    away_since: float | None = None
    away_seconds: float = 0.0
    previous: Version | None = None
    reason: str = ""
    is_final: bool = False
    steps: list[Step] = field(default_factory=list)

    def steps_with(self, name: StepName, now: float) -> list[Step]:
        """Return the steps and one that begins now; a step that goes on is not listed again."""
        if self.steps and self.steps[-1].name == name:
            return self.steps
        return [*self.steps, Step(name, now)][-_STEPS:]


@dataclass(frozen=True)
class Deployment:
    """The record of a serving. The platform reports neither its model nor its image, so this is how it is known again.

    :param created_at: the platform's time of creation of the serving that is certainly ours
    :param since: when we began to create another one in its place; None: no creation is on its way
    :param exists: whether a serving is ours
    :param versions: the versions that were seen to work, the newest first; before them one that failed and was left
    :param rollout: the replacement that is under way
    """

    created_at: float | None = None
    since: float | None = None
    exists: bool = False
    versions: list[Version] = field(default_factory=list)
    rollout: Rollout | None = None

    @property
    def current(self) -> Version | None:
        """The version that has the name, and was not removed since."""
        return self.versions[0] if self.exists and self.versions else None

    @property
    def champion(self) -> Version | None:
        """The version that has the name, if it was seen to work."""
        return None if self.current is None or self.current.is_withdrawn else self.current

    def owns(self, found: Serving, now: float) -> bool:
        """Return whether the serving found now is ours."""
        return self._is_current(found) or self.is_successor(found, now)

    def is_successor(self, found: Serving, now: float) -> bool:
        """Return whether the serving found now is the one that is being created."""
        if self.since is None or self._is_current(found):
            return False
        return is_created_since(found.created_at, self.since, now)

    def _is_current(self, found: Serving) -> bool:
        return self.exists and is_same_time(found.created_at, self.created_at)

    def with_version(self, version: Version) -> Deployment:
        """Return the record after a version was seen to work."""
        others = [each for each in self.versions if each.digest != version.digest]
        return replace(self, versions=[version, *others][:_VERSIONS], rollout=None)


@dataclass(frozen=True)
class Intent:
    """A creation that is on its way, and that no record shows yet.

    :param name: the serving's name, or its candidate's; "": it is on record now
    :param since: when it began
    """

    owner: Owner
    name: str
    since: float

    def explains(self, found: Serving, now: float) -> bool:
        """Return whether this is how the serving found now came to be."""
        if found.name != self.name:
            return False
        if now - self.since <= LONGEST_CLAIM:
            return True
        return found.created_at is not None and -_CLOCK_SKEW <= found.created_at - self.since <= LONGEST_CLAIM


class Records(Protocol):
    """Where the record of one serving is kept."""

    def load(self) -> Deployment | None:
        """Return the record; None: there is none."""

    def save(self, record: Deployment) -> None:
        """Store the record."""

    def load_intent(self) -> Intent | None:
        """Return the creation that was last begun; None: there was none."""

    def save_intent(self, intent: Intent) -> None:
        """Store that a creation begins."""


def is_created_since(created_at: float | None, since: float, now: float) -> bool:
    """Return whether a serving found now may be the one whose creation we began at a time.

    There was no other serving of this name then, and the first one created takes the name. So one that appears soon is
    ours, also where the platform's clock is wrong. A lost answer to our own creation must not turn a stranger's
    serving, created much later, into ours; about that, only the platform's clock can tell.
    """
    if created_at is None or now - since <= _NEXT_TRY:
        return True
    return -_CLOCK_SKEW <= created_at - since <= _LONGEST_CREATION


def is_same_time(one: float | None, other: float | None) -> bool:
    """Return whether two times of creation may be the same. A platform may report none, or only after a while."""
    return one is None or other is None or one == other


def to_json(record: Deployment | Intent) -> dict[str, Any]:
    """Return the JSON value of a record."""
    return asdict(record)


def deployment_from_json(value: Any) -> Deployment:
    """Return the record from its JSON value.

    :raises ConfigurationError: the value is something else
    """
    try:
        rollout = value.get("rollout")
        return Deployment(
            value["created_at"],
            value["since"],
            value["exists"],
            [Version(**version) for version in value["versions"]],
            rollout and _rollout_from_json(rollout),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise _unreadable(value, error) from error


def _rollout_from_json(value: Any) -> Rollout:
    previous = value["previous"] and Version(**value["previous"])
    parts = {"owner": Owner(**value["owner"]), "version": Version(**value["version"]), "previous": previous}
    parts["steps"] = [Step(**step) for step in value.get("steps", ())]
    return Rollout(**{**value, **parts})


def intent_from_json(value: Any) -> Intent:
    """Return the intent from its JSON value. Raises ConfigurationError as `deployment_from_json` does."""
    try:
        return Intent(**{**value, "owner": Owner(**value["owner"])})
    except (TypeError, KeyError) as error:
        raise _unreadable(value, error) from error


def _unreadable(value: Any, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"Airflow's store contains {value!r} instead of the record of a serving ({error!r}).")
