"""The page "BitaHub job" in a real Airflow and a real browser: while a job runs, and however it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from airflow_bitahub.demo.platform import FOLDERS, server_folder
from airflow_bitahub.emulator.scripts import ScriptedJob
from tests.conftest import until
from tests.ui.conftest import Site

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Page

pytestmark = pytest.mark.e2e

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
LOG = f"\x1b[32mEpoch 1/12\x1b[0m\nstep 1\rstep 2\n{MARKUP}\n"


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

    until(states, lambda states: states == wanted, seconds=300)
    yield Run(site, run_id)
    site.airflow.call("PATCH", f"/dags/pages/dagRuns/{run_id}", {"state": "failed"})


def frame_of(page: Page) -> FrameLocator:
    return page.frame_locator("iframe")


def test_shots(run: Run) -> None:
    with run.site.open(run.path("succeeds")) as page:
        frame_of(page).get_by_role("heading", name="succeeds-").wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path="/tmp/shots/job-1.png")
    from urllib.parse import urlencode

    for task in ("succeeds", "fails", "runs", "waits", "other"):
        with run.site.open(f"bitahub/job-log?{urlencode(run.query(task))}") as page:
            page.screenshot(path=f"/tmp/shots/page-{task}.png", full_page=True)
