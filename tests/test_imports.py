"""The rule of arrows: which part of the package may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "airflow_bitahub"

# part -> the parts of this package it may import; a part is a module or a folder directly below the package
ARROWS = {
    "__init__": set[str](),
    "exceptions": set[str](),
    "extras": {"exceptions"},
    "get_provider_info": set[str](),
    "storage": {"exceptions"},
    "identity": {"exceptions", "storage"},
    "api": {"exceptions", "identity"},
    "client": {"exceptions", "api"},
    "hooks": {"exceptions", "identity", "storage", "api", "client"},
    "links": set[str](),
    "triggers": {"exceptions", "api", "hooks"},
    "operators": {"exceptions", "identity", "storage", "api", "hooks", "links", "triggers"},
    "sensors": {"exceptions", "api", "hooks", "triggers", "operators.failures"},
    "emulator": {"exceptions", "extras", "api.jobs", "api.platform", "api.servings", "__init__"},
    "demo": {"exceptions", "extras", "storage", "emulator", "__init__"},
    "reaper": {"exceptions", "identity", "api", "hooks"},
    "cli": {"exceptions", "emulator", "demo", "reaper", "__init__"},
    "pytest_plugin": {"exceptions", "emulator"},
}
# third-party packages that only some parts may import
WHOSE = {
    "httpx": {"client", "emulator", "demo"},
    "aiohttp": {"client"},
    "airflow": {"storage", "hooks", "links", "triggers", "operators", "sensors", "reaper"},
    "fastapi": {"emulator"},
    "starlette": {"emulator"},
    "uvicorn": {"emulator"},
    "pydantic": {"api", "operators", "emulator"},
}


def imports(file: Path) -> Iterator[str]:
    """Give what a file imports, wherever in it: ``a.b.c`` also for ``from a.b import c``."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str:
    """Give the part of this package that ``airflow_bitahub.x.y`` belongs to."""
    part = name.split(".")[1] if "." in name else "__init__"
    return "__init__" if part == "__version__" else part


SOURCES = sorted((REPOSITORY / PACKAGE).rglob("*.py"))
DAGS = sorted((REPOSITORY / "dags").glob("*.py"))
WORKLOADS = sorted((REPOSITORY / "dags" / "workloads").rglob("*.py"))


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
            if any(name.startswith(f"{PACKAGE}.{exact}.") for exact in allowed if "." in exact):
                continue
            assert target in allowed, f"{name_of(file)} must not import {name}"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_who_may_use_which_library(file: Path) -> None:
    for name in imports(file):
        library = name.split(".")[0]
        assert part_of_file(file) in WHOSE.get(library, {part_of_file(file)}), f"{name_of(file)} must not use {library}"


def test_the_arrows_have_no_cycle() -> None:
    order: list[str] = []
    left = {part: {target.split(".")[0] for target in targets} for part, targets in ARROWS.items()}
    while left:
        free = sorted(part for part, targets in left.items() if targets <= set(order))
        assert free, f"a cycle among {sorted(left)}"
        order += free
        left = {part: targets for part, targets in left.items() if part not in free}


@pytest.mark.parametrize("file", WORKLOADS, ids=name_of)
def test_workloads_are_plain_programs(file: Path) -> None:
    assert not {name.split(".")[0] for name in imports(file)} & {"airflow", PACKAGE}


@pytest.mark.parametrize("file", DAGS, ids=name_of)
def test_dags_use_what_is_meant_for_dags(file: Path) -> None:
    used = {part_of(name) for name in imports(file) if name.split(".")[0] == PACKAGE}
    assert used <= {"operators", "sensors", "hooks"}


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


def test_the_api_needs_neither_airflow_nor_an_http_library() -> None:
    program = f"""
import sys
import {PACKAGE}.api.procedures, {PACKAGE}.identity
print(*sorted({{name.split('.')[0] for name in sys.modules}} & {{'airflow', 'httpx', 'fastapi'}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_parsing_a_dag_loads_next_to_nothing() -> None:
    """Above Airflow's SDK: what only run time needs stays away, as do other parts of Airflow and all libraries."""
    modules = [".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in SOURCES]
    program = f"""
import sys
import airflow.sdk
from airflow.sdk import DAG, BaseHook, BaseOperator, BaseOperatorLink, BaseSensorOperator, Variable, conf
before = set(sys.modules)
import {", ".join(name for name in modules if name.split(".")[1] in ("operators", "sensors"))}
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()  # Airflow may have said something before
    ours = {name.split(".")[1] for name in loaded if name.startswith(f"{PACKAGE}.")}
    assert ours == {"exceptions", "hooks", "links", "operators", "sensors", "triggers"}
    assert f"{PACKAGE}.hooks.bitahub" not in loaded
    assert [name for name in loaded if name.startswith(f"{PACKAGE}.triggers.")] == [f"{PACKAGE}.triggers.report"]
    others = [name for name in loaded if name.split(".")[0] != PACKAGE]
    assert others == ["airflow.sdk.bases.skipmixin", "airflow.sdk.definitions.retry_policy"]
