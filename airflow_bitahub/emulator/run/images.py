"""Python environments in place of container images, as an ``images.toml`` describes them.

[[image]]
pattern = "*tensorflow*"                        # for the image's name; the first matching entry is used
requirements = ["tensorflow==2.21.0"]           # an environment with these is built once
constraints = "constraints.txt"                 # optional; relative to this file
[image.files]
"/mnist-serving" = "{dags}/workloads/serving"   # optional: folders that the image contains; relative to this file,
                                                # {dags} is the folder of the package's example DAGs
[[image]]
pattern = "*py38*"
python = "python3.8"                            # another interpreter: a path relative to this file, or a name in PATH;
requirements = ["tensorflow-cpu==2.3.4"]        # without requirements it is used as it is
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from airflow_bitahub.emulator.run.processes import start_process, tail
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.examples import examples_folder
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_IMAGES = Path(__file__).with_name("images.toml")


class BuildFailedError(BitaHubError):
    """The environment for an image could not be built; the text ends with the build's own output."""


class Image(BaseModel):
    """One entry of images.toml; `load_images` makes its paths absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = Field(min_length=1)
    requirements: tuple[str, ...] | None = None
    constraints: Path | None = None
    python: Path | None = None
    files: dict[str, Path] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_fields(self) -> Image:
        if self.requirements is None and self.python is None:
            raise ValueError("requirements or python is missing")
        if self.constraints is not None and self.requirements is None:
            raise ValueError("constraints need requirements")
        return self


def load_images(file: Path) -> list[Image]:
    """Read an images.toml.

    :raises ConfigurationError: it cannot be read, or an entry is wrong
    """
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"Cannot read the images file {file}: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigurationError(f"The images file {file} is not TOML: {error}.") from None
    entries = document.get("image")
    if not isinstance(entries, list) or set(document) != {"image"}:
        raise ConfigurationError(f"The images file {file} must hold [[image]] entries and nothing else.")
    images = []
    for number, entry in enumerate(entries, 1):
        try:
            images.append(_with_absolute_paths(Image.model_validate(entry), file.resolve().parent))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the entry"
            raise ConfigurationError(f"Image {number} of {file} is wrong: {where}: {first['msg']}.") from None
    return images


def _with_absolute_paths(image: Image, folder: Path) -> Image:
    dags = str(examples_folder())
    return image.model_copy(
        update={
            "constraints": image.constraints and folder / image.constraints,
            "python": image.python and _interpreter(image.python.expanduser(), folder),
            "files": {path: folder / str(source).replace("{dags}", dags) for path, source in image.files.items()},
        }
    )


def _interpreter(python: Path, folder: Path) -> Path:
    if len(python.parts) == 1 and (found := shutil.which(python)):
        return Path(found)
    return folder / python  # do not resolve links: a virtual environment's interpreter is one


class Images:
    """Finds the entry for an image, and builds its environment when it is first needed.

    :param images: the entries, in order of precedence
    :param cache: the folder of built environments; several emulators may share one
    :param grace: seconds between SIGTERM and SIGKILL when a build is cancelled
    """

    def __init__(self, images: list[Image], cache: Path, grace: float = 5.0) -> None:
        self._images = images
        self._cache = cache.resolve()  # a build runs in another working directory
        self._grace = grace
        self._builds: dict[str, asyncio.Task[None]] = {}

    def find(self, name: str) -> Image:
        """Return the entry for an image.

        :raises InvalidRequest: there is none, or a file that it names does not exist
        """
        image = next((image for image in self._images if fnmatchcase(name, image.pattern)), None)
        if image is None:
            patterns = ", ".join(repr(image.pattern) for image in self._images) or "none"
            raise InvalidRequest(f"the image {name!r} is unknown; known patterns: {patterns}. Add it to images.toml")
        if image.python is not None and not os.access(image.python, os.X_OK):
            raise InvalidRequest(f"the interpreter {str(image.python)!r} of image {name!r} does not exist")
        if image.constraints is not None and not image.constraints.is_file():
            raise InvalidRequest(f"the constraints {str(image.constraints)!r} of image {name!r} do not exist")
        for path, source in image.files.items():
            if not source.exists():
                raise InvalidRequest(f"{str(source)!r}, the source of {path} in image {name!r}, does not exist")
        return image

    def is_ready(self, image: Image) -> bool:
        """Return whether the image's environment exists."""
        return image.requirements is None or (self._folder(image) / "done").exists()

    async def prepare(self, image: Image) -> Path:
        """Return the image's interpreter, after building its environment if necessary.

        All callers that need the same environment wait for the same build. Cancelling a wait does not cancel the build.

        :raises BuildFailedError: the build failed
        """
        if image.python is not None and image.requirements is None:
            return image.python
        folder = self._folder(image)
        if not self.is_ready(image):
            build = self._builds.get(folder.name)
            if build is None:
                build = self._builds[folder.name] = asyncio.create_task(self._build(image, folder))
                build.add_done_callback(lambda task: self._forget_build(folder.name, task))
            await asyncio.shield(build)
        return folder / "venv" / "bin" / "python"

    def _forget_build(self, digest: str, build: asyncio.Task[None]) -> None:
        del self._builds[digest]
        if not build.cancelled():
            build.exception()  # mark it as retrieved, since every waiting caller may have been cancelled

    async def close(self) -> None:
        """Cancel all builds."""
        builds = list(self._builds.values())
        for build in builds:
            build.cancel()
        await asyncio.gather(*builds, return_exceptions=True)

    def _folder(self, image: Image) -> Path:
        """Return the folder of the environment; its name is a hash of everything that determines its contents."""
        constraints = image.constraints.read_text("utf-8") if image.constraints else ""
        base = [str(image.python)] if image.python else [sys.version_info[:3], sys.base_prefix]
        facts = [image.requirements, constraints, *base, platform.machine()]
        return self._cache / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    async def _build(self, image: Image, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        log, venv = folder / "build.log", folder / "venv"
        async with _locked(folder / "lock") as lock:
            if self.is_ready(image):
                return  # another emulator has built it in the meantime
            shutil.rmtree(venv, ignore_errors=True)  # remains of a killed build
            log.write_text("")
            requirements = folder / "requirements.txt"
            requirements.write_text("".join(f"{line}\n" for line in image.requirements or ()))
            for argv in _build_commands(image, requirements, venv):
                with log.open("a") as text:
                    text.write(f"$ {' '.join(argv)}\n")
                # The build inherits the lock. So if the emulator is killed, no other one builds at the same time.
                group = start_process(
                    argv, cwd=folder, env=_build_environment(), log=log, mark=str(folder), pass_fds=[lock]
                )
                try:
                    code = await group.wait()
                finally:
                    await group.end(self._grace)
                if code != 0:
                    raise BuildFailedError(
                        f"the environment of image pattern {image.pattern!r} could not be built "
                        f"(exit code {code}); the build's log {log} ends with:\n{tail(log, 20)}"
                    )
            (folder / "done").touch()


def _build_commands(image: Image, requirements: Path, venv: Path) -> list[list[str]]:
    """Return the commands that build an environment: with uv where it is installed, since it is faster."""
    base = str(image.python or sys.executable)
    if not image.requirements:
        return [[base, "-m", "venv", "--without-pip", str(venv)]]
    python = str(venv / "bin" / "python")
    what = ["-r", str(requirements)]
    if image.constraints is not None:
        what += ["-c", str(image.constraints)]
    if uv := shutil.which("uv"):
        return [
            [uv, "venv", "--python", base, str(venv)],
            [uv, "pip", "install", "--python", python, *what],
        ]
    return [
        [base, "-m", "venv", str(venv)],
        [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *what],
    ]


def _build_environment() -> dict[str, str]:
    """Return the user's environment, which may configure proxies and package indexes, without the emulator's token."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("BITAHUB_", "PYTHON"))}


@asynccontextmanager
async def _locked(file: Path) -> AsyncIterator[int]:
    """Hold a lock against all other processes, and other tasks of this one; yield its file descriptor."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.2)
        yield descriptor
    finally:
        os.close(descriptor)
