"""A job's code is what its author means by it, as it is at one moment, and no more than that."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.operators import code_folder
from airflow_bitahub.operators.code_folder import Code, read_code


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


def names(code: Code) -> list[str]:
    return [file.name for file in code.files]


def unpacked(code: Code, folder: Path) -> dict[str, str]:
    """Unpack an archive as a job does."""
    command = f"printf %s {code.packed()} | base64 -d | tar -xzf - -C '{folder}'"
    subprocess.run(["/bin/sh", "-c", command], check=True)
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_relative_path_begins_beside_the_dag(tmp_path: Path) -> None:
    write(tmp_path / "my code", {"train.py": "1", "net/layers.py": "2"})
    assert names(read_code("my code", tmp_path)) == ["net/layers.py", "train.py"]
    assert names(read_code(str(tmp_path / "my code"), Path("/elsewhere"))) == ["net/layers.py", "train.py"]
    assert names(read_code("my code/train.py", tmp_path)) == ["train.py"]


def test_digest_depends_on_the_code_and_on_nothing_else(tmp_path: Path) -> None:
    one, same = (write(tmp_path / name, {"a.py": "1", "b.py": "2"}) for name in ("one", "same"))
    os.utime(same / "a.py", (1, 1))
    digest = read_code("one", tmp_path).digest
    assert read_code("same", tmp_path).digest == digest
    assert read_code("same", tmp_path).packed() == read_code("one", tmp_path).packed()
    changes: list[Callable[[], Any]] = [
        lambda: (one / "a.py").write_text("12"),
        lambda: (one / "b.py").write_text(""),
        lambda: (one / "b.py").chmod(0o755),
        lambda: (one / "b.py").rename(one / "c.py"),
    ]
    digests = {digest}
    for change in changes:
        change()
        digests.add(read_code("one", tmp_path).digest)
    assert len(digests) == 1 + len(changes)


def test_what_ignore_files_name_is_no_code(tmp_path: Path) -> None:
    rules = {
        ".gitignore": "*.log\n/jobs/secret.txt\n.env\n",
        "jobs/code/.bitahubignore": "/data/\n!kept.log\n",
        "jobs/code/net/.gitignore": "*.md\n",
    }
    ignored = ("train.log", ".env", "data/big", "net/notes.md", "__pycache__/train.pyc", "net/.git/HEAD")
    kept = ("kept.log", "secret.txt", "train.py", "net/data/small", "net/train.py")
    write(tmp_path, {".git/HEAD": "", **rules, **{f"jobs/code/{name}": "" for name in (*ignored, *kept)}})
    assert set(names(read_code("jobs/code", tmp_path))) == {*kept, ".bitahubignore", "net/.gitignore"}


def test_folder_that_its_repository_ignores_is_code_where_its_author_names_it(tmp_path: Path) -> None:
    write(tmp_path, {".git/HEAD": "", ".gitignore": "build/\n", "build/train.py": ""})
    assert names(read_code("build", tmp_path)) == ["train.py"]


def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    code = write(tmp_path / "code", {"v1/train.py": "1"})
    (code / "current").symlink_to("v1")
    (code / "main.py").symlink_to("current/train.py")
    (tmp_path / "link to code").symlink_to(code)
    found = read_code("link to code", tmp_path)
    assert names(found) == ["current/train.py", "main.py", "v1/train.py"]
    (tmp_path / "unpacked").mkdir()
    assert set(unpacked(found, tmp_path / "unpacked").values()) == {"1"}


def link(target: str) -> Callable[[Path], object]:
    return lambda code: (code / "odd").symlink_to(target)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (link("/etc/passwd"), r"code/odd is a link that leads out of .*/code, to /etc/passwd\. Put a copy there"),
        (link("../code-of-others"), "odd is a link that leads out of"),
        (link("nowhere"), r"odd is a link that leads nowhere\. If it is no part of the code, name it in a \.bitahub"),
        (link("odd"), "odd is a link that leads nowhere"),
        (link("."), "odd/ is a link to a folder around it"),
        (lambda code: os.mkfifo(code / "odd"), "odd is no regular file"),
        (lambda code: (code / "odd\udcff").touch(), "is not UTF-8"),
        (lambda code: (code / "train.py").unlink(), "code has no files\\.$"),
        (lambda code: write(code, {".gitignore": "*"}), "code has no files that are not ignored"),
        (lambda code: (code / "train.py").write_bytes(bytes(5001)), r"has more than 0 MiB, most of it in 'train\.py'"),
        (
            lambda code: write(code, {f"node/{number}": "" for number in range(11)}),
            "has more than 10 files, most of it in 'node', .* Give a smaller folder, or name what is no code in",
        ),
        (
            lambda code: code.rename(code.with_name("kode")),
            r"has no 'code'\. Did you mean 'kode'\? It contains 'code-of",
        ),
    ],
)
def test_what_is_no_code_is_told_in_a_sentence(
    spoil: Callable[[Path], object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_folder, "MOST_FILES", 10)
    monkeypatch.setattr(code_folder, "MOST_BYTES", 5000)
    write(tmp_path / "code-of-others", {"other.py": ""})
    spoil(write(tmp_path / "code", {"train.py": "1"}))
    with pytest.raises(ConfigurationError, match=f"^code: .*{says}"):
        read_code("code", tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every file")
def test_unreadable_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "code", {"train.py": "1"})
    (tmp_path / "code" / "train.py").chmod(0)
    with pytest.raises(ConfigurationError, match=r"train\.py cannot be read: Permission denied"):
        read_code("code", tmp_path)


@pytest.mark.parametrize("path", ["/", "/usr", "/proc"])
def test_misplaced_folder_fails_soon(path: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^code: {path}"):
        read_code(path, Path("/"))


def test_file_that_changes_while_it_is_read_is_read_again_or_fails_the_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "code", {"train.py": "1"}) / "train.py"
    fstat = os.fstat
    changes = iter(["", "22"])

    def changing(handle: int) -> os.stat_result:
        """Change the file between the two looks at it."""
        if (change := next(changes, None)) is not None:
            file.write_text(change)
        return fstat(handle)

    monkeypatch.setattr("airflow_bitahub.operators.code_folder.os.fstat", changing)
    monkeypatch.setattr("airflow_bitahub.operators.code_folder.time.sleep", lambda _: None)
    [read] = read_code("code", tmp_path).files
    assert read.content == b"22"
    changes = iter("34567890")
    with pytest.raises(StorageError, match="changes while it is read"):
        read_code("code", tmp_path)


def test_packed_code_is_what_was_read(tmp_path: Path) -> None:
    code = write(tmp_path / "code", {"a b/it's.py": "print(1)", f"{'x' * 120}/{'y' * 120}": "long", "run": ""})
    (code / "run").chmod(0o700)
    (tmp_path / "unpacked").mkdir()
    assert unpacked(read_code("code", tmp_path), tmp_path / "unpacked") == {
        "a b/it's.py": "print(1)",
        "run": "",
        f"{'x' * 120}/{'y' * 120}": "long",
    }
    assert os.access(tmp_path / "unpacked" / "run", os.X_OK)


def test_code_that_is_too_large_for_a_command_says_what_to_do(tmp_path: Path) -> None:
    noise = base64.b85encode(os.urandom(code_folder.MOST_PACKED)).decode()
    code = read_code(str(write(tmp_path / "code", {"noise": noise})), tmp_path)
    with pytest.raises(ConfigurationError, match=r"48,000 bytes are the most\. Set storage_uri, .* give code_path"):
        code.packed()
