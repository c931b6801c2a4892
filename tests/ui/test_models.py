"""The page "Models" of a DAG in a real Airflow and a real browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from tests.ui.conftest import STRANGER, Site

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Page

pytestmark = [pytest.mark.e2e, pytest.mark.long]

RUNS = {"models-good": 0.95, "models-bad": 0.7, "models-better": 0.97}  # the accuracy by the project that evaluates
NAME = "<script>alert(1)</script>"  # of a metric


@pytest.fixture(scope="module")
def runs(site: Site) -> list[str]:
    """Three runs, of which the second one's gate is closed."""
    site.emulator.scripts.add(ScriptedServing(serving_name="models-net*"))
    for project in ("models-train", "models-save"):
        site.emulator.scripts.add(ScriptedJob(job_name=f"{project}-*", run_seconds=1))
    for project, accuracy in RUNS.items():
        log = json.dumps({"accuracy": accuracy, NAME: 1 - accuracy})
        site.emulator.scripts.add(ScriptedJob(job_name=f"{project}-*", log=log))
    site.airflow.await_dag("lifecycle")
    started = []
    for project in RUNS:  # one after the other: the gate compares with what serves
        run_id = site.airflow.trigger("lifecycle", {"evaluation": project})
        site.airflow.wait("lifecycle", run_id, seconds=300)
        started.append(run_id)
    return started


def shown(page: Page) -> FrameLocator:
    """Return the page in its frame."""
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="Models of lifecycle").wait_for()
    return frame


def test_the_tab_shows_metrics_gates_versions_and_what_serves(site: Site, runs: list[str]) -> None:
    with site.open("dags/lifecycle") as page:
        page.get_by_role("link", name="Models", exact=True).click()
        frame = shown(page)
        chart = frame.get_by_role("img", name="accuracy; evaluate: last 0.97")
        assert chart.locator(".mark.good").count() == 2
        assert [mark.text_content() for mark in chart.locator(".mark.bad").all()] == [
            "gate: closed, not accuracy >= 0.9 (0.7); closed, not accuracy >= champion.accuracy - 0.005 (0.7)"
        ]
        assert chart.locator(".threshold").count() == 2
        assert frame.get_by_role("img", name=NAME).count() == 1  # a text
        frame.get_by_role("img", name="GPU hours").wait_for()
        champion = frame.locator(".champion")
        assert "0.97" in champion.inner_text()
        assert runs[2] in champion.inner_text()
        states = frame.get_by_role("group", name="Model net").locator("tbody tr .badge").all_inner_texts()
        assert states == ["serves now", "gate closed", "served before"]
        assert frame.get_by_role("group", name="Runs").locator("tbody tr").count() == 3
        frame.locator(".champion").get_by_role("link").click()
        page.wait_for_url(lambda url: f"/dags/lifecycle/runs/{runs[2]}" in unquote(url))


@pytest.mark.parametrize(
    ("settings", "heading"),
    [
        ({"viewport": {"width": 1280, "height": 1000}}, "Models of lifecycle"),
        ({"color_scheme": "dark"}, "Models of lifecycle"),
        ({"viewport": {"width": 360, "height": 800}}, "Models of lifecycle"),
        ({"locale": "zh-CN"}, "lifecycle 的模型"),
    ],
    ids=["light", "dark", "narrow", "Chinese"],
)
def test_the_page_fits_every_reader(settings: dict[str, Any], heading: str, site: Site, runs: list[str]) -> None:  # noqa: ARG001
    with site.open("bitahub/models?dag_id=lifecycle", **settings) as page:
        page.get_by_role("heading", name=heading).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details[open]").count() == 1


@pytest.mark.parametrize(("query", "status"), [({"dag_id": "nothing"}, 200), ({}, 404), ({"offset": "-1"}, 404)])
def test_wrong_addresses_are_errors(query: dict[str, str], status: int, site: Site) -> None:
    assert site.get("bitahub/models", **query).status_code == status


def test_who_may_not_see_the_dag_sees_nothing(site: Site) -> None:
    answer = site.get("bitahub/models", STRANGER, dag_id="lifecycle")
    assert answer.status_code == 403
    assert "accuracy" not in answer.text
