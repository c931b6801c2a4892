"""A report in Airflow's own form of an approval, with the picture of the confusion matrix."""

from __future__ import annotations

import pytest

from airflow_bitahub.emulator.scripts import ScriptedJob
from tests.conftest import until
from tests.ui.conftest import STRANGER, Site

pytestmark = [pytest.mark.e2e, pytest.mark.long]

MARKUP = "<script>alert(1)</script>"
MATRIX = {"labels": ["0", "1", MARKUP], "counts": [[48, 1, 1], [0, 50, 0], [2, 5, 43]]}
OUTPUTS = {"evaluation_result.json": {"accuracy": 0.94, MARKUP: 1}, "confusion_matrix.json": MATRIX}


def test_report_shows_the_metrics_and_the_confusion_matrix_to_whom_may_see_it(site: Site) -> None:
    site.emulator.scripts.add(ScriptedJob(job_name="approved-*", outputs=OUTPUTS))
    site.airflow.await_dag("approval")
    run_id = site.airflow.trigger("approval")
    until(
        lambda: {name: task["state"] for name, task in site.airflow.tasks("approval", run_id).items()},
        lambda states: states.get("approve") == "awaiting_input",
        seconds=180,
    )
    query = {"dag_id": "approval", "run_id": run_id, "task_id": "evaluate"}
    picture = site.get("bitahub/confusion_matrix", **query)
    assert picture.status_code == 200, picture.text
    assert picture.headers["content-type"] == "image/svg+xml"
    policy = picture.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert "<script" not in picture.text
    assert "94.0%" in picture.text
    assert site.get("bitahub/confusion_matrix", STRANGER, **query).status_code == 403
    for nothing in ({"task_id": "report"}, {"run_id": "another"}, {"map_index": "3"}):
        assert site.get("bitahub/confusion_matrix", **{**query, **nothing}).status_code == 404

    with site.open(f"dags/approval/runs/{run_id}/tasks/approve/required_actions") as page:
        page.get_by_text("0.94").wait_for()
        image = page.get_by_role("img", name="Confusion matrix")
        until(lambda: image.evaluate("image => image.complete && image.naturalWidth"), lambda width: width > 200)
        assert page.get_by_text(MARKUP).count() == 1
        link = page.get_by_role("link", name="Confusion matrix")
        assert link.evaluate("link => link.href") == image.evaluate("image => image.src")
