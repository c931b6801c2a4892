"""Telling Airflow about a saved version or a deployment: the asset events of a task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_bitahub.operators.arguments import is_template

if TYPE_CHECKING:
    from airflow.sdk import Asset, BaseOperator, Context

    from airflow_bitahub.assets import BitaHubModel, BitaHubServing
    from airflow_bitahub.operators.base import BitaHubOperator

_LONGEST_KEY = 250  # of a partition, in Airflow's database


def declare(operator: BaseOperator, product: type[BitaHubModel | BitaHubServing], name: str, conn_id: str) -> None:
    """Add the asset to the task's outlets, for use in a constructor, so that Airflow shows it before the first event.

    Where the name is a template, and for mapped tasks, `announce` adds the asset when the task runs.
    """
    is_mapped = getattr(operator, "_BaseOperator__from_mapped", False)
    if not is_mapped and not is_template([name, conn_id]) and "{" not in name:
        _add(operator, product(name, conn_id).asset)


def announce(
    operator: BitaHubOperator,
    context: Context,
    product: type[BitaHubModel | BitaHubServing],
    details: Callable[[], Mapping[str, Any]],
) -> None:
    """Give the asset event of this task its extra. It never fails: what was saved or deployed is worth more.

    Only the last part of a deferred task may call this: Airflow forgets the events of the others.

    :param details: returns the extra, with the product's name under its kind
    """
    try:
        extra = json.loads(json.dumps(dict(details()), allow_nan=False))
        found = product(extra[product.kind], operator.bitahub_conn_id)
        _add(operator, found.asset)
        events = context["outlet_events"]
        events[found.asset].extra = extra
        _announce_partition(operator, events, found, extra)
    except Exception as error:
        operator.log.warning(
            "The task has done its work, but its asset event may have no details: %s: %s",
            type(error).__name__,
            error,
        )


def _announce_partition(operator: BitaHubOperator, events: Any, found: Any, extra: Mapping[str, Any]) -> None:
    """Give the event about this version its partition, where the task has the asset of all versions as an outlet."""
    versions: Asset | None = getattr(found, "versions", None)
    if versions is None or not _has(operator, versions):
        return
    version = extra.get("version")
    if not version or len(version) > _LONGEST_KEY:
        operator.log.warning(
            "The asset %s gets no event: version %r is no partition, which needs a name of at most %d characters",
            versions.name,
            version,
            _LONGEST_KEY,
        )
        operator.outlets = [outlet for outlet in operator.outlets if not _is_same(outlet, versions)]
        return
    events[versions].extra = events[found.asset].extra
    events[versions].add_partitions(version)


def _add(operator: BaseOperator, asset: Asset) -> None:
    if not _has(operator, asset):
        operator.outlets = [*operator.outlets, asset]


def _has(operator: BaseOperator, asset: Asset) -> bool:
    return any(_is_same(outlet, asset) for outlet in operator.outlets)


def _is_same(outlet: Any, asset: Asset) -> bool:
    return bool(getattr(outlet, "name", None) == asset.name)
