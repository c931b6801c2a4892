"""What the routes work with. They are shared by all emulators of a process, so each request brings its emulator's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from airflow_bitahub.emulator.faults.faults import Faults
from airflow_bitahub.emulator.http.profiles import Profile
from airflow_bitahub.emulator.run.runner import Runner
from airflow_bitahub.emulator.state.state import State


@dataclass(frozen=True)
class AppContext:
    """The parts of one emulator.

    :param profile: how queries of jobs are answered
    """

    state: State
    runner: Runner
    faults: Faults
    profile: Profile


async def _context_of(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context_of)]
