"""A function's source is sent alone, so whatever it would miss in the job is an error when the DAG is parsed."""

from __future__ import annotations

import asyncio
import functools
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_bitahub.decorators import run_function
from airflow_bitahub.decorators.source import function_source
from airflow_bitahub.exceptions import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPOCHS = 3


def defined_alone(function: Callable[..., Any], folder: Path) -> Any:
    """Define a function as the job does."""
    file = folder / "function.py"
    file.write_text(function_source(function))
    return run_function.load(str(file), function.__name__)


def registered(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@registered
def mean(numbers: NDArray[Any], /, *, power: int = 1) -> NDArray[Any] | Any:
    """Return a mean."""
    import asyncio
    import math

    array: NDArray[Any] = numbers
    powers: Any = [number**power for number in array]

    async def add_later(terms: NDArray[Any] | tuple[float, ...]) -> float:
        return math.fsum(terms)

    def add(*terms: float) -> float:
        return asyncio.run(add_later(terms))

    class Sum:
        text: str = "a string of\nseveral lines"

        def of(self, terms: NDArray[Any]) -> float:
            return add(*terms)

    return Sum().of(powers) / len(powers)


def test_function_is_defined_by_itself_without_decorators_and_annotations(tmp_path: Path) -> None:
    assert defined_alone(mean, tmp_path)([1, 2, 3], power=2) == pytest.approx(14 / 3)


def test_indented_function_keeps_its_strings_and_its_line_numbers(tmp_path: Path) -> None:
    if EPOCHS:

        @registered
        def letter(name: str) -> str:
            text = f"""Dear {name},
  two spaces
and none"""
            assert name != "nobody"  # comments stay, too
            return text

    assert defined_alone(letter, tmp_path)("you") == letter("you")
    lines = [frame.co_firstlineno for frame in (letter.__code__, defined_alone(letter, tmp_path).__code__)]
    assert lines == [lines[0], lines[0] + 1], "the same but for the decorator"
    assert "# comments stay, too" in (tmp_path / "function.py").read_text()


def test_function_may_call_itself(tmp_path: Path) -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial.__code__.co_freevars == ("factorial",)
    assert defined_alone(factorial, tmp_path)(5) == 120


def uses_an_import() -> float:
    return math.pi


def uses_a_constant_in_a_comprehension() -> list[int]:
    return [EPOCHS for _ in range(2)]


def has_a_default(epochs: int = EPOCHS) -> int:
    return epochs


def uses_a_helper_in_a_class() -> Any:
    class Inner:
        helper = mean

    return Inner


def closure() -> Callable[..., Any]:
    rate = 0.1

    def inner() -> float:
        return rate

    return inner


@functools.lru_cache
def cached() -> None: ...


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper() -> Any:
        return function()

    return wrapper


@wrapping
def wrapped() -> None: ...


async def asynchronous() -> None:
    await asyncio.sleep(0)


def generator() -> Any:
    yield 1


class Class:
    @staticmethod
    def method() -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (uses_an_import, "uses_an_import in a job: it uses math, which would be missing .* Write imports and helpers"),
        (uses_a_constant_in_a_comprehension, "it uses EPOCHS"),
        (has_a_default, "it uses EPOCHS"),
        (uses_a_helper_in_a_class, "it uses mean"),
        (closure(), "inner in a job: it uses rate, .* pass values as arguments"),
        (lambda: None, "it is a lambda"),
        (cached, "cached in a job: it is not a function, but a _lru_cache_wrapper"),
        (functools.partial(mean), "partial in a job: it is not a function"),
        (wrapped, "another decorator wraps it"),
        (asynchronous, "it is asynchronous"),
        (generator, "it yields values"),
        (Class.method, "it is a method"),
        (Class().method, "it is a method"),
        (print, "it is not a function"),
    ],
)
def test_what_would_fail_in_the_job_is_refused(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^@task.bitahub cannot run .*{says}"):
        function_source(function)


def test_annotations_are_evaluated_as_in_the_dags_file(tmp_path: Path) -> None:
    def functions(head: str) -> dict[str, Any]:
        inside = "def inner(x: Missing): ...\n" if "nested" in head else "x: Missing = 1\n    return x\n"
        file = tmp_path / f"{head[:6]}{'nested' in head}.py"
        file.write_text(f"{head}\ndef outer(x: int):\n    {inside}")
        return runpy.run_path(str(file))

    lazy = "from __future__ import annotations"
    assert defined_alone(functions("# eager")["outer"], tmp_path)(0) == 1, "those of variables never are"
    assert defined_alone(functions(f"{lazy}  # nested")["outer"], tmp_path)(0) is None
    with pytest.raises(ConfigurationError, match="it uses Missing"):
        function_source(functions("# nested")["outer"])


def test_function_without_a_file_is_refused() -> None:
    namespace: dict[str, Any] = {}
    exec("def nowhere(): pass", namespace)
    with pytest.raises(ConfigurationError, match=r"nowhere in a job: its source cannot be read\. Define it"):
        function_source(namespace["nowhere"])
