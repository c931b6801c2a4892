"""The pages of jobs."""

from __future__ import annotations

import json
from collections import Counter
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.emulator.console.access import ROOT
from airflow_bitahub.emulator.console.files import Entry, Folder, kind_of, read_text, size_of, stream
from airflow_bitahub.emulator.console.logs import readable_tail
from airflow_bitahub.emulator.console.pages import context_of, render
from airflow_bitahub.emulator.console.timeline import job_timeline
from airflow_bitahub.emulator.state.errors import InvalidRequest, NotFound
from airflow_bitahub.emulator.state.records import JobKey, LedgerEntry, StoredJob
from airflow_bitahub.pages.file_kinds import Kind, attachment, file_headers, indented
from airflow_bitahub.pages.hiding import hide_secrets

_PAGE = 50  # jobs
_MAX_REQUESTS = 200
_MAX_LOG_BYTES = 64 << 20
_STATES = [status.value for status in JobStatus if status is not JobStatus.UNKNOWN]


def list_jobs(request: Request) -> Response:
    """Show jobs, newest first."""
    context, query = context_of(request), request.query_params
    state, words, page = query.get("state", ""), query.get("name", "").strip(), query.get("page", "1")
    number = int(page) if page.isdecimal() and len(page) < 8 else 1
    jobs = context.state.jobs()
    counts = Counter(job.status.value for job in jobs)
    found = [job for job in jobs if state in ("", job.status.value) and words.lower() in job.key.name.lower()]
    last = max(1, -(-len(found) // _PAGE))
    number = min(max(1, number), last)

    def page_address(other: int) -> str:
        return f"{ROOT}/jobs?{urlencode({'state': state, 'name': words, 'page': other})}"

    return render(
        request,
        "jobs.html",
        jobs=found[(number - 1) * _PAGE : number * _PAGE],
        total=len(jobs),
        counts=counts,
        states=_STATES,
        state=state,
        words=words,
        number=number,
        last=last,
        newer=page_address(number - 1) if number > 1 else "",
        older=page_address(number + 1) if number < last else "",
    )


def show_job(request: Request) -> Response:
    """Show a job, also one that was removed."""
    context, entry = context_of(request), _entry(request)
    job = entry.record
    logs = context.runner.jobs.logs_of(job)
    tails = {f"{role}-{index}": readable_tail(file) for (role, index), file in logs.items()}
    is_cut = any(is_cut for _, is_cut in tails.values())
    text = "\n".join(f"[{task}]\n{text}" if len(tails) > 1 else text for task, (text, _) in tails.items())
    files, has_more = _files(request, job)
    output = job.spec.output
    return render(
        request,
        "job.html",
        job=job,
        entry=entry,
        is_live=not job.status.is_terminal,
        timeline=job_timeline(job, entry.requests, context.state.now()),
        accelerators=job.spec.accelerators,
        mounts=job.spec.named_mounts,
        submission=json.dumps(hide_secrets(job.spec.body()), indent=2, ensure_ascii=False),
        log=text,
        log_is_cut=is_cut,
        files=files,
        has_more_files=has_more,
        output_path=output.mount_source.path if output else "",
        requests=entry.requests[-_MAX_REQUESTS:][::-1],
        left_out=entry.forgotten + max(0, len(entry.requests) - _MAX_REQUESTS),
    )


def download_log(request: Request) -> Response:
    """Send the log as it is."""
    context, entry = context_of(request), _entry(request)
    content = b""
    for file in context.runner.jobs.logs_of(entry.record).values():
        try:
            with file.open("rb") as log:
                content += log.read(_MAX_LOG_BYTES - len(content))
        except OSError:
            raise NotFound("there is no log") from None
    return Response(content, media_type="text/plain; charset=utf-8", headers=attachment(f"{entry.record.key.name}.log"))


def view_file(request: Request) -> Response:
    """Show an output file on a page: text, JSON or a picture."""
    entry, path = _entry(request), request.path_params["path"]
    with _output(request, entry.record) as folder, folder.open(path) as file:
        kind, _ = kind_of(path, file)
        text, is_cut = read_text(file) if kind is Kind.TEXT else ("", False)
    if path.lower().endswith(".json") and not is_cut:
        text = indented(text)
    return render(request, "file.html", job=entry.record, file=path, kind=kind.value, text=text, is_cut=is_cut)


def send_file(request: Request) -> Response:
    """Send an output file: a picture to be shown, anything else to be saved."""
    entry, path = _entry(request), request.path_params["path"]
    with _output(request, entry.record) as folder:
        file = folder.open(path)
    kind, media_type = kind_of(path, file)
    size = size_of(file)
    headers = file_headers(path, kind, media_type, save="save" in request.query_params)
    return StreamingResponse(stream(file, size), headers={**headers, "Content-Length": str(size)})


def _entry(request: Request) -> LedgerEntry:
    key = JobKey(request.path_params["namespace"], request.path_params["name"])
    return context_of(request).state.ledger_entry(key)


def _output(request: Request, job: StoredJob) -> Folder:
    if job.spec.output is None:
        raise NotFound("the job has no output folder")
    return Folder(context_of(request).storage, job.spec.output.mount_source.path)


def _files(request: Request, job: StoredJob) -> tuple[list[Entry], bool]:
    """Return the output files, and whether there are more."""
    try:
        with _output(request, job) as folder:
            return folder.entries()
    except (NotFound, InvalidRequest):
        return [], False


_JOB = f"{ROOT}/jobs/{{namespace}}/{{name}}"
routes = [
    Route(f"{ROOT}/jobs", list_jobs),
    Route(_JOB, show_job),
    Route(f"{_JOB}/log", download_log),
    Route(f"{_JOB}/view/{{path:path}}", view_file),
    Route(f"{_JOB}/files/{{path:path}}", send_file),
]
