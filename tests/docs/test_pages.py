"""What the documentation says against the code: every class, argument, extra, error and command is in it."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import pytest

from airflow_bitahub import exceptions
from airflow_bitahub.api.platform import ENDPOINTS
from airflow_bitahub.cli.demo import add_demo
from airflow_bitahub.cli.doctor import add_doctor
from airflow_bitahub.cli.emulator import add_emulator
from airflow_bitahub.cli.examples import add_examples
from airflow_bitahub.cli.jobs import add_jobs
from airflow_bitahub.cli.servings import add_servings
from airflow_bitahub.get_provider_info import get_provider_info
from airflow_bitahub.hooks.settings import _EXTRAS
from tests.conftest import REPOSITORY

ENGLISH = REPOSITORY / "docs/en"
CHINESE = REPOSITORY / "docs/zh"
READMES = ("README.md", "README.zh-CN.md")
# Who works on the package reads English, as its code is.
ENGLISH_ONLY = {"contributing", "changelog"}
TRANSLATED = {path.relative_to(ENGLISH).with_suffix("").as_posix() for path in ENGLISH.rglob("*.md")} - ENGLISH_ONLY
# Arguments of Airflow's own base classes, which some classes describe.
AIRFLOWS = {"poke_interval", "timeout"}
PARSER = argparse.ArgumentParser()
COMMANDS = PARSER.add_subparsers()
for add in (add_demo, add_doctor, add_emulator, add_examples, add_jobs, add_servings):
    add(COMMANDS)


def page(name: str) -> str:
    return (ENGLISH / name).read_text("utf-8")


def code_of(text: str) -> list[str]:
    """Return every piece of code, apart from the diagrams, whose words are translated."""
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [inspect.cleandoc(code) for _, language, code in found if language != "mermaid"]


@cache
def package() -> Any:
    return griffe.load("airflow_bitahub", search_paths=[REPOSITORY], resolve_aliases=False)


def described() -> dict[str, Any]:
    """Return every class and function of the reference: its path, and what the code says of it."""
    text = "".join(path.read_text("utf-8") for path in sorted((ENGLISH / "reference").glob("*.md")))
    paths = re.findall(r"^::: airflow_bitahub\.(\S+)$", text, re.MULTILINE)
    things = {f"airflow_bitahub.{path}": package()[path] for path in paths}
    return {path: thing for path, thing in things.items() if thing.is_class or thing.is_function}


def in_docstring(thing: Any) -> set[str]:
    return set(re.findall(r"^ *:param (\w+):", thing.docstring.value if thing.docstring else "", re.MULTILINE))


def public_classes() -> Iterator[str]:
    """Return every class that Airflow may use, by the provider's description."""
    info = get_provider_info()
    modules = [
        module
        for part in ("hooks", "operators", "sensors", "triggers")
        for entry in info[part]
        for module in entry["python-modules"]
    ]
    for module in modules:
        for name, member in package()[module.removeprefix("airflow_bitahub.")].members.items():
            if not member.is_alias and member.is_class and name.startswith("BitaHub"):
                yield f"{module}.{name}"


def test_every_argument_of_every_public_class_is_in_the_reference() -> None:
    known = described()
    every_argument = set().union(*map(taken_by, known.values()))
    for path in public_classes():
        assert path in known
        told, taken = described_by(known[path], known), taken_by(known[path])
        assert taken <= told, f"{path}: not described: {taken - told}"
        assert in_docstring(known[path]) <= taken | every_argument | AIRFLOWS, f"{path}: describes what there is not"


def described_by(thing: Any, known: dict[str, Any]) -> set[str]:
    """Return what a docstring describes, and those of the classes that it refers to."""
    names = set(re.findall(r"`(BitaHub\w+)`", thing.docstring.value)) - {thing.name}
    others = [other for path, other in known.items() if path.rpartition(".")[2] in names]
    return in_docstring(thing).union(*(described_by(other, known) for other in others))


def taken_by(thing: Any) -> set[str]:
    """Return the arguments of a class or function, and of the package's classes to which it passes others on."""
    named = {each.name for each in thing.parameters if each.kind is not None and not each.kind.name.startswith("var")}
    bases = thing.resolved_bases if thing.is_class else []
    return (named - {"self"}).union(*map(taken_by, bases))


def test_every_extra_of_the_connection_is_in_the_reference() -> None:
    text = page("reference/connection.md")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) - {"port"} == set(_EXTRAS)
    assert {name for name in ENDPOINTS if f"`{name}`" not in text} == set()


def test_every_error_is_in_the_reference_and_starred_if_it_is_final() -> None:
    errors = {
        name: error.is_final
        for name, error in vars(exceptions).items()
        if inspect.isclass(error) and issubclass(error, exceptions.BitaHubError)
    }
    told = re.findall(r"^\| `(\w+)`(\*?) \|", page("reference/errors.md"), re.MULTILINE)
    assert {name: star == "*" for name, star in told} == errors


@pytest.mark.parametrize("command", COMMANDS.choices)
def test_every_option_of_every_command_is_in_the_reference(command: str) -> None:
    section = page("reference/cli.md").partition(f"## airflow-bitahub {command}\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| (`--.*?) \|", section, re.MULTILINE))
    assert set(re.findall(r"`(--[\w-]+)`", " ".join(told))) == {
        option for parser in parsers(COMMANDS.choices[command]) for option in options(parser)
    }
    for parser in parsers(COMMANDS.choices[command]):
        assert parser.prog.split(maxsplit=1)[1] in section, "the subcommand is not named"


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Return the parsers of a command's own subcommands, or its own."""
    below = [
        each
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for each in action.choices.values()
    ]
    yield from below or [parser]


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}


@pytest.mark.parametrize("name", sorted(TRANSLATED))
def test_a_chinese_page_has_the_same_code_headings_and_diagrams_as_the_english_one(name: str) -> None:
    english, chinese = (page(f"{name}.md"), (CHINESE / f"{name}.md").read_text("utf-8"))
    assert code_of(chinese) == code_of(english)
    outlines = [re.findall(r"^(#+) ", without_code(text), re.MULTILINE) for text in (english, chinese)]
    assert outlines[0] == outlines[1]
    assert chinese.count("```mermaid") == english.count("```mermaid")
    assert len(re.findall(r"^\|", chinese, re.MULTILINE)) == len(re.findall(r"^\|", english, re.MULTILINE))


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)


def test_the_readmes_are_short_and_say_the_same() -> None:
    english, chinese = ((REPOSITORY / name).read_text("utf-8") for name in READMES)
    assert max(len(english.splitlines()), len(chinese.splitlines())) <= 130
    assert code_of(chinese) == code_of(english)
    assert code_of(english)[0] == code_of(page("index.md"))[0]


@pytest.mark.parametrize("name", [*READMES, "CHANGELOG.md"])
def test_every_link_of_a_readme_leads_to_a_file_and_heading(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", without_code((REPOSITORY / name).read_text("utf-8"))):
        path, _, heading = target.partition("#")
        if "://" in path:
            continue
        assert (REPOSITORY / path).is_file(), target
        if heading:
            assert heading in anchors(REPOSITORY / path), target


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site makes them."""
    headings = re.findall(r"^#+ (.*?)(?: \{ #([\w-]+) \})?$", without_code(path.read_text("utf-8")), re.MULTILINE)
    return {given or re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) for text, given in headings}


def test_every_command_of_a_readme_is_run() -> None:
    """`.ci/run` runs the demo, and tests/e2e/test_without_scheduler.py runs the quickstart."""
    run = (REPOSITORY / ".ci/run").read_text("utf-8") + page("quickstart.md")
    demo = (REPOSITORY / "Makefile").read_text("utf-8").partition("\ndemo:")[2].partition("\n\n")[0]
    assert "-m airflow_bitahub.cli demo" in demo
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    commands = [
        line
        for block in re.findall(r"^ *```sh\n(.*?)^ *```", readme, re.MULTILINE | re.DOTALL)
        for line in block.split("\n")
    ]
    commands = [command.strip() for line in commands for command in line.split(" && ") if command.strip()]
    # The second is what `make demo` runs, and the first installs it: tests/test_packaging.py looks into the wheel.
    others = {"pip install 'airflow-bitahub[demo]'", "airflow-bitahub demo"}
    assert [command for command in commands if command not in others and command not in run.splitlines()] == []
