"""What Airflow reads about the provider."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import airflow
import jsonschema  # type: ignore[import-untyped]
import pytest
from airflow._shared.secrets_masker import should_hide_value_for_key

import airflow_bitahub
from airflow_bitahub.get_provider_info import get_provider_info
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.settings import _EXTRAS, AUTHS, WATCH_MODES, Settings

INFO = get_provider_info()
CONNECTION = INFO["connection-types"][0]


def test_it_fits_airflows_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text("utf-8"))
    jsonschema.validate(INFO, schema)


def test_airflow_finds_it_under_the_distributions_name() -> None:
    installed = distribution(INFO["package-name"])
    (entry,) = installed.entry_points.select(group="apache_airflow_provider")
    assert entry.load() is get_provider_info
    assert installed.version == airflow_bitahub.__version__


@pytest.mark.parametrize("kind", ["hooks", "operators", "sensors", "triggers"])
def test_every_module_it_names_exists_and_none_with_a_class_is_missing(kind: str) -> None:
    named = {name for entry in INFO[kind] for name in entry["python-modules"]}
    package = importlib.import_module(f"airflow_bitahub.{kind}")
    found = {f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)}
    assert named <= found
    for name in found - named:
        module = importlib.import_module(name)
        public = [value for key, value in vars(module).items() if re.match(r"BitaHub\w+(Operator|Trigger)$", key)]
        assert not [cls for cls in public if cls.__module__ == name], f"{name} is not named"


def test_every_link_it_names_exists() -> None:
    for path in INFO["extra-links"]:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_the_connection_type_is_the_hooks() -> None:
    assert CONNECTION["connection-type"] == BitaHubHook.conn_type
    assert CONNECTION["hook-class-name"] == f"{BitaHubHook.__module__}.{BitaHubHook.__name__}"
    assert CONNECTION["hook-name"] == BitaHubHook.hook_name


def test_every_extra_that_people_need_has_a_field() -> None:
    assert BitaHubHook.__doc__ is not None
    described = set(re.findall(r"``(\w+)``", BitaHubHook.__doc__))
    assert set(_EXTRAS) <= described
    # `connection_form` says why not these.
    without = {"endpoints", "status_words", "error_codes", "query_parameters", "share_token"}
    assert set(CONNECTION["conn-fields"]) == set(_EXTRAS) - without


def test_a_fields_default_is_the_one_that_is_used() -> None:
    defaults = {
        name: field["schema"]["default"]
        for name, field in CONNECTION["conn-fields"].items()
        if "default" in field["schema"]
    }
    hook = BitaHubHook.__new__(BitaHubHook)
    hook.settings = Settings("https://host", "token", "", {"auth": "kubesphere"}, "ann")
    client = hook.new_client()
    used = {**vars(client.platform), **vars(client._auth)["_client"], "request_timeout": client._timeout}
    used["max_requests_per_second"] = 1000  # in triggers/watch
    used["preflight"] = True  # in operators/preflight
    assert defaults == {name: used[name] for name in defaults}


def test_no_field_of_the_form_must_be_filled_in() -> None:
    for described in CONNECTION["conn-fields"].values():
        assert "null" in described["schema"]["type"]


def test_what_can_be_chosen_is_what_is_allowed() -> None:
    def choices(name: str) -> set[str]:
        return set(CONNECTION["conn-fields"][name]["schema"]["enum"])

    assert (choices("auth"), choices("watch")) == (set(AUTHS), set(WATCH_MODES))


def test_airflow_masks_the_secrets_of_the_form_and_nothing_that_has_a_default() -> None:
    for name, field in CONNECTION["conn-fields"].items():
        is_secret = field["schema"].get("format") == "password"
        assert should_hide_value_for_key(name) == is_secret, name
        assert not (is_secret and "default" in field["schema"]), name


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow's connection form is built from; in a process of its own, since Airflow fakes modules for it."""
    program = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
print(json.dumps([hook.model_dump(mode="json") for hook in HookMetaService.hook_meta_data()]))
"""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    hooks: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    (form,) = [hook for hook in hooks if hook["connection_type"] == "bitahub"]
    return form


def test_the_form_in_airflows_ui(form: dict[str, Any]) -> None:
    assert form["hook_name"] == "BitaHub"
    assert form["standard_fields"]["url_schema"]["hidden"] is True
    assert form["standard_fields"]["host"]["title"] == "Address"
    assert form["standard_fields"]["password"]["title"] == "Password or token"
    assert list(form["extra_fields"]) == list(CONNECTION["conn-fields"])
    assert form["extra_fields"]["workspace"]["value"] == "bitahub"
    assert form["extra_fields"]["user_id"]["value"] is None
    assert form["extra_fields"]["user_id"]["schema"]["section"] == "User, storage and images"
