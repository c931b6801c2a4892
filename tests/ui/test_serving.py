"""The page of a task's serving, in a real Airflow and a real browser."""

from __future__ import annotations

import html
import re
from typing import Any

import httpx
import pytest

from airflow_bitahub.emulator.faults.faults import Effect, Fault, Records
from airflow_bitahub.emulator.scripts import ScriptedServing
from airflow_bitahub.emulator.state.serving_records import StoredServing
from tests.ui.conftest import STRANGER, Site

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SECRET = "hunter2-hunter2"


@pytest.fixture(scope="module")
def run_id(site: Site) -> str:
    site.emulator.scripts.add(ScriptedServing(serving_name="shown*", answer={"predictions": [7]}))
    site.airflow.await_dag("servings")
    run_id = site.airflow.trigger("servings")
    site.airflow.wait("servings", run_id, seconds=300)
    return run_id


def text_of(page: httpx.Response) -> str:
    assert page.status_code == 200, page.text
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page.text)))


def serving_of(site: Site) -> StoredServing:
    return next(each for each in site.emulator.state.servings() if each.key.name == "shown")


def look(site: Site, run_id: str, task_id: str, path: str = "bitahub/job", user: str = "admin") -> httpx.Response:
    return site.get(path, user, dag_id="servings", run_id=run_id, task_id=task_id, map_index="{MAP_INDEX}")


@pytest.mark.parametrize(
    ("task_id", "end", "steps"),
    [
        ("first", "deployed Version", ["Switch of the name", "Verification", "Tidying up"]),
        (
            "better",
            "deployed Version",
            ["Start of the candidate", "Checks of the candidate", "Switch of the name", "Verification", "Tidying up"],
        ),
        ("worse", "not deployed: the task's log says why", ["Start of the candidate", "Checks of the candidate"]),
        ("ask", "shown", []),
    ],
)
def test_what_a_task_did_and_what_serves(site: Site, run_id: str, task_id: str, end: str, steps: list[str]) -> None:
    page = look(site, run_id, task_id)
    text = text_of(page)
    found = re.findall(r'<span class="dot step [a-z]+"></span>([^:<]+): (?:\d+ min )?[0-9.]+ s<', page.text)
    assert found == steps
    assert "shown Running" in text
    assert end in text
    assert re.search(r"Running minutes \d+\.\d", text)
    assert re.search(r"serves now (this task )?/models/\w+/digits/2 accuracy 0.92 <b>loss</b> 0.1235", text)
    assert text.index("/digits/2 accuracy") < text.index("/digits/1 accuracy")
    assert "/digits/3 accuracy" not in text
    for secret in (SECRET, serving_of(site).token):
        assert secret not in page.text
    assert "<img src=x" not in page.text


def test_the_log_is_read_on_demand(site: Site, run_id: str) -> None:
    link = re.search(r'href="(serving-log\?[^"]*)"', look(site, run_id, "better").text)
    assert link
    assert "printed nothing yet" in text_of(look(site, run_id, "better", "bitahub/serving-log"))
    serving = serving_of(site)
    log = site.emulator.home / "servings" / serving.key.namespace / serving.key.name / serving.key.version / "log"
    log.write_text(f"Bearer {serving.token}\nLoading 10 %\rLoading 100 %\n<b>ready</b> --token={SECRET}\n")
    assert "Bearer *** Loading 100 % <b>ready</b> --token=***" in text_of(
        look(site, run_id, "better", "bitahub/serving-log")
    )


def test_what_the_platform_says_of_the_serving_is_masked_as_its_log(site: Site, run_id: str) -> None:
    said = f"Bearer {serving_of(site).token} --token={SECRET}"
    site.emulator.faults.add(Fault(effect=Effect(records=Records(patch={"message": said}))))
    text = text_of(look(site, run_id, "better"))
    site.emulator.faults.clear()
    assert "Bearer *** --token=***" in text


def test_who_may_not_see_the_task_sees_nothing(site: Site, run_id: str) -> None:
    for path in ("bitahub/job", "bitahub/serving-log"):
        assert look(site, run_id, "better", path, STRANGER).status_code == 403


def test_another_task_has_no_serving(site: Site, run_id: str) -> None:
    assert "no BitaHub job on record" in look(site, run_id, "other").text
    assert look(site, run_id, "other", "bitahub/serving-log").status_code == 404


@pytest.mark.parametrize(
    ("settings", "heading"),
    [
        ({}, "The deployment by this task"),
        ({"color_scheme": "dark"}, "The deployment by this task"),
        ({"locale": "zh-CN", "viewport": {"width": 360, "height": 900}}, "此任务的部署过程"),
    ],
    ids=["light", "dark", "narrow and Chinese"],
)
def test_the_page_in_a_browser(site: Site, run_id: str, settings: dict[str, Any], heading: str) -> None:
    query = f"dag_id=servings&run_id={run_id.replace('+', '%2B')}&task_id=better&map_index=-1"
    with site.open(f"bitahub/job?{query}", **settings) as page:
        page.get_by_role("heading", name=heading).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert "hacked" not in page.title()
