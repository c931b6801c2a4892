"""Mounts at their real paths by bubblewrap, which gives a program its own file system without root or a container.

Besides its mounts the program sees the system's programs, its interpreter, and its own home and ``/tmp``. It sees
nothing else of the storage, the emulator's home or the user's files. The network is the machine's, unless a program has
one of its own, into which and out of which `relay` leads.

Each mount is opened once, when its workdir is made, and what was opened is what programs see: a path could lead to
another place by the time bubblewrap reads it. `privileges` says what is different for root.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from airflow_bitahub.emulator.mounts import relay
from airflow_bitahub.emulator.mounts.handles import open_without_links
from airflow_bitahub.emulator.mounts.privileges import covers, read_only_kernel
from airflow_bitahub.emulator.mounts.symlinks import SymlinkWorkdir
from airflow_bitahub.emulator.mounts.workdir import LaunchOptions, Workdir, network_in
from airflow_bitahub.exceptions import ConfigurationError

MOUNT_MODES = ("auto", "bubblewrap", "links")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/nix")
# What programs read to count processors. The rest of /sys describes and controls this machine.
_DEVICES = ("/sys/devices/system/cpu", "/sys/devices/system/node")
_HOME, _TMP, _BIN = "/root", "/tmp", "/.bitahub/bin"  # noqa: S108  these are paths inside the sandbox
_NETWORK, _RELAY = "/.bitahub/network", "/.bitahub/relay.py"
_PROXY_PORTS = (3128, 3129)  # in a network of its own; the second one for a program that wants the first one
_PRINT_FOLDERS = """
import json, sys, sysconfig
libraries = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
print(json.dumps([[sys.prefix, sys.base_prefix], libraries]))
"""


def choose_workdir(mounts: str) -> tuple[type[Workdir], str]:
    """Return the kind of workdir to use, and how programs see their mounts in it, in words for the log.

    :param mounts: ``bubblewrap``, ``links``, or ``auto`` for bubblewrap where it works
    :raises ConfigurationError: another word, or bubblewrap does not work here
    """
    if mounts not in MOUNT_MODES:
        raise ConfigurationError(f"mounts is {mounts!r}; choose one of {', '.join(MOUNT_MODES)}.")
    problem = "" if mounts == "links" else bubblewrap_problem()
    if mounts == "bubblewrap" and problem:
        raise ConfigurationError(f"Mounts by bubblewrap are not possible here: {problem}.")
    if mounts == "links" or problem:
        return SymlinkWorkdir, f"through links ({problem or 'as configured'})"
    return SandboxWorkdir, "at their real paths, by bubblewrap"


def bubblewrap_problem() -> str:
    """Return why bubblewrap does not work here; "" if it works."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    try:
        done = subprocess.run(
            [*_base_command(private_network=True), "--", "/bin/true"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"bwrap ended with exit code {done.returncode}"


class SandboxWorkdir(Workdir):
    """A workdir with its own file system. Inputs are read-only, and no program started in it can outlive it."""

    def __enter__(self) -> Workdir:
        self._handles = ExitStack()
        try:
            return super().__enter__()
        except BaseException:
            self._handles.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handles.close()
        super().__exit__(kind, error, trace)

    def _set_up_mounts(self) -> None:
        home = self.scratch / "home"
        home.mkdir()
        options = [
            *("--bind", str(home), _HOME, "--bind", str(self.scratch / "tmp"), _TMP),
            *("--ro-bind", str(self.bin), _BIN),
        ]
        options += _interpreter_options(self._python)
        for mount_path, mount in sorted(self._mounts.items()):  # an outer mount before those inside it
            handle = open_without_links(mount.source)
            self._handles.callback(os.close, handle)
            # Named by this process: a handle that the program inherited would lead it out of the sandbox.
            source = f"/proc/{os.getpid()}/fd/{handle}"
            options += ["--bind" if mount.is_writable else "--ro-bind", source, mount_path]
        start: tuple[str, ...] = ()
        if self._private_port is not None:
            network = network_in(self.path)
            writable = network / relay.WRITABLE
            writable.mkdir(parents=True)
            options += ["--ro-bind", str(network), _NETWORK, "--bind", str(writable), f"{_NETWORK}/{relay.WRITABLE}"]
            options += ["--ro-bind", relay.__file__, _RELAY]
            # Neither the program's variables nor installed packages affect the relay.
            start = (f"{_BIN}/python", "-I", "-S", _RELAY, _NETWORK, str(self._private_port), str(self._proxy_port))
        base = _base_command(private_network=self._private_port is not None)
        self._command = (*base, *options, "--chdir", _HOME, "--", *start)

    def map_paths(self, text: str) -> str:
        """Return the text unchanged: container paths are real here."""
        return text

    @contextmanager
    def launch_options(self, variables: Mapping[str, str]) -> Iterator[LaunchOptions]:
        """Yield how to start a program here.

        The variables are passed in a file. So they affect neither bubblewrap itself nor appear on its command line.
        """
        bubblewrap, *arguments = self._command
        if self._private_port is not None:
            proxy = f"http://127.0.0.1:{self._proxy_port}"
            names = ("http_proxy", "https_proxy")
            variables = {**variables, **{name: proxy for each in names for name in (each, each.upper())}}
        with tempfile.TemporaryFile() as file:
            for name, value in variables.items():
                file.write(b"--setenv\0" + os.fsencode(name) + b"\0" + os.fsencode(value) + b"\0")
            file.seek(0)
            number = file.fileno()
            yield LaunchOptions((bubblewrap, "--args", str(number), *arguments), self.environment(), (number,))

    def environment(self) -> dict[str, str]:
        """Return the environment that every program starts with; it contains nothing of the emulator's own."""
        return self._environment(_BIN, _HOME, _TMP)

    @property
    def _proxy_port(self) -> int:
        return next(port for port in _PROXY_PORTS if port != self._private_port)


def _base_command(*, private_network: bool = False) -> list[str]:
    """Return the bubblewrap command line without the mounts of a particular program."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL"]
    if private_network:
        command.append("--unshare-net")
    for folder in map(Path, _SYSTEM):
        if folder.is_symlink():
            command += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            command += ["--ro-bind", str(folder), str(folder)]
    for devices in filter(os.path.isdir, _DEVICES):
        command += ["--ro-bind", devices, devices]
    names = Path("/etc/resolv.conf").resolve()
    if not _is_within(names, _SYSTEM) and names.is_file():
        command += ["--ro-bind", str(names), str(names)]
    return [*command, "--proc", "/proc", *read_only_kernel(), "--dev", "/dev", *covers(private_network=private_network)]


@functools.cache
def _interpreter_options(python: Path) -> tuple[str, ...]:
    """Return the bubblewrap options for what an interpreter needs: its environment, its base installation, itself."""
    done = subprocess.run([python, "-I", "-c", _PRINT_FOLDERS], capture_output=True, text=True, timeout=60, check=True)
    prefixes, libraries = (set(map(Path, each)) for each in json.loads(done.stdout))
    # A prefix such as ~ or ~/.local contains more than an interpreter.
    private = {prefix for prefix in prefixes if Path.home().is_relative_to(prefix) or prefix.name == ".local"}
    folders = {folder for folder in (prefixes - private) | libraries if not _is_within(folder, _SYSTEM)}
    options = [option for folder in sorted(map(str, folders)) for option in ("--ro-bind", folder, folder)]
    program = python.resolve()
    places: list[str | Path] = [*_SYSTEM, *folders]
    if not _is_within(program, places):
        options += ["--ro-bind", str(program), str(program)]
    for link in _links_to(program, python):
        if not _is_within(link, places):
            options += ["--symlink", str(program), str(link)]
    return tuple(options)


def _links_to(program: Path, start: Path) -> Iterator[Path]:
    """Yield the links on the way to a program, such as ``~/bin/python3`` when an environment was made with that."""
    while start != program and start.is_symlink():
        yield start
        start = Path(os.path.normpath(start.parent / start.readlink()))


def _is_within(path: Path, folders: Iterable[str | Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
