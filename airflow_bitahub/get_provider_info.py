"""What Airflow reads about this provider."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, from which alone Airflow 3.3 builds the connection form."""

    def text(label: str, description: str, default: str | None = None) -> dict[str, Any]:
        schema = {"type": ["string", "null"], **({} if default is None else {"default": default})}
        return {"label": label, "description": description, "schema": schema}

    def secret(label: str, description: str) -> dict[str, Any]:
        schema = {"type": ["string", "null"], "format": "password"}
        return {"label": label, "description": description, "schema": schema}

    def choice(label: str, description: str, *values: str) -> dict[str, Any]:
        return {"label": label, "description": description, "schema": {"type": ["string", "null"], "enum": [*values]}}

    def flag(label: str, description: str, *, default: bool) -> dict[str, Any]:
        schema = {"type": ["boolean", "null"], "default": default}
        return {"label": label, "description": description, "schema": schema}

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
                        *("job", "train", "model", "infer", "evaluate", "gate", "serving", "rollback"),
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
                "python-modules": [f"airflow_bitahub.triggers.{name}" for name in ("job", "serving", "rollout")],
            }
        ],
        "task-decorators": [{"name": "bitahub", "class-name": "airflow_bitahub.decorators.bitahub.bitahub_task"}],
        "extra-links": ["airflow_bitahub.links.BitaHubJobLink", "airflow_bitahub.links.BitaHubServingLink"],
        "connection-types": [
            {
                "connection-type": "bitahub",
                "hook-class-name": "airflow_bitahub.hooks.bitahub.BitaHubHook",
                "hook-name": "BitaHub",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    "relabeling": {"host": "Address", "login": "User name", "password": "Token or password"},
                    "placeholders": {"host": "https://kubesphere.example.com", "password": "empty: no token is sent"},
                },
                "conn-fields": {
                    "auth": choice(
                        "Sign in with",
                        "bearer: a token. header: a token in the header 'token'. basic: user name and password. "
                        "kubesphere: user name and password, exchanged for tokens. Empty: bearer if there is a token.",
                        *("none", "bearer", "header", "basic", "kubesphere"),
                    ),
                    "client_id": text("Client id", "Only for kubesphere. Empty: kubesphere."),
                    "client_secret": secret("Client secret", "Only for kubesphere. Empty: kubesphere."),
                    "share_token": flag(
                        "Share tokens",
                        "Only for kubesphere: all workers and triggerers use the same tokens.",
                        default=True,
                    ),
                    "user_id": text("User id", "Part of every path on the platform, such as _2f1fe8d0..."),
                    "user_name": text("User name in paths", "Only if it differs from the login."),
                    "workspace": text("Workspace", "Part of the API's addresses.", "bitahub"),
                    "cluster": text("Cluster", "Part of the API's addresses.", "host"),
                    "job_namespace": text("Namespace of jobs", "Part of the API's addresses.", "bita-user"),
                    "serving_namespace": text("Namespace of servings", "Part of the API's addresses.", "inference"),
                    "storage_uri": text(
                        "Storage", "Where workers find the platform's storage, such as file:///mnt/bitahub."
                    ),
                    "default_image": text("Default image", "For tasks that set no image."),
                    "console_url": text("Console", "Address of a job's page, with {name} for the job's name."),
                },
            }
        ],
    }
