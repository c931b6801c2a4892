"""What pyproject.toml declares, what is imported, what the wheel and the sdist hold, and that they can be installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub import __version__
from airflow_bitahub.extras import MODULES
from tests.test_imports import DAGS, PACKAGE, REPOSITORY, SOURCES, imports, name_of, part_of_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
# part -> the extra it needs; all other parts must do with what is required
EXTRAS = {"emulator": "emulator", "demo": "demo", "client": "aiohttp"}
# What loads a module is there when the module runs.
LOADERS = {"pytest_plugin": "pytest", "lineage": "apache-airflow-providers-openlineage"}
# module -> the distribution it comes with, where their names differ
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "airflow": "apache-airflow"}
DISTRIBUTIONS |= {"griffe": "griffelib", "xdist": "pytest-xdist"}
# Airflow's provider brings OpenLineage's client and what that is made of.
DISTRIBUTIONS |= dict.fromkeys(("attr", "openlineage"), LOADERS["lineage"])
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))


def name_in(requirement: str) -> str:
    """Return the distribution that a requirement names: ``httpx`` of ``httpx>=0.28``."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def declared(extra: str | None = None) -> set[str]:
    """Return the distributions that are required, and those of an extra."""
    names = {name_in(requirement) for requirement in PROJECT["dependencies"]}
    if extra is not None:
        names |= of_extra(extra)
    return names


def of_extra(extra: str) -> set[str]:
    """Return the distributions of an extra, and of the extras it includes."""
    names = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        if name_in(requirement) == PROJECT["name"]:
            for included in re.findall(r"[\w-]+", requirement.partition("[")[2]):
                names |= of_extra(included)
        else:
            names.add(name_in(requirement))
    return names


def distribution_of(module: str) -> str:
    """Return the distribution that a module comes with: ``pillow`` for ``PIL.Image``."""
    provider = re.match(r"airflow\.providers\.(common\.\w+|\w+)", module)
    if provider:
        return f"apache-airflow-providers-{provider[1].replace('.', '-')}"
    top = module.split(".")[0]
    return DISTRIBUTIONS.get(top, top)


def third_party(file: Path) -> Iterator[str]:
    """Return what a file imports from other distributions, as distributions."""
    for module in imports(file):
        if module.split(".")[0] not in {PACKAGE, "tests", "tomllib", "_typeshed", *sys.stdlib_module_names}:
            yield distribution_of(module)


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_what_is_imported_is_declared(file: Path) -> None:
    part = part_of_file(file)
    assert set(third_party(file)) <= declared(EXTRAS.get(part)) | {LOADERS.get(part)}


@pytest.mark.parametrize("file", DAGS, ids=name_of)
def test_what_a_dag_imports_is_declared_for_the_demo(file: Path) -> None:
    assert set(third_party(file)) <= declared("demo")


@pytest.mark.parametrize("file", TESTS, ids=name_of)
def test_what_a_test_imports_is_declared_for_development(file: Path) -> None:
    extra = "cluster" if "cluster" in file.parts else None
    assert set(third_party(file)) <= declared("dev") | declared(extra)


def test_what_is_declared_is_imported() -> None:
    used = {name for file in [*SOURCES, *DAGS] for name in third_party(file)}
    assert {name for extra in (None, *EXTRAS.values()) for name in declared(extra)} <= used


def test_only_these_are_required() -> None:
    airflow = {"apache-airflow", "apache-airflow-providers-common-compat", "apache-airflow-providers-standard"}
    pages = {"fastapi", "jinja2", "starlette"}  # which Airflow's api-server is made of, too
    assert declared() == {*airflow, *pages, "anyio", "httpx", "pathspec", "pydantic", "sqlalchemy"}


@pytest.mark.parametrize("extra", sorted(MODULES))
def test_all_packages_of_an_extra_are_looked_for(extra: str) -> None:
    looked_for = {distribution_of(module) for module in MODULES[extra]}
    always_there = {"tomli"} if sys.version_info >= (3, 11) else set()  # needed by Python 3.10 only
    assert looked_for == of_extra(extra) - always_there


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build the ``wheel`` or the ``sdist`` of a source folder."""
    pytest.importorskip("hatchling", reason="hatchling, of the extra dev, is not installed")
    program = f"import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(folder)]
    return folder / subprocess.run(command, cwd=source, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build("wheel", REPOSITORY, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout."""
    return build("sdist", REPOSITORY, tmp_path_factory.mktemp("sdist"))


def test_the_wheel_holds_the_package_and_the_examples_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"{target}/{file.relative_to(REPOSITORY / source).as_posix()}"
        for source, target in ((PACKAGE, PACKAGE), ("dags", f"{PACKAGE}/example_dags"))
        for file in (REPOSITORY / source).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {
        f"{PACKAGE}/py.typed",
        f"{PACKAGE}/emulator/run/images.toml",
        f"{PACKAGE}/example_dags/mnist_lifecycle.py",
        f"{PACKAGE}/example_dags/workloads/.airflowignore",
    } <= expected
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected


def test_the_wheel_declares_what_pyproject_toml_does(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [path] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(path).decode())
        entry_points = archive.read(path.replace("METADATA", "entry_points.txt")).decode()
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], __version__)
    assert metadata.get_all("Provides-Extra") == sorted(PROJECT["optional-dependencies"])
    requirements = metadata.get_all("Requires-Dist", [])
    assert {name_in(text) for text in requirements if "extra ==" not in text} == declared()
    for extra in PROJECT["optional-dependencies"]:
        assert {name_in(text) for text in requirements if f"extra == '{extra}'" in text} == of_extra(extra)
    for group in ("console_scripts", "pytest11", "apache_airflow_provider"):
        assert f"[{group}]" in entry_points


def test_the_package_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    package, copied = tmp_path / "installed", tmp_path / "my examples"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(package)
    program = f"""
import sys
sys.path.insert(0, {str(package)!r})
from airflow_bitahub.cli import main
from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, load_images
assert load_images(DEFAULT_IMAGES)
sys.exit(main(["examples", "copy", {str(copied)!r}]))
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for file in (package / PACKAGE / "example_dags").rglob("*"):
        if file.is_file():
            assert (copied / file.relative_to(package / PACKAGE / "example_dags")).read_bytes() == file.read_bytes()


@pytest.mark.long
def test_the_sdist_holds_the_repository_and_makes_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    folders = {PACKAGE, "benchmarks", "dags", "docs", "tests"}
    files = {".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "README.zh-CN.md", "constraints.txt"}
    assert {path.name for path in source.iterdir()} == folders | files | {".ci", "PKG-INFO", "pyproject.toml"}
    for folder in folders:
        assert files_below(source / folder) == files_below(REPOSITORY / folder)
    assert contents(build("wheel", source, tmp_path)) == contents(wheel)


def files_below(folder: Path) -> set[str]:
    """Return all files in a folder, apart from what Python has compiled."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.long
def test_a_package_index_accepts_the_wheel_and_the_sdist(sdist: Path, wheel: Path) -> None:
    pytest.importorskip("twine", reason="twine, of the extra dev, is not installed")
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", str(sdist), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": PASSED") == 2


@pytest.mark.long
@pytest.mark.parametrize(("resolution", "checks"), [("lowest-direct", ["extras"]), ("highest", ["required", "extras"])])
def test_the_wheel_works_in_an_empty_environment(
    wheel: Path, resolution: str, checks: list[str], tmp_path: Path
) -> None:
    """With the lowest or the newest versions, Airflow finds all examples, and one of them runs its jobs."""
    program = (REPOSITORY / "tests/check_installation.py").read_text("utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    uv("venv", "--python", sys.executable, "env", cwd=tmp_path)
    python = tmp_path / "env/bin/python"
    for check in checks:
        extras = ["--extra=aiohttp", "--extra=demo"] if check == "extras" else []
        # To uv, what pyproject.toml requires is direct only if it is told to install that, too.
        what = ["-r", str(REPOSITORY / "pyproject.toml"), *extras, str(wheel)]
        uv("pip", "install", "--upgrade", "--resolution", resolution, *what, "--python", str(python), cwd=tmp_path)
        uv("pip", "check", "--python", str(python), cwd=tmp_path)
        (tmp_path / check).mkdir()
        command = [str(python), "-I", "-c", program, check, str(tmp_path / check)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["place"].startswith(str(tmp_path))
        assert (found["provider"], found["hook"], found["errors"]) == (__version__, "BitaHub", {})
        assert found["paused"] == {file.stem: True for file in DAGS}
        assert found["job"] == ("success" if check == "extras" else None)


def uv(*arguments: str, cwd: Path) -> None:
    """Run uv, which can also choose the lowest versions. Skip the test where the network is missing."""
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("uv, of the extra dev, is not installed")
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if "Failed to fetch" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"the packages cannot be fetched: is there a network? {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
