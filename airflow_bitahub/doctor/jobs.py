"""The second part: two tiny jobs, one that ends by itself and one that is stopped."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_bitahub.api import candidates
from airflow_bitahub.api.job_owner import get_job_owner
from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.jobs import JobSpec, Mount, TaskRole, get_job, read_job_log, stop_job, submit_job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.doctor.report import FAILS, NOTE, SKIPPED, WORKS
from airflow_bitahub.exceptions import BitaHubError, NotFoundError
from airflow_bitahub.procedures.jobs import end_job, list_all_jobs
from airflow_bitahub.procedures.probing import observe_job
from airflow_bitahub.procedures.retry import may_have_taken_effect

if TYPE_CHECKING:
    from airflow_bitahub.doctor.examination import Examination
    from airflow_bitahub.doctor.shared_folder import SharedFolder
    from airflow_bitahub.procedures.probing import Observation

CORES, MEMORY_MB = 1, 512
LIFETIME = 180  # seconds after which the second job ends by itself
_LOG_DELAY = 10  # seconds after which what a job printed must be in its log


def announce(examination: Examination) -> None:
    """Say what the jobs cost, before they are submitted."""
    namespace = examination.settings.platform().job_namespace
    examination.report.say(
        f"\nTwo tiny jobs follow in {namespace!r}: {CORES} core and {MEMORY_MB} MB each, no accelerator. The first\n"
        f"ends at once, the second is stopped when it runs (it would end after {LIFETIME} s). Their names begin with\n"
        f"{examination.name('')!r}. Ctrl-C removes them; --no-job leaves them out.\n"
    )


def examine_jobs(examination: Examination) -> bool:
    """Submit a job that ends by itself, query it, list it and read its log. Return whether jobs can be run."""
    name = examination.name("1")
    if not _submit(examination, name, f"echo {examination.mark}"):
        return False
    seen = examination.run(observe_job(name, lambda job: job.status.is_terminal, seconds=examination.timeout))
    if not _has_succeeded(examination, name, seen):
        return False
    _list(examination, name)
    _find_owner(examination, name)
    _remove(examination, name)
    return True


def examine_stop(examination: Examination, folder: SharedFolder | None) -> None:
    """Submit a job that lasts, and stop it when it runs.

    :param folder: what the job shares with Airflow; None: it has no folder
    """
    name, report = examination.name("2"), examination.report
    command = f"echo {examination.mark}" if folder is None else folder.command
    output = None if folder is None else Mount.of(folder.server_path, "/output")
    if not _submit(examination, name, f"{command}; sleep {LIFETIME}", output):
        return
    seen = examination.run(observe_job(name, _has_started, seconds=examination.timeout))
    running = seen
    _learn_words(examination, name, running)
    if seen.job is None or seen.job.status.is_terminal:
        state = seen.job or seen.error or f"it was not seen within {examination.timeout:.0f} s"
        report.row(FAILS, "run with a folder" if folder else "run", f"{state}")
    elif folder is not None:
        folder.check(lambda: _log(examination, name, examination.mark))
    found = examination.find(stop_job(name))
    if found.error is not None:
        report.row(FAILS, "stop a job", examination.why(found.error))
        return
    seen = examination.run(observe_job(name, lambda job: job.status.is_terminal, seconds=examination.timeout))
    is_stopped = seen.job is not None and seen.job.status is JobStatus.STOPPED
    if seen.is_stuck and seen.words[-1] not in (*running.words, examination.ended_in):
        _name_word(examination, seen.words[-1], JobStatus.STOPPED)
        is_stopped = True
    detail = f"{examination.address('stop_job')}, then {' -> '.join(seen.words)}"
    report.row(WORKS if is_stopped else FAILS, "stop a job", detail)
    _remove(examination, name)


def _submit(examination: Examination, name: str, command: str, output: Mount | None = None) -> bool:
    """Submit a job, and return whether the platform has it."""
    report, image = examination.report, examination.hook.default_image or candidates.IMAGE
    role = TaskRole(cpu=CORES, memory_mb=MEMORY_MB, shm_mb=64, image=image, command=command)
    spec = JobSpec(job_name=name, task_roles=[role], output=output)
    is_confirmed = False

    def remove() -> None:
        examination.run(end_job(name, may_appear=not is_confirmed, timeout=30))
        with suppress(BitaHubError):
            examination.send(stop_job(name))  # of a finished job, this removes the record

    examination.remember(f"job {name}", remove)
    try:
        examination.send(submit_job(spec))
    except BitaHubError as error:
        report.row(FAILS, "submit a job", examination.why(error))
        if not may_have_taken_effect(error):
            examination.forget(f"job {name}")
        return False
    is_confirmed = True
    if name == examination.name("1"):
        method, path = examination.settings.platform().locate("submit_job", {"name": "NAME"})
        report.row(WORKS, "submit a job", f"{method} {path}")
    return True


def _has_started(job: Job) -> bool:
    return job.status is JobStatus.RUNNING or job.status.is_terminal


def _has_succeeded(examination: Examination, name: str, seen: Observation) -> bool:
    """Report the job's states and its log, and return whether it has succeeded."""
    report, words = examination.report, " -> ".join(seen.words)
    if seen.job is None:
        detail = examination.why(seen.error) if seen.error else "It was never seen."
        report.row(FAILS, "query a job", detail)
        return False
    report.row(WORKS, "query a job", f"{examination.address('get_job')}: {words}")
    may_have_run = seen.is_stuck or seen.job.status.is_successful
    log = _log(examination, name, examination.mark if may_have_run else "")
    if seen.is_stuck and examination.mark in log:
        examination.ended_in = seen.words[-1]
    elif not seen.job.status.is_successful:
        report.row(FAILS, "run a job", _why_not(examination, seen.job, log))
        return False
    if not examination.hook.default_image:
        examination.adopt({"default_image": candidates.IMAGE})
        report.row(NOTE, "image", f"The document's image works: {candidates.IMAGE}")
    return True


def _why_not(examination: Examination, job: Job, log: str) -> str:
    image = examination.hook.default_image or candidates.IMAGE
    if job.status is JobStatus.WAITING:
        return (
            f"It still waited after {examination.timeout:.0f} s, for a place or for its image ({image}). Try again "
            f"with a longer --timeout."
        )
    if job.status.is_terminal:
        said = f"\nIts log ends with: {log.splitlines()[-1]}" if log else ""
        return f"The {job}.{said}\nCheck that the platform has the image {image!r}; otherwise set 'default_image'."
    if job.status is JobStatus.UNKNOWN:
        return (
            f"It stays in the state {job.raw_state!r}, whose meaning is not known. Find it in the platform's console, "
            f'and set {{"status_words": {{"{job.raw_state}": "..."}}}}.'
        )
    return f"The {job} after {examination.timeout:.0f} s."


def _learn_words(examination: Examination, name: str, running: Observation) -> None:
    """Learn the platform's words for jobs that run and that have succeeded, where these are not known.

    A platform may show the end of a job late. So a word means the end only if it is not shown for a job that runs.

    :param running: of a job that lasts
    """
    report, ended_in = examination.report, examination.ended_in
    runs = running.is_stuck and examination.mark in _log(examination, name, examination.mark)
    if runs and running.words[-1] != ended_in:
        _name_word(examination, running.words[-1], JobStatus.RUNNING)
    if not ended_in:
        return
    if running.job is not None and ended_in not in running.words:
        _name_word(examination, ended_in, JobStatus.SUCCEEDED)
    else:
        report.row(
            FAILS,
            "state",
            f"The platform says {ended_in!r} for a job that has ended, and perhaps for one that runs. Find out on its\n"
            f"pages what that means, and set the extra 'status_words'.",
        )


def _name_word(examination: Examination, word: str, meaning: JobStatus) -> None:
    """Use a word of the platform for a state."""
    examination.adopt({"status_words": {word: meaning.value}})
    examination.report.row(NOTE, "state", f"The platform says {word!r} for {meaning.value}.")


def _log(examination: Examination, name: str, expected: str) -> str:
    """Return a job's log, "" where it cannot be read. The first time, report whether and where it can be read.

    :param expected: what the job must have printed, so that the log is complete only with it
    """
    report, call = examination.report, read_job_log(name, 20)
    deadline = time.monotonic() + _LOG_DELAY
    is_first = name == examination.name("1")
    found = examination.find(call)
    while found.error is None and expected not in str(found.answer) and time.monotonic() < deadline:
        time.sleep(0.2)
        found = examination.find(call)
    if is_first and found.error is not None:
        report.row(FAILS, "log of a job", examination.why(found.error))
        report.row(NOTE, "", "Without it, Airflow's logs do not show what jobs print; all else works.")
    elif is_first:
        is_there = expected in str(found.answer)
        detail = "" if is_there else "; but what the job printed is not in it"
        report.row(WORKS if is_there else FAILS, "log of a job", examination.address("read_job_log") + detail)
    return str(found.answer or "")


def _list(examination: Examination, name: str) -> None:
    if examination.settings.text("watch") == "single":
        return
    try:
        jobs, _ = examination.run(list_all_jobs())
    except BitaHubError as error:
        examination.report.row(FAILS, "job in the list", examination.why(error))
    else:
        if any(job.name == name for job in jobs):
            examination.report.row(WORKS, "job in the list", examination.address("list_jobs"))
            return
        examination.report.row(FAILS, "job in the list", "The list does not have it, so jobs are queried one by one.")
    examination.adopt({"watch": "single"})


def _find_owner(examination: Examination, name: str) -> None:
    """Use the user's id that the platform shows, where the connection has none."""
    report, stated = examination.report, examination.settings.text("user_id")
    try:
        owner = examination.send(get_job_owner(name))
    except BitaHubError:
        owner = ""
    if not stated and owner:
        examination.adopt({"user_id": owner})
        report.row(WORKS, "user_id", f"The platform says that the job belongs to {owner}.")
    elif not stated:
        report.row(
            SKIPPED,
            "user_id",
            "The platform does not say it, and paths of code, data and results contain it. Look it up on the\n"
            "platform's pages ('_' and 32 letters and digits), set the extra 'user_id', and run the doctor again.",
        )
    elif owner and owner != stated:
        report.row(NOTE, "user_id", f"The extra says {stated!r}; the platform says that the job belongs to {owner!r}.")


def _remove(examination: Examination, name: str) -> None:
    """Remove the record of a finished job."""
    report, is_last = examination.report, name == examination.name("2")
    try:
        examination.send(stop_job(name))
        examination.send(get_job(name))
    except NotFoundError:
        if is_last:
            report.row(WORKS, "remove a job", "Stopping a finished job removes its record.")
    except BitaHubError as error:
        if is_last:
            report.row(NOTE, "remove a job", f"Records of finished jobs stay. {error}")
    else:
        if is_last:
            report.row(NOTE, "remove a job", "Records of finished jobs stay.")
    examination.forget(f"job {name}")
