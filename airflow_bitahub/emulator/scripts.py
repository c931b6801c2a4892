"""Scripted jobs and servings: what happens is defined in advance, for tests that need no real program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, field_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from airflow_bitahub.api.jobs import JobSpec
from airflow_bitahub.api.servings import ServingSpec


class ScriptedJob(BaseModel):
    """What happens to the jobs that match. No program runs, no image is needed, and inputs need not exist.

    :param job_name: a shell-style pattern for the job's name, such as ``*-2`` for second attempts
    :param command: a shell-style pattern for the job's command
    :param exit_code: 0: the job succeeds
    :param queue_seconds: how long the job waits, by the emulator's clock
    :param run_seconds: how long the job runs, by the emulator's clock
    :param outputs: the files that the job writes into its output folder when it ends: relative path -> text, bytes, or
        a value to write as JSON
    :param log: what the job prints
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_name: str = "*"
    command: str = "*"
    exit_code: Annotated[int, Field(ge=0, le=255)] = 0
    queue_seconds: NonNegativeFloat = 0
    run_seconds: NonNegativeFloat = 0
    outputs: Mapping[str, Any] = Field(default_factory=dict)
    log: str = ""

    @field_validator("outputs")
    @classmethod
    def _check_outputs(cls, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        for path in outputs:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{path!r} is not a path inside the output folder")
        return outputs

    def matches(self, spec: JobSpec) -> bool:
        """Return whether this script is for a job."""
        commands = (role.command for role in spec.task_roles)
        return fnmatchcase(spec.job_name, self.job_name) and any(fnmatchcase(one, self.command) for one in commands)

    def write_outputs(self, folder: Path) -> None:
        """Write the job's output files."""
        for path, content in self.outputs.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                file.write_text(content if isinstance(content, str) else json.dumps(content))


class ScriptedServing(BaseModel):
    """What the servings that match answer. No program runs, no image is needed, and the model need not exist.

    :param serving_name: a shell-style pattern for the serving's name
    :param answer: the JSON to answer every request with
    :param exit_code: the serving fails immediately with this exit code; None: it serves
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    serving_name: str = "*"
    answer: Any = Field(default_factory=dict)
    exit_code: int | None = None

    def matches(self, spec: ServingSpec) -> bool:
        """Return whether this script is for a serving."""
        return fnmatchcase(spec.name, self.serving_name)

    def app(self) -> ASGIApp:
        """Return the application that answers for the serving."""

        async def answer(_: Request) -> JSONResponse:
            return JSONResponse(self.answer)

        return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE"])])


class Scripts:
    """All scripts; if several match, the one that was added last is used.

    .. code-block:: python

        emulator.scripts.add(ScriptedJob())  # every job succeeds immediately
        emulator.scripts.add(ScriptedJob(command="*evaluate*", outputs={"evaluation_result.json": {"accuracy": 0.5}}))
        emulator.scripts.add(ScriptedServing(answer={"predictions": [7]}))
    """

    def __init__(self) -> None:
        self._jobs: list[ScriptedJob] = []
        self._servings: list[ScriptedServing] = []

    def add(self, script: ScriptedJob | ScriptedServing) -> None:
        """Use this script for the jobs or servings that are submitted from now on and match it."""
        if isinstance(script, ScriptedJob):
            self._jobs.insert(0, script)
        else:
            self._servings.insert(0, script)

    def for_job(self, spec: JobSpec) -> ScriptedJob | None:
        """Return the script for a job; None: the job really runs."""
        return next((script for script in self._jobs if script.matches(spec)), None)

    def for_serving(self, spec: ServingSpec) -> ScriptedServing | None:
        """Return the script for a serving; None: the serving really runs."""
        return next((script for script in self._servings if script.matches(spec)), None)
