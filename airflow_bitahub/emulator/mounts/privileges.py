"""What a sandboxed program could do because the emulator runs as root, and how the sandbox prevents it.

The kernel lets root change its settings in ``/proc``, and read files that nobody else may read. A program in the
sandbox has no capabilities, but it is still root. So what only root may read is covered.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# Settings of the kernel and of devices, which container runtimes make read-only or hide, too.
_KERNEL_SETTINGS = ("acpi", "bus", "fs", "irq", "mtrr", "pressure", "scsi", "sys", "sysrq-trigger")


def read_only_kernel() -> list[str]:
    """Return the bubblewrap options, after ``--proc``, that make the kernel's settings read-only."""
    places = [f"/proc/{name}" for name in _KERNEL_SETTINGS if Path("/proc", name).exists()]
    return [option for place in places for option in ("--ro-bind", place, place)]


@functools.cache
def covers(*, private_network: bool) -> tuple[str, ...]:
    """Return the bubblewrap options that cover what only root may read; none if the emulator does not run as root.

    ``/usr`` contains nothing of this machine's own, so it is not searched. Nor does a private network, whose settings
    are other files.
    """
    if os.geteuid() != 0:
        return ()
    options: list[str] = []
    for place, is_folder in (*_for_root_only(Path("/etc")), *_for_root_only(Path("/proc"))):
        if private_network and place.startswith("/proc/sys/net/"):
            continue
        options += ["--tmpfs", place, "--remount-ro", place] if is_folder else ["--ro-bind", "/dev/null", place]
    return tuple(options)


def _for_root_only(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield each file and folder that other users may not read, and whether it is a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() or (str(folder) == "/proc" and entry.name.isdecimal()):
                continue
            try:
                mode, is_folder = entry.stat().st_mode, entry.is_dir()
                if not mode & (stat.S_IXOTH if is_folder else stat.S_IROTH):
                    yield entry.path, is_folder
                elif is_folder:
                    yield from _for_root_only(Path(entry.path))
            except OSError:
                continue  # it has gone, or the kernel refuses even root
