"""Programs as forks of a process that has imported TensorFlow, which takes seconds of CPU time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

# Forks a process for each line, which names a program, its arguments, its variables and a folder for its output. Prints
# its id, and its exit code once it has ended; the caller ends a program that does not end by itself.
_SERVER = """
import json, os, runpy, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow
for line in sys.stdin:
    program, arguments, variables, folder = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT, 0o600), number)
        os.environ.update(variables)
        sys.argv = [program, *arguments]
        sys.path[0] = os.path.dirname(program)
        runpy.run_path(program, run_name="__main__")
        sys.exit()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class TensorFlowForks:
    """Runs programs one after the other, inside a ``with`` block.

    :param python: an interpreter that has TensorFlow
    :param folder: for what the programs print
    """

    def __init__(self, python: str | Path, folder: Path) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [python, "-B", "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> TensorFlowForks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    @property
    def errors(self) -> str:
        """What the latest program has printed to stderr."""
        return (self._folder / "stderr").read_text()

    def start(self, program: Path, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
        """Start a program and return its process id."""
        assert self._server.stdin is not None
        for name in ("stdout", "stderr"):
            (self._folder / name).unlink(missing_ok=True)
        line = json.dumps([str(program), arguments, dict(variables or {}), str(self._folder)])
        self._server.stdin.write(f"{line}\n")
        self._server.stdin.flush()
        return self._read()

    def wait(self) -> int:
        """Wait for the end of the latest program and return its exit code: -n after signal n."""
        return self._read()

    def _read(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())
