"""The document's own bodies, sent as they are by curl, and the kind of service that its authors have.

That one listens on its fixed port, knows no ``PORT``, takes pictures by the form fields ``urls``, ``files`` and
``base64s``, and reports errors inside HTTP 200.
"""

from __future__ import annotations

import base64
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.emulator.mounts.relay import INSIDE
from airflow_bitahub.emulator.mounts.sandbox import bubblewrap_problem
from airflow_bitahub.emulator.mounts.workdir import network_in
from airflow_bitahub.emulator.run.ports import backend_in
from airflow_bitahub.emulator.server import Emulator
from tests.emulator.conftest import JOBS, SERVINGS, Api
from tests.ports import free_port

GOLDEN = Path(__file__).parents[2] / "golden"
USER = "_2f1fe8d0df7a48f6b471e02e054b4852"
NAME = "mnist-serving-demo-1234"
DIGIT = b"a picture of a seven: 7"
NO_BUBBLEWRAP = bubblewrap_problem()
needs_bubblewrap = pytest.mark.skipif(bool(NO_BUBBLEWRAP), reason=f"no network of their own: {NO_BUBBLEWRAP}")
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

IMAGES = f"""
[[image]]
pattern = "*"
python = "{sys.executable}"
[image.files]
"/mnist-serving" = "service"
"""
# Takes the last character of a picture for its digit.
SERVICE = """
import base64, email, http.server, json, os, secrets, urllib.parse, urllib.request

PORT, ME = {port}, secrets.token_hex(4)
assert os.path.isdir(os.environ["MODEL_PATH"])

def pictures(kind, body):
    if kind.startswith("multipart/"):
        parts = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\\r\\n\\r\\n" + body).get_payload()
        parts = [part for part in parts if part.get_param("name", header="content-disposition") == "files"]
        return [part.get_payload(decode=True) for part in parts]
    form = urllib.parse.parse_qs(body.decode())
    return [urllib.request.urlopen(url, timeout=5).read() for url in form.get("urls", ())] + [
        base64.b64decode(text) for text in form.get("base64s", ())]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            digits = [int(content[-1:]) for content in pictures(self.headers["Content-Type"], body)]
            answer = {{"data": {{"predictions": digits, "me": ME}}, "status": {{"code": 0, "msg": "success"}}}}
        except Exception as error:
            answer = {{"data": None, "status": {{"code": 400, "msg": repr(error)}}}}
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(answer).encode())

http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
"""


def curl(*arguments: str | Path) -> Any:
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Platform:
    """An emulator with the files that the document's bodies name."""

    def __init__(self, root: Path, mounts: str, port: int) -> None:
        (root / "service").mkdir()
        (root / "service/serving.py").write_text(SERVICE.format(port=port))
        images = root / "images.toml"
        images.write_text(
            f'[[image]]\npattern = "*"\npython = "{sys.executable}"\n[image.files]\n"/mnist-serving" = "service"\n'
        )
        self.root, self.port = root, port
        self.emulator = Emulator(root / "home", images=images, mounts=mounts, grace=1.0, serving_restarts=1)
        storage = self.emulator.storage
        for folder in (f"models/{USER}/dense-mnist-tf/dense-mnist-tf", f"datasets/{USER}/MNIST"):
            (storage / folder).mkdir(parents=True)
        for kind, program in (("train", "train"), ("infer", "predict"), ("eval", "evaluate")):
            code = storage / f"projects/{USER}/mnist-{kind}-demo/code/dense-mnist-tf"
            code.mkdir(parents=True)
            (code / f"{program}.py").write_text("import sys\nprint(*sys.argv)\n")

    def send(self, body: str, path: str, **changes: Any) -> None:
        """Send the body of a file of tests/golden, unchanged unless `changes` say otherwise."""
        file = self.root / "body.json"
        file.write_text(json.dumps({**json.loads((GOLDEN / f"{body}.json").read_text())["request"]["json"], **changes}))
        token = self.root / "token"
        token.write_text(f'header = "Authorization: Bearer {self.emulator.token}"')
        head = ("-K", token, "-H", "Content-Type: application/json")
        assert curl(*head, "-d", f"@{file}", self.emulator.url + path)["status"] == {"code": 0, "msg": "success"}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A picture at an address of this machine, and as a file."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "digit-7.png").write_bytes(DIGIT)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/digit-7.png", folder / "digit-7.png"
        server.shutdown()


def check_answers(url: str, picture: tuple[str, Path]) -> set[str]:
    """Ask a service in each of the three ways, and return which of its programs answered."""
    text = base64.b64encode(DIGIT).decode()
    ways = (("-d", f"urls={picture[0]}"), ("-F", f"files=@{picture[1]}"), ("--data-urlencode", f"base64s={text}"))
    answers = [curl(*way, f"{url}/image") for way in ways]
    assert [answer["data"]["predictions"] for answer in answers] == [[7]] * 3, answers
    refused = curl("-d", "urls=http://127.0.0.1:1/none.png", f"{url}/image")
    assert (refused["data"], refused["status"]["code"]) == (None, 400)
    return {answer["data"]["me"] for answer in answers}


@needs_bubblewrap
def test_several_of_the_authors_servings_run_at_once(tmp_path: Path, picture: tuple[str, Path]) -> None:
    platform = Platform(tmp_path, "bubblewrap", port=5000)
    with platform.emulator:
        api = Api(platform.emulator)
        with api.http:
            platform.send("serving_create", SERVINGS)
            platform.send("serving_create", SERVINGS, name="another", replicas=2)
            first = check_answers(api.wait_served(NAME)["hosts"], picture)
            second = check_answers(api.wait_served("another")["hosts"], picture)
            assert (len(first), len(second), len(first | second)) == (1, 2, 3)


def test_where_only_one_of_them_can_run_the_others_say_why(tmp_path: Path, picture: tuple[str, Path]) -> None:
    port = free_port()
    protocols = [{"kind": "http", "port": port}]
    platform = Platform(tmp_path, "links", port)
    with platform.emulator:
        api = Api(platform.emulator)
        with api.http:
            platform.send("serving_create", SERVINGS, protocols=protocols)
            url = api.wait_served(NAME)["hosts"]
            platform.send("serving_create", SERVINGS, protocols=protocols, name="another")
            failed = api.wait_serving("another", "FAILED")
            words = f"port {port} is in use by replica 0 of serving '{NAME}'"
            assert words in failed["message"]
            assert words in failed["podstatuses"][0]["message"]
            assert len(check_answers(url, picture)) == 1, "it is asked, although it knows no PORT"


@pytest.mark.parametrize("kind", ["train", "infer", "evaluate"])
def test_the_documents_jobs_run(platform: tuple[Platform, Api], kind: str) -> None:
    job = json.loads((GOLDEN / f"{kind}_job.json").read_text())["request"]["json"]
    emulated, api = platform
    emulated.send(f"{kind}_job", f"{JOBS}/{job['jobName']}")
    assert api.wait_job(job["jobName"])["state"] == "SUCCEEDED"
    if api.emulator.is_sandboxed:  # otherwise the program is given other paths
        arguments = job["taskRoles"][0]["command"].partition("python ")[2]
        assert api.log(job["jobName"]) == arguments.rstrip(";") + "\n"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, Api]]:
    platform = Platform(tmp_path_factory.mktemp("platform"), "auto", port=5000)
    (platform.emulator.storage / f"projects/{USER}/mnist-infer-demo/outputs/1").mkdir(parents=True)
    with platform.emulator:
        api = Api(platform.emulator)
        with api.http:
            yield platform, api


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has bubblewrap")
def test_a_link_in_the_place_of_a_programs_socket_is_not_followed(tmp_path: Path) -> None:
    file = network_in(tmp_path) / INSIDE
    file.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(file.with_name("another")))
        file.symlink_to("another")
        assert backend_in(tmp_path) is None
