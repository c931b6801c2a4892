"""The page "BitaHub job" in a real Airflow and a real browser: while a job runs, and however it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import pytest

from airflow_bitahub.demo import platform
from airflow_bitahub.demo.platform import FOLDERS, server_folder
from airflow_bitahub.emulator.scripts import ScriptedJob
from tests.browser import Keyboard
from tests.e2e.conftest import wait_until
from tests.ports import free_port
from tests.ui.conftest import STRANGER, Site

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.e2e, pytest.mark.long]

MARKUP = "<img src=x onerror=document.title='hacked'>"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63600000000200014aaf290a"
    "0000000049454e44ae426082"
)
CURVE = [
    {"step": n, "loss": 2.2 / n, "val_loss": 2.4 / n, "accuracy": 1 - 0.9 / n, "val_accuracy": 1 - 1 / n}
    for n in range(1, 13)
]
MATRIX = {"labels": ["0", "1", MARKUP], "counts": [[48, 1, 1], [0, 50, 0], [2, 5, 43]]}
OUTPUTS = {
    "dense-mnist-tf/saved_model.pb": b"\0" * 123_456,
    "dense-mnist-tf/metrics.jsonl": "".join(f"{json.dumps(line)}\n" for line in CURVE) + "not JSON\n",
    "confusion_matrix.json": MATRIX,
    "evaluation_result.json": {"accuracy": 0.94},
    "digit.png": PNG,
    "report.html": f"<script>document.title='hacked'</script>{MARKUP}",
    "chart.svg": "<svg xmlns='http://www.w3.org/2000/svg'><script>document.title='hacked'</script></svg>",
    f"{MARKUP}.txt": f"plain text {MARKUP}\n",
}
LOG = f"\x1b[32mEpoch 1/12\x1b[0m\nstep 1\rstep 2\n{MARKUP}\nnever-shown\n"


@dataclass
class Run:
    """A run of the DAG, with a job in every state."""

    site: Site
    run_id: str

    def query(self, task_id: str, map_index: str = "{MAP_INDEX}", **more: str) -> dict[str, str]:
        return {"dag_id": "pages", "run_id": self.run_id, "task_id": task_id, "map_index": map_index, **more}

    def text(self, task_id: str, map_index: str = "{MAP_INDEX}", **more: str) -> str:
        answer = self.site.get("bitahub/job", **self.query(task_id, map_index, **more))
        assert answer.status_code == 200, answer.text
        return answer.text

    def folder(self, task_id: str) -> Path:
        """Return the output folder of a task's job, on this machine."""
        url = f"/dags/pages/dagRuns/{self.run_id}/taskInstances/{task_id}/state-store/bitahub_job"
        return server_folder(self.site.emulator.storage, self.site.airflow.call("GET", url)["value"]["output_path"])

    def path(self, task_id: str) -> str:
        """Return the address of the tab in the Airflow UI."""
        return f"dags/pages/runs/{self.run_id}/tasks/{task_id}/plugin/bitahub-job"


@pytest.fixture(scope="module")
def run(site: Site) -> Iterator[Run]:
    server_folder(site.emulator.storage, FOLDERS.dataset("mnist")[0]).mkdir(parents=True)
    scripts: list[dict[str, Any]] = [
        {"job_name": "succeeds-*", "run_seconds": 3, "outputs": OUTPUTS, "log": LOG},
        {"job_name": "fails-*", "exit_code": 3, "log": "Traceback: no such file\n"},
        {"job_name": "runs-*", "run_seconds": 3000, "log": "working\n"},
        {"job_name": "waits-*", "run_seconds": 3000},
        {"job_name": "mapped-*", "command": "exit 0"},
        {"job_name": "mapped-*", "command": "exit 1", "exit_code": 1},
    ]
    for script in scripts:
        site.emulator.scripts.add(ScriptedJob(**script))
    site.airflow.await_dag("pages")
    run_id = site.airflow.trigger("pages")
    wanted = {
        "succeeds": "success",
        "fails": "failed",
        "runs": "running",
        "waits": "deferred",
        "other": "success",
        "mapped[0]": "success",
        "mapped[1]": "failed",
    }

    def states() -> dict[str, str]:
        return {name: task["state"] for name, task in site.airflow.tasks("pages", run_id).items()}

    wait_until(lambda: states() == wanted)
    yield Run(site, run_id)
    site.airflow.call("PATCH", f"/dags/pages/dagRuns/{run_id}", {"state": "failed"})


def is_narrow_enough(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_the_tab_of_a_task_and_the_keyboard(run: Run) -> None:
    with run.site.open(run.path("succeeds")) as page:
        frame = page.frame_locator("iframe")
        frame.get_by_role("heading", name="succeeds-").wait_for()
        frame.get_by_text("Succeeded").first.wait_for()
        theme = frame.locator("html")
        page.evaluate("document.documentElement.className = 'dark'")
        frame.locator("html[data-theme=dark]").wait_for()
        dark = theme.evaluate("page => getComputedStyle(page.ownerDocument.body).backgroundColor")
        page.evaluate("document.documentElement.className = 'light'")
        frame.locator("html[data-theme=light]").wait_for()
        assert theme.evaluate("page => getComputedStyle(page.ownerDocument.body).backgroundColor") != dark
        with page.expect_popup() as tab:  # the frame itself may not open one
            frame.get_by_role("link", name="Open on the platform").click()
        tab.value.close()
        page.goto(f"{run.site.airflow.url}/bitahub/job?{urlencode(run.query('succeeds'))}")
        keyboard = Keyboard(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        keyboard.press(page.get_by_role("link", name="Show the log"))
        assert page.locator("#log").inner_text() == f"Epoch 1/12\nstep 2\n{MARKUP}\n***"
        keyboard.press(page.get_by_role("link", name=f"{MARKUP}.txt"))
        page.get_by_text(f"plain text {MARKUP}").wait_for()
        keyboard.press(page.get_by_role("link", name="succeeds-"))
        keyboard.press(page.get_by_role("link", name="digit.png"))
        page.get_by_role("img", name="digit.png").wait_for()
        assert page.evaluate("document.querySelector('img').naturalWidth") == 1
        keyboard.press(page.get_by_role("link", name="succeeds-"))
        keyboard.press(page.get_by_text("Submission as sent"))
        assert "python train.py --epochs 12" in page.get_by_role("main").inner_text()
        assert "hacked" not in page.title()


def test_chinese_dark_narrow_and_without_a_script(run: Run) -> None:
    settings: dict[str, Any] = {"locale": "zh-CN", "color_scheme": "dark", "viewport": {"width": 340, "height": 700}}
    queries = {task: urlencode(run.query(task)) for task in ("succeeds", "fails", "runs", "waits", "mapped", "other")}
    with run.site.open("bitahub/static/icon.svg", java_script_enabled=False, **settings) as page:
        for query in queries.values():
            page.goto(f"{run.site.airflow.url}/bitahub/job?{query}")
            assert is_narrow_enough(page), query
            assert page.locator("html").get_attribute("lang") == "zh"
        page.goto(f"{run.site.airflow.url}/bitahub/job-log?{queries['succeeds']}")
        assert "A100" in page.get_by_text("加速卡").first.locator("..").inner_text()
        assert is_narrow_enough(page)
        page.get_by_role("link", name="metrics.jsonl").click()
        page.get_by_text('{"step": 1, "loss": 2.2').wait_for()
        page.wait_for_load_state()  # with its style sheet
        assert is_narrow_enough(page)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_a_live_page_shows_what_has_changed(run: Run) -> None:
    with run.site.open(f"bitahub/job?{urlencode(run.query('runs'))}") as page:
        page.get_by_text("There are no output files").wait_for()
        folder = run.folder("runs")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n')
        page.get_by_role("heading", name="Metrics").wait_for()
        page.get_by_role("link", name="metrics.jsonl").wait_for()


def test_what_the_page_says_in_every_state(run: Run) -> None:
    succeeds, fails, runs, waits = map(run.text, ("succeeds", "fails", "runs", "waits"))
    for text in ("Succeeded", "3.0 s", "A100", "Confusion matrix", "val_accuracy", "/data/PengchengYang/mnist"):
        assert text in succeeds
    assert "data-refresh" not in succeeds
    for text in ("Failed", "ended with exit code 3"):
        assert text in fails
    first = next(name for name in re.findall(r"fails-[\w-]+", fails) if name.endswith("-1"))
    earlier = run.text("fails", job=first)
    assert "This is an earlier job" in earlier
    assert f"outputs/{first.removeprefix('fails-')}" in earlier
    for text in (runs, waits):
        assert "Running" in text
        assert "data-refresh" in text
    assert [f"mapped [{index}]" in run.text("mapped") for index in (0, 1)] == [True, True]
    assert "Succeeded" in run.text("mapped", "0")
    assert "Failed" in run.text("mapped", "1")
    assert "no BitaHub job on record" in run.text("other")
    assert "no such task instance" in run.text("nothing")
    assert "no such job on record" in run.text("succeeds", job="somebody-elses")
    for text in (succeeds, fails, run.site.get("bitahub/job-log", **run.query("succeeds")).text):
        assert "<img src=x" not in text
        assert "never-shown" not in text
        assert run.site.emulator.token not in text


def test_files_are_text_pictures_or_downloads(run: Run) -> None:
    def content(path: str, **more: str) -> httpx.Response:
        return run.site.get("bitahub/content", **run.query("succeeds", path=path, **more))

    folder = run.folder("succeeds")
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "above").symlink_to(folder.parent)
    for path in ("report.html", "chart.svg", f"{MARKUP}.txt", "evaluation_result.json"):
        answer = content(path)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
    picture = content("digit.png")
    assert (picture.headers["content-type"], picture.content) == ("image/png", PNG)
    assert "content-disposition" not in picture.headers
    assert content("digit.png", save="1").headers["content-disposition"].endswith("digit.png")
    for path in ("link", "above/x", "../x", "dense-mnist-tf/../digit.png", "/etc/passwd", "no file", "a\0b", "."):
        assert content(path).status_code == 404, path
        page = run.site.get("bitahub/file", **run.query("succeeds", path=path))
        assert page.status_code in (200, 404)
        assert "root:" not in page.text
    assert "links are not followed" in run.site.get("bitahub/file", **run.query("succeeds", path="link")).text


def test_nobody_sees_more_than_airflow_shows_them(run: Run) -> None:
    query = run.query("succeeds", path="digit.png")
    for page in ("job", "job-log", "file", "content"):
        assert run.site.get(f"bitahub/{page}", STRANGER, **query).status_code == 403
        assert run.site.get(f"bitahub/{page}", "", **query).status_code == 401
        assert run.site.get(f"bitahub/{page}", **{**query, "dag_id": ""}).status_code == 404
    with run.site.open(f"bitahub/job?{urlencode(query)}", STRANGER, locale="zh-CN") as page_:
        page_.get_by_text("Airflow 未授权您查看此内容").wait_for()


def test_what_is_missing_is_said_in_a_sentence(run: Run) -> None:
    """Who may edit a task instance may also put anything on record for it; that leads nowhere."""
    site = run.site
    stored = f"/dags/pages/dagRuns/{run.run_id}/taskInstances/{{}}/state-store/bitahub_job"

    def record(task_id: str, value: Any) -> str:
        site.airflow.call("PUT", stored.format(task_id), {"value": value, "expires_at": None})
        return run.text(task_id)

    known = site.airflow.call("GET", stored.format("waits"))["value"]
    secret = server_folder(site.emulator.storage, "/datasets/someone/secret")
    secret.mkdir(parents=True)
    (secret / "secret.txt").write_text("not for everyone")
    strange: list[Any] = ["text", 5, [], {}, {"job_name": 5}, {**known, "output_path": None}]
    for value in strange:
        assert "no BitaHub job on record" in record("other", value)
    assert "The job on record is not shown" in record("other", {**known, "job_name": "nightly-train"})
    # A task of no operator of ours has no connection, so nothing is asked for it.
    assert "which connection the task used" in record("other", known)
    moved = record("waits", {**known, "job_name": f"{known['job_name']}1", "output_path": "/datasets/someone/secret"})
    assert "The platform no longer has this job" in moved
    assert "It is not certain" in moved
    assert "secret.txt" not in moved
    record("waits", known)
    connection = site.airflow.call("GET", "/connections/bitahub_default")
    extra = json.loads(connection["extra"])

    def with_connection(**changes: Any) -> str:
        site.airflow.set_connection({**platform.connection(site.emulator), **changes})
        return run.text("succeeds")

    try:
        unreachable = with_connection(host=f"http://127.0.0.1:{free_port()}", port=None)
        assert "The platform could not be asked" in unreachable
        assert "3.0 s" in unreachable  # as the task's result says
        without = {name: value for name, value in extra.items() if name != "storage_uri"}
        assert "storage_uri" in with_connection(extra=json.dumps(without))
        site.airflow.call("DELETE", "/connections/bitahub_default")
        assert "cannot use the connection bitahub_default" in run.text("succeeds")
    finally:
        site.airflow.set_connection(platform.connection(site.emulator))
