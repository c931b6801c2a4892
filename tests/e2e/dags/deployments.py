"""One serving that is deployed again and again: by good versions and by bad ones, in every way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, TriggerRule
from airflow.sdk.bases.operator import chain

from airflow_bitahub.operators.rollback import BitaHubRollbackServingOperator
from airflow_bitahub.operators.serving import BitaHubDeployServingOperator

# It answers a picture with ANSWER after DELAY seconds, and any other request with its VERSION.
PROGRAM = """
import http.server, json, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(os.environ["VERSION"])
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(float(os.environ.get("DELAY", 0)))
        self.answer(json.dumps({"predictions": [int(os.environ["ANSWER"])]}))
    def answer(self, text):
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
START = f"exec python3 -c '{PROGRAM}'"
CHECK = {"image_url": "http://pictures.example.com/7.png", "expected": 7, "longest_seconds": 5}  # on a busy machine

with DAG(dag_id="deployments", schedule=None):

    def deploy(task_id: str, **arguments: Any) -> BitaHubDeployServingOperator:
        envs = {"VERSION": task_id, "ANSWER": arguments.pop("answer", 7), "DELAY": arguments.pop("delay", 0)}
        defaults = {"serving_name": "again-and-again", "model": "served", "image": "python:3", "commands": START}
        return BitaHubDeployServingOperator(
            **{
                "task_id": task_id,
                "envs": envs,
                "checks": [CHECK],
                "poll_interval": 1,
                "retries": 1,
                "retry_delay": timedelta(seconds=1),
                "trigger_rule": TriggerRule.ALL_DONE,
                **defaults,
                **arguments,
            }
        )

    chain(
        deploy("first"),
        deploy("good", deferrable=True, defer_after=0),
        deploy("unknown-image", image="nobody-has-this"),
        deploy("unknown-model", model="nobody-has-this"),
        deploy("crash", commands="echo the model does not load; exit 3", deferrable=True, defer_after=0, retries=0),
        deploy("wrong", answer=3, deferrable=True),
        deploy("slow", delay=8),
        deploy("good-in-place", strategy="in_place", bake_seconds=5),
        deploy("crash-in-place", strategy="in_place", commands="exit 3", retries=0),
        BitaHubRollbackServingOperator(
            task_id="back", serving_name="again-and-again", checks=[CHECK], poll_interval=1, trigger_rule="all_done"
        ),
        deploy("wrong-recreated", strategy="recreate", answer=3, deferrable=True),
        deploy("good-recreated", strategy="recreate"),
    )
