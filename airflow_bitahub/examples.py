"""The example DAGs, with the programs that they run on the platform."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from airflow_bitahub.exceptions import ConfigurationError


def examples_folder() -> Path:
    """Return the folder of the example DAGs: in an installed package ``example_dags``, in a checkout ``dags``.

    An Airflow with ``[core] load_examples`` looks for ``example_dags`` in every provider's package.
    """
    package = Path(__file__).parent
    inside = package / "example_dags"
    return inside if inside.is_dir() else package.parent / "dags"


@dataclass(frozen=True)
class CopiedExamples:
    """What `copy_examples` has done.

    :param folder: where the examples are now, as an absolute path
    :param new: the files that were copied
    :param unchanged: the files that were there already, with the same content
    """

    folder: Path
    new: tuple[Path, ...]
    unchanged: tuple[Path, ...]


def copy_examples(folder: Path) -> CopiedExamples:
    """Copy the example DAGs and their programs into a folder, or nothing at all.

    :param folder: created if it does not exist; other files in it stay as they are
    :raises ConfigurationError: a file of the same name has another content, or a file cannot be written
    """
    source, target = examples_folder(), folder.absolute()
    new, unchanged, different = [], [], []
    try:
        for file in _files(source):
            path = target / file
            if not path.is_symlink() and not path.exists():
                new.append(file)
            elif path.is_file() and path.read_bytes() == (source / file).read_bytes():
                unchanged.append(file)
            else:
                different.append(file)
        if different:
            names = "".join(f"\n  {file}" for file in different)
            raise ConfigurationError(
                f"Nothing was copied to {target}, because it has files of these names with another content:{names}\n"
                "Copy the examples to another folder, or move these files away."
            )
        with _undone_after_an_error() as created:
            for file in new:
                _make_folder((target / file).parent, created)
                _write(target / file, (source / file).read_bytes(), created)
    except OSError as error:
        raise ConfigurationError(
            f"Nothing was copied to {target}: {error.filename or target}: {error.strerror}. "
            "Name a folder in which you can create files."
        ) from None
    return CopiedExamples(target, tuple(new), tuple(unchanged))


def _files(source: Path) -> list[Path]:
    """Return the paths of all files of the examples, relative to their folder: the DAGs first."""
    programs = (path for path in (source / "workloads").rglob("*") if path.is_file())
    found = [*sorted(source.glob("*.py")), *sorted(programs)]
    return [path.relative_to(source) for path in found if path.parent.name != "__pycache__"]


@contextmanager
def _undone_after_an_error() -> Iterator[list[Path]]:
    """Yield a list for the files and folders that are created. After an error or Ctrl-C, they are removed again."""
    created: list[Path] = []
    try:
        yield created
    except BaseException:
        for path in reversed(created):
            with suppress(OSError):  # such as a folder in which somebody has created a file meanwhile
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
        raise


def _make_folder(folder: Path, created: list[Path]) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent, created)
        folder.mkdir()
        created.append(folder)


def _write(path: Path, content: bytes, created: list[Path]) -> None:
    with path.open("xb") as file:  # x: a file that somebody has created meanwhile is not overwritten
        created.append(path)
        file.write(content)
