"""The dataset of an asset that begins with ``bitahub://``, for tasks that have it as an inlet or outlet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from airflow.sdk import Asset
    from openlineage.client.event_v2 import Dataset


def convert_asset(asset: Asset, lineage_context: Any) -> Dataset | None:  # noqa: ARG001
    """Return the dataset of an asset, named as the operators name it, for Airflow's OpenLineage provider.

    The asset has the connection's id, and the dataset the platform's address and the user. So the connection is looked
    up. Without it there is no dataset: one of another name would be a second one of the same model.
    """
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.lineage.facets import dataset
    from airflow_bitahub.lineage.names import Material

    uri = urlsplit(asset.uri)
    kind, _, rest = uri.path.lstrip("/").partition("/")
    name = unquote(rest.split("/")[0])  # "/versions" and "/watched" are about the same model
    hook = BitaHubHook(unquote(uri.netloc))
    match kind:
        case "models":
            return dataset(hook, Material(hook.folders.model(name)[0]))
        case "servings":
            return dataset(hook, Material(f"/servings/{name}"))
    return None
