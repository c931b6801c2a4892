"""The third part, if asked for: one tiny serving, and everything that can be done with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_bitahub.api import candidates
from airflow_bitahub.api.platform import ServingStatus
from airflow_bitahub.api.servings import (
    Serving,
    ServingModel,
    ServingProtocol,
    ServingResource,
    ServingSpec,
    create_serving,
    delete_serving,
    get_serving,
    get_serving_log,
    list_servings,
    scale_serving,
    start_serving,
    stop_serving,
    update_serving,
)
from airflow_bitahub.doctor.jobs import CORES, MEMORY_MB
from airflow_bitahub.doctor.report import FAILS, WORKS
from airflow_bitahub.exceptions import BitaHubError, NotFoundError
from airflow_bitahub.procedures.retry import may_have_taken_effect
from airflow_bitahub.procedures.servings import end_serving, wait_for_serving

if TYPE_CHECKING:
    from airflow_bitahub.api.protocol import Call
    from airflow_bitahub.doctor.examination import Examination

_VERSION, _PORT = "v1", 5000  # seed
# The emulator gives each program its own address; on the platform a container has one of its own.
_COMMAND = f'exec python -m http.server "${{PORT:-{_PORT}}}" --bind "${{HOST:-0.0.0.0}}" --directory /model'
_SECONDS = 60.0  # in which a stop, a start or a removal must show


def announce(examination: Examination) -> None:
    """Say what the serving costs, before it is created."""
    namespace = examination.settings.platform().serving_namespace
    examination.report.say(
        f"\nOne tiny serving follows in {namespace!r}: {CORES} core and {MEMORY_MB} MB, no accelerator. It serves\n"
        f"until the doctor removes it.\n"
    )


def examine_serving(examination: Examination, model_path: str) -> None:
    """Create a serving, do everything with it, and remove it.

    :param model_path: the server path of a folder with a file in it
    """
    name, report = examination.name("serving"), examination.report
    spec = ServingSpec(
        name=name,
        model=ServingModel(path=model_path, mount_path="/model"),
        image=examination.hook.default_image or candidates.IMAGE,
        resource=ServingResource(cpu=CORES, memory_mb=MEMORY_MB),
        protocols=[ServingProtocol(port=_PORT)],
        commands=[_COMMAND],
        version=_VERSION,
    )
    what = f"serving {name}"
    examination.remember(what, lambda: _remove(examination, name))
    try:
        examination.send(create_serving(spec))
    except BitaHubError as error:
        report.row(FAILS, "create a serving", examination.why(error))
        if not may_have_taken_effect(error):
            examination.forget(what)
        return
    report.row(WORKS, "create a serving", examination.address("create_serving"))
    if _wait(examination, name, "serve"):
        _list(examination, name)
        _try(examination, "log of a serving", get_serving_log(name, _VERSION, 20))
        if _try(examination, "update a serving", update_serving(spec)):
            operation = "update_serving"
            # Only an installation whose connection names it is known to replace specifications in place.
            examination.adopt({"endpoints": {operation: examination.settings.platform().endpoints[operation]}})
        _try(examination, "scale a serving", scale_serving(name, _VERSION, 1))
        if _try(examination, "stop a serving", stop_serving(name, _VERSION)):
            _wait_until_stopped(examination, name)
            if _try(examination, "start a serving", start_serving(name, _VERSION)):
                _wait(examination, name, "serve again")
    if _try(examination, "remove a serving", delete_serving(name, _VERSION)):
        _wait_until_removed(examination, name)


def _try(examination: Examination, what: str, call: Call[Any]) -> bool:
    found = examination.find(call)
    if found.error is not None:
        examination.report.row(FAILS, what, examination.why(found.error))
        return False
    examination.report.row(WORKS, what, examination.address(call.request.operation))
    return True


def _wait(examination: Examination, name: str, what: str) -> bool:
    started = _look_until(examination, name, _has_started, examination.timeout)
    if started is None or started.status is not ServingStatus.RUNNING:
        state = started or "It was never seen"
        examination.report.row(FAILS, what, f"{state}; the doctor waited up to {examination.timeout:.0f} s.")
        return False
    try:
        deadline = time.time() + _SECONDS
        serving = examination.run(wait_for_serving(name, _VERSION, poll_interval=0.5, deadline=deadline))
    except BitaHubError as error:
        examination.report.row(
            FAILS,
            what,
            f"{error}\nIt runs, so this machine may not reach its address, {started.url or 'which is missing'}.",
        )
        return False
    examination.report.row(WORKS, what, f"It answers at {serving.url}")
    return True


def _list(examination: Examination, name: str) -> None:
    report = examination.report
    try:
        is_there = any(serving.name == name for serving in examination.send(list_servings()))
    except BitaHubError as error:
        report.row(FAILS, "list servings", examination.why(error))
    else:
        detail = examination.address("list_servings") + ("" if is_there else ": but it is not in the list")
        report.row(WORKS if is_there else FAILS, "list servings", detail)


def _wait_until_stopped(examination: Examination, name: str) -> None:
    serving = _look_until(examination, name, lambda serving: serving is None or serving.status.is_terminal)
    if serving is None or not serving.status.is_terminal:
        examination.report.row(FAILS, "stop a serving", f"After {_SECONDS:.0f} s: {serving or 'it is gone'}")


def _wait_until_removed(examination: Examination, name: str) -> None:
    if (serving := _look_until(examination, name, lambda serving: serving is None)) is not None:
        examination.report.row(FAILS, "remove a serving", f"After {_SECONDS:.0f} s: {serving}")
        return
    examination.forget(f"serving {name}")


def _has_started(serving: Serving | None) -> bool:
    return serving is not None and (serving.status is ServingStatus.RUNNING or serving.status.is_terminal)


def _look_until(
    examination: Examination, name: str, is_enough: Callable[[Serving | None], bool], seconds: float = _SECONDS
) -> Serving | None:
    """Return the serving when enough is seen, or after so many seconds; None: the platform has none."""
    deadline = time.monotonic() + seconds
    serving: Serving | None = None
    while True:
        try:
            serving = examination.send(get_serving(name, _VERSION))
        except NotFoundError:
            serving = None
        except BitaHubError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
            continue  # a failed query says nothing
        if is_enough(serving) or time.monotonic() > deadline:
            return serving
        time.sleep(0.1)


def _remove(examination: Examination, name: str) -> None:
    try:
        serving = examination.send(get_serving(name, _VERSION))
    except NotFoundError:
        return
    examination.run(end_serving(serving, _VERSION, timeout=_SECONDS))
