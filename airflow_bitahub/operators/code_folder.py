"""Reading a job's code from a folder of this worker: which files it has, what they contain, and their digest."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import stat
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_bitahub.exceptions import ConfigurationError, StorageError
from airflow_bitahub.storage.files import NewFile
from airflow_bitahub.texts import contents_of, nearest

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MOST_FILES = 5_000
MOST_BYTES = 64 * 2**20  # of all files together
# Bytes of an archive that travels inside a command: 64,000 characters there. Linux takes 131,072 for a program's
# argument, which the command becomes; Airflow's task state store takes 65,535.
MOST_PACKED = 48_000

_MOST_SEEN = 50_000  # entries, with those that are ignored
_DEEPEST = 50  # folders inside each other
_IGNORE_FILES = (".gitignore", ".bitahubignore")  # the later one decides
_MOST_RULES = 2**20  # bytes of such a file
_NEVER_CODE = (".git", "__pycache__")
_READINGS = 3  # of a file that changes meanwhile
_LONG_AGO = 946_684_800  # the time of packed files: an archive depends on the code only


@dataclass(frozen=True)
class Code:
    """Files as they were when they were read.

    :param source: where they were read, for messages
    :param files: by their names
    """

    source: str
    files: tuple[NewFile, ...]

    @property
    def digest(self) -> str:
        """A short text that is the same for the same names, contents and permissions to execute, and no others."""
        digest = hashlib.sha256()
        for file in self.files:
            content = _content(file)
            digest.update(f"{len(file.name)} {file.name} {file.is_executable} {len(content)} ".encode())
            digest.update(content)
        return digest.hexdigest()[:16]

    def packed(self) -> str:
        """Return the files as the text of a compressed archive, in base64.

        :raises ConfigurationError: it is too large to travel inside a command
        """
        buffer = BytesIO()
        # Not every tar reads the newer format, such as that of small images.
        with (
            gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as archive,
        ):
            for file in self.files:
                content = _content(file)
                member = tarfile.TarInfo(file.name)
                member.size, member.mtime = len(content), _LONG_AGO
                member.mode = 0o755 if file.is_executable else 0o644
                archive.addfile(member, BytesIO(content))
        size = buffer.tell()
        if size > MOST_PACKED:
            raise ConfigurationError(
                f"code: {self.source} has {size:,} bytes when it is packed. Without storage_uri in the Airflow "
                f"connection, the code travels inside the command, and {MOST_PACKED:,} bytes are the most. Set "
                f"storage_uri, name what is no code in a .bitahubignore, or upload the folder yourself and give "
                f"code_path instead."
            )
        return base64.b64encode(buffer.getvalue()).decode()


def _content(file: NewFile) -> bytes:
    return file.content if isinstance(file.content, bytes) else file.content.read_bytes()


def read_code(path: str, base: Path) -> Code:
    """Read a folder, without what is ignored there, or a single file.

    :param base: the folder in which a relative path begins
    :raises ConfigurationError: it is missing, too large, empty, or has something that is no code
    :raises StorageError: a file changes while it is read
    """
    source = _find(Path(base, path))
    listing = _Listing(str(source.resolve()))  # a link to the current version may change while files are read
    if listing.root == "/":
        raise ConfigurationError("code: / is the whole machine, which is too much for code. Give a smaller folder.")
    if source.is_dir():
        listing.add_folder("", _rules_above(Path(listing.root)))
    else:
        listing.add_file(source.name, listing.root)
    if not listing.files:
        raise ConfigurationError(f"code: {source} has no files{' that are not ignored' * (listing.seen > 0)}.")
    return Code(str(source), tuple(_read(name, file) for name, file, _ in sorted(listing.files)))


def _find(path: Path) -> Path:
    with _reading(str(path)):
        if path.exists():
            return path
        folder, missing = path.parent, path.name
        while not folder.is_dir():
            folder, missing = folder.parent, folder.name
        names = sorted(entry.name for entry in folder.iterdir())
    raise ConfigurationError(
        f"code: {path} does not exist on this worker: {folder} has no {missing!r}.{nearest(missing, names)} "
        f"{contents_of('It', names)}"
    )


@dataclass
class _Listing:
    """The files of a folder that are not ignored. Links are followed as long as they stay in the folder.

    :param root: the folder, without links in its path
    :param files: the name, path and size of each file
    """

    root: str
    files: list[tuple[str, str, int]] = field(default_factory=list)
    bytes: int = 0
    seen: int = 0

    def add_folder(self, name: str, rules: Sequence[_Rules], around: tuple[str, ...] = ()) -> None:
        """Add the files of a folder below the root.

        :param name: its name below the root, with a slash at the end; "" for the root
        :param rules: those of the folders around it
        :param around: those folders, without links in their paths
        """
        folder = os.path.realpath(f"{self.root}/{name}")
        if folder in around or len(around) == _DEEPEST:
            raise ConfigurationError(f"code: {self.root}/{name} is a link to a folder around it, or too deep.")
        with _reading(folder), os.scandir(folder) as entries:
            found = sorted(islice(entries, _MOST_SEEN + 1), key=lambda entry: entry.name)
        rules = [*rules, *_rules_in(Path(folder), name)]
        for entry in found:
            self.seen += 1
            self._check_bounds()
            self._add(entry, f"{name}{entry.name}", rules, (*around, folder))

    def _add(self, entry: os.DirEntry[str], name: str, rules: Sequence[_Rules], around: tuple[str, ...]) -> None:
        path = entry.path
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads to itself
            is_folder = False
        if entry.name in _NEVER_CODE or _is_ignored(f"{name}/" if is_folder else name, rules):
            return
        if entry.is_symlink():
            path = self._target(path)
        if is_folder:
            self.add_folder(f"{name}/", rules, around)
        else:
            self.add_file(name, path)

    def add_file(self, name: str, path: str) -> None:
        """Add a file, unless that makes too many or too much."""
        with _reading(path):
            size = Path(path).stat().st_size
        self.files.append((name, path, size))
        self.bytes += size
        self._check_bounds()

    def _target(self, path: str) -> str:
        """Return what a link leads to. Nobody expects that other files of the worker are uploaded with a folder."""
        with _reading(path):
            target = os.path.realpath(path)
            if not Path(target).exists():
                raise ConfigurationError(f"code: {path} is a link that leads nowhere. {_IGNORE_IT}")
        if os.path.commonpath((target, self.root)) != self.root:
            raise ConfigurationError(
                f"code: {path} is a link that leads out of {self.root}, to {target}. Put a copy there. {_IGNORE_IT}"
            )
        return target

    def _check_bounds(self) -> None:
        has_too_many = len(self.files) > MOST_FILES
        if has_too_many:
            what = f"more than {MOST_FILES:,} files"
        elif self.seen > _MOST_SEEN:
            what = f"more than {_MOST_SEEN:,} entries, with those that are ignored"
        elif self.bytes > MOST_BYTES:
            what = f"more than {MOST_BYTES // 2**20} MiB"
        else:
            return
        places: Counter[str] = Counter()
        for name, _, size in self.files:
            places[name.partition("/")[0]] += 1 if has_too_many else size
        most = f", most of it in {places.most_common(1)[0][0]!r}" if places else ""
        raise ConfigurationError(
            f"code: {self.root} has {what}{most}, which is too much for code. Give a smaller folder, or name what is "
            f"no code in {self.root}/.bitahubignore. Upload data as a dataset."
        )


_IGNORE_IT = "If it is no part of the code, name it in a .bitahubignore."


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"code: {path} cannot be read: {error.strerror}. {_IGNORE_IT}") from error


# What is ignored -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rules:
    """The lines of a folder's ignore files.

    :param folder: where they apply: a name below the root, with a slash at the end; "" for the root
    :param above: for a folder above the root, the root's name below that folder, with a slash at the end
    """

    spec: GitIgnoreSpec
    folder: str = ""
    above: str = ""

    def decide(self, name: str) -> bool | None:
        """Return whether the rules ignore a name below the root; None where they do not say."""
        return self.spec.check_file(self.above + name[len(self.folder) :]).include


def _is_ignored(name: str, rules: Sequence[_Rules]) -> bool:
    """Return what the innermost rules say that say anything."""
    decisions = (each.decide(name) for each in reversed(rules))
    return next((decision for decision in decisions if decision is not None), False)


def _rules_in(folder: Path, name: str = "", above: str = "") -> Iterator[_Rules]:
    from pathspec import GitIgnoreSpec

    lines: list[str] = []
    for file in _IGNORE_FILES:
        path = folder / file
        if path.is_file():
            with _reading(str(path)), path.open("rb") as opened:
                lines += opened.read(_MOST_RULES).decode("utf-8-sig", "replace").splitlines()
    if not lines:
        return
    try:
        yield _Rules(GitIgnoreSpec.from_lines(lines), name, above)
    except ValueError as error:
        raise ConfigurationError(
            f"code: a line in the ignore files of {folder} cannot be understood: {error}"
        ) from error


def _rules_above(root: Path) -> list[_Rules]:
    """Return the rules of the folders around the root that belong to the same Git repository, the outermost first.

    There are none where they ignore the root itself: whoever names a folder wants what is in it.
    """
    folders: list[Path] = []
    if not (root / ".git").exists():
        for folder in root.parents:
            folders.insert(0, folder)
            if (folder / ".git").exists():
                break
        else:
            return []
    rules = [rule for folder in folders for rule in _rules_in(folder, above=f"{root.relative_to(folder).as_posix()}/")]
    return [] if _is_ignored("", rules) else rules


# What files contain ----------------------------------------------------------------------------------------------


def _read(name: str, path: str) -> NewFile:
    """Read a file as it is at one moment."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"code: the name of {path!r} is not UTF-8. {_IGNORE_IT}") from None
    for reading in range(_READINGS):
        if reading:
            time.sleep(0.2)
        with _reading(path), open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise ConfigurationError(f"code: {path} is no regular file. {_IGNORE_IT}")
            content = file.read(min(before.st_size, MOST_BYTES) + 1)
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, len(content)):
            return NewFile(name, content, bool(after.st_mode & stat.S_IXUSR))
    raise StorageError(f"code: {path} changes while it is read.")
