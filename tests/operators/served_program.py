"""A program to be served, and a serving of it that no operator created."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from airflow_bitahub.api.servings import ServingModel, ServingProtocol, ServingSpec, create_serving
from airflow_bitahub.client import BitaHubClient
from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from tests.conftest import IMAGE

# It answers which model it serves, and what it was asked.
PROGRAM = """
import base64, http.server, json, os, pathlib

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(503 if self.path == "/sick" else 200, pathlib.Path(__file__).with_name("weights").read_text())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = self.headers["content-type"]
        data = {"predictions": [7], "path": self.path, "type": kind, "body": base64.b64encode(body).decode()}
        code = {"/refuse": 1}.get(self.path, 0)
        answer = {"data": data, "status": {"code": code, "msg": "not a picture" if code else "success"}}
        self.answer(500 if self.path == "/broken" else 200, "hello" if self.path == "/text" else json.dumps(answer))

    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
START = (
    "while [ -e /model/{user_name}/served/hold ]; do sleep 0.02; done; exec python /model/{user_name}/served/serve.py"
)


def model_path(version: str) -> str:
    return f"/models/{FOLDERS.user_id}/served/{version}"


@contextmanager
def no_serving_ready() -> Iterator[None]:
    """Keep the programs of new servings from starting inside the block, so that none of them is ready."""
    uri = json.loads(os.environ["AIRFLOW_CONN_BITAHUB_DEFAULT"])["extra"]["storage_uri"]
    storage = Path(unquote(urlsplit(uri).path))
    holds = [storage / model_path(version).lstrip("/") / "hold" for version in ("v1", "v2")]
    for hold in holds:
        hold.touch()
    try:
        yield
    finally:
        for hold in holds:
            hold.unlink()


def put_models(platform: Emulator) -> None:
    """Put two versions of the model into the storage, each with the program."""
    for version in ("v1", "v2"):
        folder = platform.storage / model_path(version).lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "serve.py").write_text(PROGRAM)
        (folder / "weights").write_text(version)


def foreign_serving(client: BitaHubClient, name: str) -> None:
    """Create a serving as another user does, and wait until it runs."""
    model = ServingModel(path=model_path("v1"), mount_path=FOLDERS.model("served")[1])
    commands = [FOLDERS.fill(START)]
    client.send(
        create_serving(
            ServingSpec(name=name, model=model, image=IMAGE, protocols=[ServingProtocol()], commands=commands)
        )
    )


def ask(url: str) -> str:
    return httpx.get(url, trust_env=False, verify=False).text
