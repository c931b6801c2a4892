"""The rule of arrows: which part of the package may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from airflow_bitahub.get_provider_info import get_provider_info

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "airflow_bitahub"

# part -> the parts of this package it may import; a part is a module or a folder directly below the package.
# "operators.records" allows one module of a part, "hooks.DEFAULT_CONN_ID" one name of it.
ARROWS = {
    "__init__": set[str](),
    "texts": set[str](),
    "secret_digests": set[str](),
    "exceptions": {"texts"},
    "extras": {"exceptions"},
    "examples": {"exceptions"},
    "pages": {"texts"},
    "connection_form": set[str](),
    "metrics": {"api"},
    "get_provider_info": {"connection_form"},
    "links": set[str](),
    "assets": {"exceptions", "storage.paths", "hooks.DEFAULT_CONN_ID", "triggers"},
    "storage": {"exceptions", "texts"},
    "identity": {"exceptions", "storage"},
    "api": {"exceptions", "texts"},
    "procedures": {"exceptions", "texts", "identity", "api"},
    "proxies": {"exceptions"},
    "tls": {"exceptions"},
    "deadline": set[str](),
    "transport_errors": {"exceptions", "api", "proxies", "tls"},
    "client": {"exceptions", "api", "procedures.retry", "deadline", "proxies", "tls", "transport_errors"},
    "hooks": {
        *("exceptions", "texts", "storage", "api", "procedures.retry", "procedures.deployments", "client", "proxies"),
        "tls",
    },
    "triggers": {
        *("exceptions", "metrics", "identity", "storage", "api", "procedures", "client.adrive", "client.drive"),
        *("hooks", "secret_digests"),
    },
    "lineage": {"hooks"},
    "operators": {
        *("exceptions", "texts", "metrics", "identity", "storage", "api", "procedures", "hooks", "links", "triggers"),
        *("assets", "lineage", "secret_digests"),
    },
    "decorators": {"exceptions", "storage", "api", "procedures", "identity", "lineage", "operators"},
    "reports": {"exceptions", "procedures.deployments", "hooks", "operators.conditions"},
    "sensors": {"exceptions", "api", "procedures", "hooks", "triggers", "operators.failures", "operators.arguments"},
    "airflow_database": {
        *("exceptions", "identity", "procedures.deployments", "hooks.deployment_records", "operators.records"),
        "triggers.events",
    },
    "reaper": {"exceptions", "identity", "api", "procedures", "hooks", "triggers.events", "airflow_database"},
    "serving_reaper": {"exceptions", "api", "procedures", "hooks", "airflow_database"},
    "doctor": {
        *("exceptions", "storage", "api", "procedures", "client.BitaHubClient", "client.drive", "hooks"),
        "reaper.server_hook",
        "airflow_database.update_extra",
    },
    "ui": {
        *("exceptions", "texts", "pages", "storage", "identity", "api", "procedures", "hooks", "operators.records"),
        *("client.BitaHubClient", "airflow_database", "secret_digests"),
    },
    "emulator": {"exceptions", "extras", "examples", "texts", "pages", "api", "__init__"},
    "demo": {"exceptions", "extras", "examples", "storage", "hooks.DEFAULT_CONN_ID", "emulator", "__init__"},
    "cli": {
        "exceptions",
        "examples",
        "hooks.DEFAULT_CONN_ID",
        "emulator",
        "demo",
        "doctor",
        "reaper",
        "serving_reaper",
        "__init__",
    },
    "pytest_plugin": {"exceptions", "hooks.DEFAULT_CONN_ID", "emulator"},
}
# third-party packages that only some parts may import
WHOSE = {
    "httpx": {"client", "transport_errors", "deadline", "proxies", "tls", "emulator", "demo"},
    "aiohttp": {"client"},
    "airflow": {
        *("storage", "hooks", "links", "assets", "metrics", "triggers", "operators", "decorators", "sensors"),
        *("airflow_database", "lineage"),
        *("reaper", "reports", "doctor", "ui"),
    },
    "fastapi": {"emulator", "ui"},
    "jinja2": {"pages"},
    "starlette": {"emulator", "ui"},
    "uvicorn": {"emulator"},
    "attr": {"lineage"},
    "openlineage": {"lineage"},
    "pathspec": {"operators"},
    "pydantic": {"api", "operators", "emulator"},
}


@cache
def imports(file: Path) -> list[str]:
    """Return what a file imports, anywhere in it: ``a.b.c`` also for ``from a.b import c``."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return names


def part_of(name: str) -> str:
    """Return the part of this package that ``airflow_bitahub.x.y`` belongs to."""
    part = name.split(".")[1] if "." in name else "__init__"
    return "__init__" if part == "__version__" else part


SOURCES = sorted((REPOSITORY / PACKAGE).rglob("*.py"))
DAGS = sorted((REPOSITORY / "dags").glob("*.py"))
WORKLOADS = sorted((REPOSITORY / "dags" / "workloads").rglob("*.py"))


MODULES = [".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for file in SOURCES]


def part_of_file(file: Path) -> str:
    return file.relative_to(REPOSITORY / PACKAGE).parts[0].removesuffix(".py")


def name_of(file: Path) -> str:
    return str(file.relative_to(REPOSITORY))


def test_every_part_is_known() -> None:
    assert {part_of_file(file) for file in SOURCES} == set(ARROWS)


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_arrows_run_one_way(file: Path) -> None:
    part = part_of_file(file)
    for name in imports(file):
        if name.split(".")[0] == PACKAGE:
            target = part_of(name)
            allowed = {part, *ARROWS[part]}
            if any(f"{name}.".startswith(f"{PACKAGE}.{exact}.") for exact in allowed if "." in exact):
                continue
            assert target in allowed, f"{name_of(file)} must not import {name}"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_who_may_use_which_library(file: Path) -> None:
    for name in imports(file):
        library = name.split(".")[0]
        assert part_of_file(file) in WHOSE.get(library, {part_of_file(file)}), f"{name_of(file)} must not use {library}"


def test_the_arrows_have_no_circle() -> None:
    parts = {part: {target.split(".")[0] for target in targets} for part, targets in ARROWS.items()}
    assert_no_circle(parts)


def test_no_modules_import_each_other_not_even_for_types_or_inside_functions() -> None:
    graph = {}
    for module, file in zip(MODULES, SOURCES, strict=True):
        names = (name for name in imports(file) if name.split(".")[0] == PACKAGE)
        graph[module] = {name if name in MODULES else name.rpartition(".")[0] for name in names}
    assert_no_circle(graph)


def assert_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("file", WORKLOADS, ids=name_of)
def test_workloads_are_plain_programs(file: Path) -> None:
    assert not {name.split(".")[0] for name in imports(file)} & {"airflow", PACKAGE}


@pytest.mark.parametrize("file", DAGS, ids=name_of)
def test_dags_use_what_is_meant_for_dags(file: Path) -> None:
    used = {part_of(name) for name in imports(file) if name.split(".")[0] == PACKAGE}
    assert used <= {"operators", "decorators", "sensors", "hooks", "assets", "triggers", "reports"}


def test_there_are_files_to_look_at() -> None:
    assert SOURCES
    assert DAGS
    assert WORKLOADS


def test_what_airflow_loads_on_every_start_is_cheap() -> None:
    program = f"""
import sys
import {PACKAGE}.get_provider_info
print(*sorted({{name.split('.')[0] for name in sys.modules}} & {{'airflow', 'httpx', 'pydantic'}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_api_and_procedures_need_neither_airflow_nor_an_http_library() -> None:
    program = f"""
import sys
import {", ".join(name for name in MODULES if part_of(name) in ("api", "procedures", "identity"))}
print(*sorted({{name.split('.')[0] for name in sys.modules}} & {{'airflow', 'httpx', 'fastapi'}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_parsing_a_dag_loads_next_to_nothing() -> None:
    """Above Airflow's SDK: what only run time needs stays away, as do other parts of Airflow and all libraries."""
    for_dags = [
        name
        for kind in ("operators", "sensors")
        for entry in get_provider_info()[kind]
        for name in entry["python-modules"]
    ] + [entry["class-name"].rpartition(".")[0] for entry in get_provider_info()["task-decorators"]]
    program = f"""
import sys
import airflow.sdk
from airflow.sdk import DAG, BaseHook, BaseOperator, BaseOperatorLink, BaseSensorOperator, Variable, conf, task
before = set(sys.modules)
import {", ".join(for_dags)}
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()  # Airflow may have said something before
    ours = {name.split(".")[1] for name in loaded if name.startswith(f"{PACKAGE}.")}
    light = {
        "api",
        "assets",
        "decorators",
        "exceptions",
        "hooks",
        "identity",
        "links",
        "metrics",
        "operators",
        "procedures",
        "sensors",
        "storage",
        "texts",
        "triggers",
    }
    assert ours == light
    assert [name for name in loaded if name.startswith((f"{PACKAGE}.api.", f"{PACKAGE}.procedures."))] == [
        f"{PACKAGE}.api.names",
        f"{PACKAGE}.api.protocol",
        f"{PACKAGE}.procedures.retry",
    ]
    assert f"{PACKAGE}.hooks.bitahub" not in loaded
    assert [name for name in loaded if name.startswith(f"{PACKAGE}.triggers.")] == [f"{PACKAGE}.triggers.events"]
    others = [name for name in loaded if name.split(".")[0] != PACKAGE]
    assert others == ["airflow.sdk.definitions.retry_policy"]
