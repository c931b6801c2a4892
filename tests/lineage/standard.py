"""Whether an event is as the standard says: OpenLineage's Python client has a class for each schema of the standard.

The client's classes are generated from these schemas, which no package contains. Here they become schemas again.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Any

import attr
import jsonschema  # type: ignore[import-untyped]
from openlineage.client import generated
from openlineage.client.generated import base

from airflow_bitahub.lineage import facets

OWN = {facets.JOB_FACET: facets.BitaHubJobRunFacet, facets.METRICS_FACET: facets.BitaHubMetricsDatasetFacet}
_SIMPLE: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def check_event(event: Mapping[str, Any]) -> None:
    """Raise ValidationError if an event, or one of its facets, is not as the standard says."""
    _validator(base.RunEvent).validate(event)
    for key, facet in facets_in(event):
        kind = OWN.get(key) or _known_facets().get(facet["_schemaURL"])
        if kind is not None:  # Airflow has facets of its own
            _validator(kind).validate(facet)


def facets_in(event: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the facets of the run, the job and the datasets, with their keys."""
    for part in (event["run"], event["job"], *event.get("inputs", []), *event.get("outputs", [])):
        yield from part.get("facets", {}).items()


@cache
def _known_facets() -> dict[str, type[Any]]:
    """Return the classes of the standard's facets by the addresses of their schemas."""
    found: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules(generated.__path__, f"{generated.__name__}."):
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and issubclass(kind, base.BaseFacet) and kind.__module__ != base.__name__:
                found[kind._get_schema()] = kind
    return found


@cache
def _validator(kind: Any) -> Any:
    return jsonschema.Draft202012Validator(schema_of(kind), format_checker=jsonschema.FormatChecker())


@cache
def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a type."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(part) for part in parts]}
    if origin is list:
        return {"type": "array", "items": schema_of(parts[0])}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(parts[1])}
    if issubclass(kind, Enum):
        return {"enum": [each.value for each in kind]}
    hints = typing.get_type_hints(kind)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: schema_of(hints[field.name]) for field in attr.fields(kind)},
        # The client fills in those of the base facet itself, so they have a default there.
        "required": [
            field.name for field in attr.fields(kind) if field.default is attr.NOTHING or field.name in _FILLED_IN
        ],
        "additionalProperties": kind in vars(base).values(),
    }
    for name, form in _FORMATS.items():
        if name in schema["properties"]:
            schema["properties"][name] = {"type": "string", **form}
    return schema


_FILLED_IN = ("_producer", "_schemaURL", "producer", "schemaURL")
_FORMATS: dict[str, dict[str, str]] = {
    "runId": {"format": "uuid"},
    "eventTime": {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"},
    **{name: {"pattern": "^[a-z]+://."} for name in _FILLED_IN},
}
