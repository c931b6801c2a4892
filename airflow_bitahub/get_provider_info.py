"""What Airflow reads about this provider."""

from __future__ import annotations

from typing import Any

from airflow_bitahub.connection_form import EXTRA_FIELDS, STANDARD_FIELDS


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, from which alone Airflow 3.3 builds the connection form."""
    return {
        "package-name": "airflow-bitahub",
        "name": "BitaHub",
        "description": "Train, save, evaluate and serve models on the BitaHub AI computing platform.",
        "integrations": [
            {"integration-name": "BitaHub", "external-doc-url": "https://www.bitahub.com", "tags": ["service"]}
        ],
        "hooks": [{"integration-name": "BitaHub", "python-modules": ["airflow_bitahub.hooks.bitahub"]}],
        "operators": [
            {
                "integration-name": "BitaHub",
                "python-modules": [
                    f"airflow_bitahub.operators.{name}"
                    for name in (
                        *("job", "train", "model", "infer", "evaluate", "best", "gate", "serving", "rollback"),
                        *("stop", "start", "scale", "delete", "invoke"),
                    )
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "BitaHub",
                "python-modules": ["airflow_bitahub.sensors.job", "airflow_bitahub.sensors.serving"],
            }
        ],
        "triggers": [
            {
                "integration-name": "BitaHub",
                "python-modules": [
                    f"airflow_bitahub.triggers.{name}" for name in ("job", "serving", "rollout", "model", "job_event")
                ],
            }
        ],
        "task-decorators": [{"name": "bitahub", "class-name": "airflow_bitahub.decorators.bitahub.bitahub_task"}],
        "extra-links": [
            f"airflow_bitahub.links.{name}" for name in ("BitaHubJobLink", "BitaHubServingLink", "BitaHubModelLink")
        ],
        "asset-uris": [
            {
                "schemes": ["bitahub"],
                "handler": "airflow_bitahub.assets.sanitize_uri",
                "to_openlineage_converter": "airflow_bitahub.lineage.asset_names.convert_asset",
            }
        ],
        "connection-types": [
            {
                "connection-type": "bitahub",
                "hook-class-name": "airflow_bitahub.hooks.bitahub.BitaHubHook",
                "hook-name": "BitaHub",
                "ui-field-behaviour": STANDARD_FIELDS,
                "conn-fields": EXTRA_FIELDS,
            }
        ],
    }
