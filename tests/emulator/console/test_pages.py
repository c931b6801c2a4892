"""What the pages show, and that nothing they show is trusted."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_bitahub.emulator.console.logs import readable_tail
from airflow_bitahub.emulator.console.texts import TEXTS
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.pages.language import LANGUAGES, language_of
from tests.emulator.conftest import JOBS, SERVINGS, Api, mount
from tests.emulator.console.conftest import CONSOLE, sign_in, visitor_of

MARKUP = "<img src=x onerror=alert(1)>"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
SECRET = "hunter2-hunter2"
OUTPUTS = {
    "notes.txt": f"two\nlines {MARKUP}",
    "evaluation_result.json": {"accuracy": 0.9784, "words": "数字"},
    "broken.json": "{",
    "half.json": '"\\ud800 half"',
    "folder/deep/curve.png": PNG,
    "page.html": "<script>alert(1)</script>",
    "picture.svg": "<svg onload=alert(1)>",
    "picture.SVG": "<svg onload=alert(1)>",
    "weights.bin": b"\0\1\2",
    f"{MARKUP.replace('/', '')}.txt": "name",
    "a b?#%.txt": "odd name",
    "long.txt": "数" * 100_000,
}


@pytest.fixture(scope="module")
def job(api: Api, emulator: Emulator) -> str:
    """The address of a job whose every word is markup, with an output of each kind, and links in it."""
    emulator.scripts.add(ScriptedJob(command="*scripted*", exit_code=3, log=f"line\r\n{MARKUP}\n", outputs=OUTPUTS))
    role = api.job_body()["taskRoles"][0]
    role |= {"command": f"scripted {MARKUP} --api-token {SECRET} PASSWORD='{SECRET}'", "image": MARKUP}
    name = api.submit(
        taskRoles=[{**role, "accDevice": {"kind": "gpu", "requests": 2, "deviceType": MARKUP}}],
        queue=MARKUP,
        output=mount("/projects/u/p/outputs/marked", "/output"),
    )
    api.wait_job(name)
    output = emulator.storage / "projects/u/p/outputs/marked"
    (output / "link.txt").symlink_to(emulator.home / "records.sqlite")
    (output / "linked").symlink_to(emulator.home)
    return f"{CONSOLE}/jobs/bita-user/{name}"


def text_of(page: httpx.Response) -> str:
    """Return what a person reads."""
    assert page.status_code == 200, page.text
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page.text)))


def test_a_job(visitor: httpx.Client, job: str) -> None:
    page = visitor.get(job)
    text = text_of(page)
    for fact in ("Failed", "exit code 3", "2 \u00d7 ", "Exit code 3", "/projects/u/p/outputs/marked", "/data/u/MNIST"):
        assert fact in text
    assert f"line {MARKUP}" in text
    assert '"taskRoles"' in text
    assert "POST at" in text
    assert "<img src=x" not in page.text
    for script in re.findall(r"<script[^>]*>", page.text):
        assert re.fullmatch(rf'<script src="{CONSOLE}/static/(console|live)\.js" defer>', script)
    assert " style=" not in page.text
    log = visitor.get(f"{job}/log")
    assert (log.text, log.headers["content-type"]) == (f"line\r\n{MARKUP}\n", "text/plain; charset=utf-8")
    assert log.headers["content-disposition"].startswith("attachment")


def test_secrets_of_a_submission_are_hidden(visitor: httpx.Client, job: str) -> None:
    text = text_of(visitor.get(job))
    assert "--api-token *** PASSWORD=***" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("path", "shown", "media_type"),
    [
        ("notes.txt", f"two lines {MARKUP}", None),
        ("evaluation_result.json", '{ "accuracy": 0.9784, "words": "数字" }', None),
        ("broken.json", " { ", None),
        ("half.json", '"? half"', None),
        ("folder/deep/curve.png", "curve.png", "image/png"),
        ("page.html", "not shown here", None),
        ("picture.svg", "not shown here", None),
        ("picture.SVG", "not shown here", None),
        ("weights.bin", "not shown here", None),
        (f"{MARKUP}.txt", " name ", None),
        ("a b?#%.txt", "odd name", None),
        ("long.txt", "Only the beginning is shown", None),
    ],
)
def test_a_file(visitor: httpx.Client, job: str, path: str, shown: str, media_type: str | None) -> None:
    links = [html.unescape(link) for link in re.findall(r'href="([^"]*/view/[^"]*)"', visitor.get(job).text)]
    [link] = [link for link in links if httpx.URL(link).path == f"{job}/view/{path}"]
    page = visitor.get(link)
    assert shown in text_of(page)
    assert "<img src=x" not in page.text
    assert ("<img src=" in page.text.replace('<img src="/console/static', "")) == (media_type is not None)

    file = visitor.get(link.replace("/view/", "/files/"))
    assert file.headers["content-type"] == media_type or "application/octet-stream"
    assert ("content-disposition" in file.headers) == (media_type is None)
    assert "sandbox" in file.headers["content-security-policy"]
    expected = OUTPUTS[path]
    if isinstance(expected, str | bytes):
        assert file.content == (expected if isinstance(expected, bytes) else expected.encode())
    assert "attachment" in visitor.get(link.replace("/view/", "/files/") + "?save=1").headers["content-disposition"]


@pytest.mark.parametrize("way", ["view", "files"])
@pytest.mark.parametrize(
    "path",
    [
        *(
            "link.txt",
            "linked/records.sqlite",
            "linked",
            "folder",
            "folder/",
            "/etc/passwd",
            "../1",
            "%2e%2e/marked",
            "",
        ),
        *("folder/%2e%2e/notes.txt", "folder//deep/curve.png", "nothing", "no%00thing", "x" * 5000),
    ],
)
def test_no_file_elsewhere(visitor: httpx.Client, job: str, way: str, path: str) -> None:
    assert visitor.get(httpx.URL(job).join(f"{job}/{way}/").join(".").raw_path.decode() + path).status_code == 404
    assert "link" not in text_of(visitor.get(job))


def test_an_output_folder_that_became_a_link_shows_nothing(api: Api, emulator: Emulator, visitor: httpx.Client) -> None:
    (emulator.storage / "projects/u/other").mkdir()
    (emulator.storage / "projects/u/other/file").write_text("theirs")
    name = api.submit("scripted", output=mount("/projects/u/p/outputs/linked", "/output"))
    api.wait_job(name)
    output = emulator.storage / "projects/u/p/outputs/linked"
    output.rename(output.with_name("moved"))
    output.symlink_to(emulator.storage / "projects/u/other")
    assert "There are no output files" in text_of(visitor.get(f"{CONSOLE}/jobs/bita-user/{name}"))
    assert visitor.get(f"{CONSOLE}/jobs/bita-user/{name}/files/file").status_code == 404


@pytest.mark.parametrize("namespaces", [{}, {"job_namespace": "theirs", "serving_namespace": "served"}], ids=str)
def test_a_connection_leads_here(emulator: Emulator, api: Api, namespaces: dict[str, str]) -> None:
    extra = emulator.connection(**namespaces)["extra"]
    jobs = JOBS.replace("bita-user", namespaces.get("job_namespace", "bita-user"))
    servings = SERVINGS.replace("inference/serving", f"{namespaces.get('serving_namespace', 'inference')}/serving")
    emulator.scripts.add(ScriptedServing())
    assert api.http.post(f"{jobs}/led", json=api.job_body("scripted", name="led")).status_code == 200
    assert api.http.post(servings, json=api.serving_body("x", name="led")).status_code == 200
    for key in ("console_url", "serving_console_url", "model_console_url"):
        page = api.http.get(extra[key].replace("{name}", "led"))
        assert (page.status_code, "<h1>" in page.text) == (200, True)
    api.http.delete(f"{servings}/led")
    api.http.delete(f"{jobs}/led")


@pytest.mark.parametrize(
    ("url", "is_shown"),
    [
        ("http://airflow.test/dags/d/runs/manual__2026%2B00/tasks/t", True),
        ("https://airflow.test/<b>'\"x", True),
        ("javascript:alert(1)//http://airflow.test/", False),
        ("http:///dags", False),
        ("http://[x/", False),
        ("", False),
    ],
)
def test_the_airflow_task_is_one_click_away(
    api: Api, emulator: Emulator, visitor: httpx.Client, url: str, is_shown: bool
) -> None:
    emulator.scripts.add(ScriptedServing())
    body = api.job_body("scripted")
    for path, sent in ((f"{JOBS}/{body['jobName']}", body), (SERVINGS, api.serving_body("x", name="linked"))):
        assert api.http.post(path, json=sent, headers={"X-Airflow-Task-URL": url}).status_code == 200
    for path in (f"jobs/bita-user/{body['jobName']}", "servings/inference/linked"):
        page = visitor.get(f"{CONSOLE}/{path}").text
        assert ("Airflow task" in page) is is_shown
        links = re.findall(r'<a href="([^"]*)" rel="noopener noreferrer">', page)
        assert [html.unescape(link) for link in links] == [url] * is_shown
    api.http.delete(f"{SERVINGS}/linked")


def test_a_removed_job_is_still_shown(api: Api, visitor: httpx.Client) -> None:
    name = api.submit("scripted")
    api.wait_job(name)
    api.http.delete(f"{JOBS}/{name}")
    text = text_of(visitor.get(f"{CONSOLE}/jobs/bita-user/{name}"))
    assert "was removed at" in text
    assert "DELETE 200" in text
    assert name not in visitor.get(f"{CONSOLE}/jobs").text


@pytest.mark.parametrize(
    ("query", "is_found"),
    [("", True), ("?state=FAILED&name=JOB-", True), ("?state=RUNNING", False), ("?name=%3Cb%3E", False)]
    + [(f"?page={page}", True) for page in ("0", "99999999999", "x", "²")],
)
def test_the_list_is_filtered(visitor: httpx.Client, job: str, query: str, is_found: bool) -> None:
    page = visitor.get(f"{CONSOLE}/jobs{query}")
    assert page.status_code == 200
    assert (f'href="{job}"' in page.text) == is_found
    assert "<b>" not in page.text
    assert "<img src=x" not in page.text


@pytest.fixture
def small(images_file: Path, tmp_path: Path) -> Iterator[Emulator]:
    """An emulator with room for one job, and with servings that need their token."""
    with Emulator(
        tmp_path, images=images_file, accelerators={"gtx-1080-ti": 1}, serving_tokens=True, mounts="links"
    ) as emulator:
        for folder in ("projects/u/p/code", "datasets/u/MNIST", "models/u/dense/1", "models/u/dense/2"):
            (emulator.storage / folder).mkdir(parents=True)
        emulator.scripts.add(ScriptedJob(run_seconds=1000))
        yield emulator


def test_capacity_models_and_servings(small: Emulator) -> None:
    api = Api(small)
    role = api.job_body()["taskRoles"][0] | {"accDevice": {"kind": "gpu", "requests": 1, "deviceType": "gtx-1080-ti"}}
    answer = {"data": {"predictions": [7], "probabilities": [[0.1, 0.2, *[0.0] * 5, 0.7]]}, "status": {"code": 0}}
    small.scripts.add(ScriptedServing(serving_name="good", answer=answer))
    small.scripts.add(ScriptedServing(serving_name="odd", answer={"status": {"code": 400, "msg": MARKUP}}))
    small.scripts.add(ScriptedServing(serving_name="down", exit_code=1))
    with api.http, visitor_of(small) as visitor:
        sign_in(visitor, small)
        for name, folder in (("first", "/projects/u/p/outputs/1"), ("second", "/models/u/dense/2")):
            api.submit(name=name, taskRoles=[role], output=mount(folder, "/output"))
        api.wait_job("first", "RUNNING")
        text = text_of(visitor.get(f"{CONSOLE}/capacity"))
        assert "Jobs at once 1 8" in text
        assert "gtx-1080-ti 1 1" in text
        assert "Running jobs (1) first" in text
        assert "Waiting jobs (1) Queue default second" in text
        assert "1 gtx-1080-ti requested, 0 free" in text

        model = {"kind": "nfs", "path": "/models/u/dense/2", "mountPath": "/m"}
        for name in ("good", "odd", "down"):
            api.serve("x", name=name, model=model, envs={"API_TOKEN": SECRET, "MODEL_PATH": "/m"})
        api.wait_served("good")
        api.wait_serving("down", "FAILED")
        text = text_of(visitor.get(f"{CONSOLE}/models"))
        assert re.search(r"/models/u/dense .* 2 [\d: -]+ 0 B second down Failed odd Running good Running ", text)

        page = f"{CONSOLE}/servings/inference/good"
        text = text_of(visitor.get(page))
        for fact in ("Running minutes", "gtx-1080-ti minutes", "good-0 Running ready", '"MODEL_PATH": "/m"'):
            assert fact in text
        assert "Failed" in text_of(visitor.get(f"{CONSOLE}/servings/inference/down"))
        assert visitor.get(f"{page}?version=v2").status_code == 404

        files: Any = [("files", ("七.png", PNG)), ("files", ("8.png", PNG))]
        text = text_of(visitor.post(f"{page}/ask?version=v1", files=files))
        assert "HTTP 200" in text
        assert re.search(r"Picture 1 7 Prediction Probability 0 10.0 % 1 20.0 % .* 7 70.0 %", text)
        refused = visitor.post(f"{CONSOLE}/servings/inference/odd/ask", files=files)
        assert MARKUP in text_of(refused)
        assert MARKUP not in refused.text
        assert "No answer after" in text_of(visitor.post(f"{CONSOLE}/servings/inference/down/ask", files=files))

        tokens = [small.token, SECRET, *(serving.token for serving in small.state.servings())]
        paths = ["jobs", "jobs/bita-user/first", "servings", "models", "capacity", "faults", "servings/inference/good"]
        for path in paths:
            shown = visitor.get(f"{CONSOLE}/{path}").text
            assert not [token for token in tokens if token in shown]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"kind": "close_after", "method": "POST", "path": "*/nowhere/*", "times": "2"}, "0 of 2"),
        ({"kind": "refuse", "method": "*", "path": "", "times": ""}, '"status":429'),
        ({"json": '{"match": {"path": "/<b>"}, "effect": {"delay": 7}}'}, '{"delay":7.0}'),
        ({"kind": "nonsense"}, None),
        ({"kind": "slow", "method": "<b>", "times": "1"}, None),
        ({"kind": "slow", "times": "0"}, None),
        ({"json": '{"effect": "<b>"}'}, None),
        ({"json": "<b>"}, None),
        ({}, None),
    ],
)
def test_faults_are_set_and_removed(
    emulator: Emulator, owner: httpx.Client, form: dict[str, str], words: str | None
) -> None:
    answer = owner.post(f"{CONSOLE}/faults", data=form or {"": ""})
    assert "<b>" not in answer.text
    if words is None:
        assert (answer.status_code, list(emulator.faults)) == (400, [])
        return
    page = owner.get(f"{CONSOLE}/faults")
    assert words in text_of(page)
    assert "<b>" not in page.text
    [armed] = emulator.faults
    for _ in range(2):
        assert owner.post(f"{CONSOLE}/faults/{armed.id}/remove").status_code == 303
    assert list(emulator.faults) == []
    assert armed.seen == 0, "no fault strikes the pages"


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("ZH-hant", "zh"),
        ("en;q=0.5, zh;q=0.7", "zh"),
        ("fr,en-GB;q=0.5,zh;q=0.4", "en"),
        ("fr", "en"),
        ("zh;q=nonsense", "en"),
        ("zh;q=0", "en"),
    ],
)
def test_the_browsers_language(visitor: httpx.Client, accepted: str, language: str) -> None:
    assert language_of(accepted) == language
    page = visitor.get(f"{CONSOLE}/jobs", headers={"Accept-Language": accepted})
    assert f'<html lang="{language}">' in page.text
    assert {"en": "Jobs", "zh": "作业"}[language] in text_of(page)
    assert "Accept-Language" in page.headers["vary"]


def test_every_text_has_the_same_placeholders_in_both_languages() -> None:
    for texts in TEXTS.values():
        assert len(texts) == len(LANGUAGES)
        assert len({tuple(sorted(re.findall(r"{\w+}", text))) for text in texts}) == 1


@pytest.mark.parametrize(
    ("printed", "shown", "is_cut"),
    [
        (b"", "", False),
        (b"a\nb\n", "a\nb", False),
        ("训练\n".encode(), "训练", False),
        (b"1/3\r2/3\r3/3\ndone\r\n", "3/3\ndone", False),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x08\x00x\ty", "red x\ty", False),
        ("a\u202eb".encode(), "ab", False),
        (b"\xff\xfe", "\ufffd\ufffd", False),
        (b"".join(b"%d\n" % number for number in range(500)), "\n".join(map(str, range(100, 500))), True),
        (b"x" * 200_000, "x" * 1000 + " [... 126000 characters left out ...] " + "x" * 1000, True),
        (b"x" * 200_000 + b"\nend\n", "end", True),
    ],
)
def test_the_end_of_a_log(tmp_path: Path, printed: bytes, shown: str, is_cut: bool) -> None:
    (tmp_path / "log").write_bytes(printed)
    assert readable_tail(tmp_path / "log") == (shown, is_cut)


def test_no_log(tmp_path: Path) -> None:
    assert readable_tail(tmp_path / "log") == ("", False)
