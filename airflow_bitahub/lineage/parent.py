"""A task's run as the parent of what its job tells OpenLineage itself: the environment variables that say so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)


def parent_variables(context: Context) -> dict[str, str]:
    """Return the environment variables; none where OpenLineage's Airflow provider is missing or off."""
    try:
        from airflow.providers.openlineage import conf

        if conf.is_disabled():
            return {}
        from airflow.providers.openlineage.plugins import macros

        ti = context["ti"]
        return {
            "OPENLINEAGE_PARENT_ID": macros.lineage_parent_id(ti),
            "OPENLINEAGE_ROOT_PARENT_ID": macros.lineage_root_parent_id(ti),
        }
    except ModuleNotFoundError:
        return {}
    except Exception as error:  # also of a provider that does not fit to this Airflow; the job is worth more
        log.warning("The job does not learn which OpenLineage run started it: %s: %s", type(error).__name__, error)
        return {}
