"""The page "BitaHub job" in a real Airflow and a real browser."""

from __future__ import annotations

import pytest

from airflow_bitahub.emulator.scripts import ScriptedJob
from tests.ui.conftest import STRANGER, Site

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run_id(site: Site) -> str:
    site.emulator.scripts.add(ScriptedJob(job_name="succeeds-*", log="epoch 1\n"))
    site.airflow.await_dag("pages")
    return site.airflow.trigger("pages")


def test_the_page_of_a_finished_job(site: Site, run_id: str) -> None:
    site.airflow.wait("pages", run_id, seconds=300)
    path = f"dags/pages/runs/{run_id}/tasks/succeeds"
    with site.open(path) as page:
        page.get_by_role("tab", name="BitaHub job").or_(page.get_by_role("link", name="BitaHub job")).first.click()
        page.frame_locator("iframe").get_by_role("heading", name="succeeds-").wait_for()
    query = {"dag_id": "pages", "run_id": run_id, "map_index": "{MAP_INDEX}"}
    assert "no BitaHub job on record" in site.get("bitahub/job", **query, task_id="other").text
    assert "no such task instance" in site.get("bitahub/job", **query, task_id="nothing").text
    assert site.get("bitahub/job", STRANGER, **query, task_id="succeeds").status_code == 403
