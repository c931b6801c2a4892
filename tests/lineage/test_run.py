"""A DAG run on a real Airflow with the real OpenLineage provider, which writes its events to a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.demo import platform
from airflow_bitahub.emulator.scripts import ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from tests.lineage.conftest import plain
from tests.lineage.standard import check_event
from tests.patient_airflow import PatientAirflow
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SECONDS = 500
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Events, list[str]]:
    """The states of the DAG run's tasks, all events, and what the jobs say is their parent."""
    root = tmp_path_factory.mktemp("lineage")
    events, images = root / "events.jsonl", root / "images.toml"
    images.write_text(f'[[image]]\npattern = "*"\npython = {json.dumps(sys.executable)}\n')
    config = {
        "openlineage.transport": json.dumps({"type": "file", "log_file_path": str(events), "append": True}),
        "openlineage.namespace": "tests",
    }
    with Emulator(root / "home", images=images, grace=1.0, serving_restarts=0) as emulator:
        emulator.scripts.add(ScriptedServing(serving_name="told*", answer={"predictions": [7]}))
        for folder in (platform.FOLDERS.dataset("MNIST")[0], platform.FOLDERS.model("told-model")[0]):
            platform.server_folder(emulator.storage, folder).mkdir(parents=True)
        dags = Path(__file__).parent / "dags"
        with PatientAirflow(root / "airflow", dags, port=free_port(), config=config) as airflow:
            airflow.set_connection(platform.connection(emulator))
            airflow.await_dag("told", seconds=SECONDS)
            run_id = airflow.trigger("told")
            airflow.wait("told", run_id, seconds=SECONDS)
            states = {name: task["state"] for name, task in airflow.tasks("told", run_id).items()}
        parents = [file.read_text() for file in emulator.storage.glob("projects/*/told/outputs/*/parent")]
    return states, [json.loads(line) for line in events.read_text().splitlines()], parents


def of(events: Events, task_id: str, *types: str) -> Events:
    return [each for each in events if each["job"]["name"] == f"told.{task_id}" and each["eventType"] in types]


def test_a_run_tells_the_standards_events_of_every_kind_of_task(
    run: tuple[dict[str, str], Events, list[str]],
) -> None:
    states, events, parents = run
    assert {name for name, state in states.items() if state != "success"} == {"fail"}, states
    for event in events:
        check_event(event)
    assert "told-secret" not in json.dumps(events)

    # One run for each task instance, also for a mapped one, and a deferred one in parts.
    [begun], [trained] = of(events, "train", "START"), of(events, "train", "COMPLETE")
    swept = of(events, "sweep", "COMPLETE")
    assert len({each["run"]["runId"] for each in swept}) == 2
    assert len({each["run"]["facets"]["bitahub_job"]["jobName"] for each in swept}) == 2
    assert len(of(events, "sweep", "START")) == 4
    [failed] = of(events, "fail", "FAIL")
    assert plain(failed["run"]["facets"])["bitahub_job"]["exitCode"] == 3
    assert "exit code 3" in failed["run"]["facets"]["errorMessage"]["message"]

    # From the dataset to the answer, and every job knows its parent.
    chain = [
        *((trained, "inputs"), (trained, "outputs")),
        *((of(events, "save", "COMPLETE")[0], side) for side in ("inputs", "outputs")),
        *((of(events, "deploy", "COMPLETE")[0], side) for side in ("inputs", "outputs")),
        (of(events, "ask", "COMPLETE")[0], "inputs"),
    ]
    named = [[(each["namespace"], each["name"]) for each in event[side]] for event, side in chain]
    assert all(len(each) == 1 for each in named), named
    assert [named[1], named[3], named[5]] == [named[2], named[4], named[6]]
    read = of(events, "read", "COMPLETE")[0]["inputs"]
    assert [(each["namespace"], each["name"]) for each in read] == named[3], "the asset has the model's name"
    assert begun["inputs"] == trained["inputs"]
    versions = [
        plain(of(events, task_id, "COMPLETE")[0]["outputs"][0]["facets"])["version"]
        for task_id in ("deploy", "redeploy", "roll_back")
    ]
    assert versions[0] == versions[2] != versions[1]
    [went_back] = of(events, "roll_back", "COMPLETE")
    assert [(each["namespace"], each["name"]) for each in went_back["inputs"]] == named[3]
    dag_run_id = trained["run"]["facets"]["parent"]["run"]["runId"]
    assert sorted(parents) == sorted(
        f"tests/{event['job']['name']}/{event['run']['runId']} tests/told/{dag_run_id}" for event in (trained, *swept)
    )
