"""What the pages are made of, without an Airflow that runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from airflow_bitahub.api.job_reading import Job
from airflow_bitahub.api.platform import JobStatus
from airflow_bitahub.exceptions import StorageError
from airflow_bitahub.identity import new_token
from airflow_bitahub.operators.records import Submission
from airflow_bitahub.pages.file_kinds import Kind
from airflow_bitahub.storage.paths import Folders
from airflow_bitahub.storage.storage import Storage
from airflow_bitahub.ui import threads
from airflow_bitahub.ui.app import make_app
from airflow_bitahub.ui.job_view import view_job
from airflow_bitahub.ui.metrics import draw, training_curves
from airflow_bitahub.ui.outputs import OutputFolder
from airflow_bitahub.ui.ownership import is_own_folder, is_own_job
from airflow_bitahub.ui.store import StoredTask

FOLDER = "/projects/_u/p/outputs/20260101-abcde2345672-1"
GIVEN = {"output_version": "v7", "project": "p"}
OURS = f"20260101-{new_token('abcde')}-1"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The job's output folder on this machine."""
    folder = tmp_path / FOLDER.lstrip("/")
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def outputs(tmp_path: Path, written: Path) -> OutputFolder:  # noqa: ARG001
    return OutputFolder(Storage(tmp_path.as_uri()), FOLDER)


def test_the_plugin_loads_nothing_but_itself() -> None:
    program = """
import sys
import airflow.sdk.plugins_manager
before = set(sys.modules)
from airflow_bitahub.ui.plugin import BitaHubPlugin
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["airflow_bitahub.ui", "airflow_bitahub.ui.plugin"]


def test_files_of_the_folder_and_its_folders(outputs: OutputFolder, written: Path) -> None:
    assert outputs.files() == ([], False)
    (written / "model/variables").mkdir(parents=True)
    (written / "model/variables/data").write_bytes(b"12345")
    (written / "b.txt").write_text("text")
    (written / "link").symlink_to("/etc")
    assert [file.path for file in outputs.files().files] == ["b.txt", "link", "model/variables/data"]
    assert outputs.files().files[-1].size == 5
    file = outputs.open("b.txt")
    assert file is not None
    assert (file.content, file.kind) == (b"text", Kind.TEXT)
    assert outputs.open("c.txt") is None
    for path in ("../x", "model/../b.txt", "", "a\0", "/b.txt"):
        assert outputs.open(path) is None
    for path in ("link", "link/passwd"):
        with pytest.raises(StorageError, match="links are not followed"):
            outputs.open(path)


def test_what_is_listed_is_bounded(outputs: OutputFolder, written: Path) -> None:
    deep = written / "/".join("abcdefgh")
    deep.mkdir(parents=True)
    (deep / "far").touch()
    for number in range(320):
        (written / f"{number:03}").touch()
    listing = outputs.files()
    assert (len(listing.files), listing.has_more) == (300, True)


def test_the_curves_that_lie_highest_are_drawn(outputs: OutputFolder, written: Path) -> None:
    (written / "model/old").mkdir(parents=True)
    (written / "model/old/metrics.jsonl").write_text('{"step": 1, "old": 1}\n')
    (written / "model/metrics.jsonl").write_text('{"step": 1, "loss": 2, "val_loss": 3}\n{"step": 2, "loss": 1}\n')
    (written / "confusion_matrix.json").write_text(json.dumps({"labels": ["a"], "counts": [[3]]}))
    pictures = draw(outputs, outputs.files().files, step="step")
    assert [[line.name for line in chart.lines] for chart in pictures.curves] == [["loss", "val_loss"]]
    assert pictures.matrix[0] is not None
    (written / "confusion_matrix.json").unlink()
    (written / "confusion_matrix.json").symlink_to(written / "model/metrics.jsonl")
    assert draw(outputs, outputs.files().files, step="step").matrix == []


def test_lines_that_are_no_metrics_are_skipped() -> None:
    lines = [b"", b"[1]", b"{", b'{"loss": 1}', b'{"step": "1", "loss": 1}', b'{"step": true, "loss": 1}', b"\xff"]
    assert training_curves(lines, step="step") == []
    [chart] = training_curves([*lines, b'{"step": 1, "loss": NaN, "note": "x", "flag": true}'], step="step")
    assert [line.name for line in chart.lines] == ["loss"]


@pytest.mark.parametrize(
    ("name", "arguments", "is_own"),
    [
        pytest.param(f"mnist-{OURS}", {}, True, id="has a token"),
        pytest.param("nightly", {}, False, id="any name"),
        pytest.param("nightly", {"job_name": None}, False, id="no name was given"),
        pytest.param("nightly", {"job_name": "nightly"}, True, id="given"),
        pytest.param("nightly-2", {"job_name": "nightly"}, True, id="given, with a counter"),
        pytest.param("nightly-evil", {"job_name": "nightly"}, False, id="begins alike"),
    ],
)
def test_a_job_is_the_tasks_own(name: str, arguments: dict[str, str], is_own: bool) -> None:
    assert is_own_job(name, arguments) is is_own


@pytest.mark.parametrize(
    ("path", "arguments", "is_own"),
    [
        pytest.param(f"/projects/_u/p/outputs/{OURS}", {}, True, id="has a token"),
        pytest.param(f"/projects/../{OURS}", {}, False, id="above"),
        pytest.param(f"/etc/{OURS}", {}, False, id="not of the platform"),
        pytest.param("/datasets/_u/secret", {}, False, id="any folder"),
        pytest.param("/projects/_u/p/outputs/v7", {"output_version": "v7", "project": "p"}, True, id="given"),
        pytest.param(
            "/projects/_u/p/outputs/v7-2", {"output_version": "v7", "project": "p"}, True, id="with a counter"
        ),
        pytest.param("/models/_u/m/v7", {"output_version": "v7", "project": "p", "model": "m"}, True, id="a model"),
        pytest.param("/projects/_u/q/outputs/v7", {"output_version": "v7", "project": "p"}, False, id="elsewhere"),
        pytest.param("/projects/_x/p/outputs/v7", {"output_version": "v7", "project": "p"}, False, id="another user"),
        pytest.param(
            "/projects/_u/p/outputs/v8", {"output_version": "v7", "project": "p"}, False, id="another version"
        ),
    ],
)
def test_a_folder_is_the_tasks_own(path: str, arguments: dict[str, str], is_own: bool) -> None:
    assert is_own_folder(path, arguments, Folders("_u", "u")) is is_own


def test_what_the_platform_says_wins_over_what_is_on_record() -> None:
    body = {"jobName": "j", "taskRoles": [{"image": "python:3", "command": "TOKEN=abc run"}], "unknown": {"apiKey": 1}}
    submission = Submission(f"p-{OURS}", FOLDER, 1, 1, 100.0, body)
    result = {"job_name": f"p-{OURS}", "status": "SUCCEEDED", "queue_seconds": 2, "run_seconds": 3.5, "exit_code": 0}
    stored = StoredTask("success", [], None, [submission], result, {}, "")
    on_record = view_job(stored, submission, None, 0)
    assert (on_record.state, on_record.exit_code, on_record.times.ran) == ("SUCCEEDED", 0, 3500)
    assert on_record.images == ["python:3"]
    assert "abc" not in on_record.submission
    job = Job(name="j", status=JobStatus.UNKNOWN, raw_state="<odd>", created_at=100, started_at=110)
    said = view_job(stored, submission, job, 130_000)
    assert (said.state, said.raw_state, said.is_live, said.times.ran) == ("UNKNOWN", "<odd>", True, 20_000)
    assert said.timeline is not None
    strange = {**result, "status": "<odd>", "run_seconds": "x", "exit_code": True}
    view = view_job(replace(stored, result=strange), replace(submission, body={"taskRoles": 5}), None, 0)
    assert (view.state, view.exit_code, view.times.ran, view.mounts) == ("UNKNOWN", None, None, ())


def test_who_waits_for_a_storage_that_hangs_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SECONDS", 0.2)
    monkeypatch.setattr(threads, "_slots", threading.Semaphore(2))
    goes_on = threading.Event()

    async def ask() -> None:
        for _ in range(3):  # the third finds no free thread
            with pytest.raises(TimeoutError):
                await threads.in_thread(goes_on.wait)
        goes_on.set()
        monkeypatch.setattr(threads, "SECONDS", 60)
        assert await threads.in_thread(str, 5) == "5"
        with pytest.raises(ValueError, match="invalid literal"):
            await threads.in_thread(int, "x")

    asyncio.run(ask())


def test_a_page_that_takes_too_long_says_so_with_the_headers_of_all_pages() -> None:
    async def hang() -> None:
        raise TimeoutError

    app = make_app()
    app.add_api_route("/slow", hang)
    transport = httpx.ASGITransport(app)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            return await client.get("/slow")

    answer = asyncio.run(ask())
    assert answer.status_code == 503
    assert "There was no answer in time." in answer.text
    assert answer.headers["cache-control"] == "no-store"
