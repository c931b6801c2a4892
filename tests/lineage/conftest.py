"""Events of the real OpenLineage provider, in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lineage.standard import check_event

_RUN_ID = "01a21be4-7f7d-7a8c-977d-2a740849ead8"
_MORE = dict.fromkeys(("nominal_start_time", "nominal_end_time", "owners", "tags", "job_description"))


@dataclass
class Told:
    """Lets the provider ask operators as it does in a task, and reads what it has written."""

    file: Path

    def start(self, operator: Any) -> dict[str, Any]:
        return self._emit("start_task", operator, "running", event_time="2026-01-01T00:00:00+00:00")

    def complete(self, operator: Any) -> dict[str, Any]:
        return self._emit("complete_task", operator, "success", end_time="2026-01-01T00:00:00+00:00")

    def fail(self, operator: Any, error: BaseException) -> dict[str, Any]:
        return self._emit("fail_task", operator, "failed", end_time="2026-01-01T00:00:00+00:00", error=error)

    def _emit(self, method: str, operator: Any, state: str, **more: Any) -> dict[str, Any]:
        from airflow.providers.openlineage.extractors import ExtractorManager
        from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
        from airflow.utils.state import TaskInstanceState

        found = ExtractorManager().extract_metadata(
            dagrun=SimpleNamespace(run_id="run"),
            task=operator,
            task_instance_state=TaskInstanceState(state),
            task_instance=SimpleNamespace(),
        )
        getattr(OpenLineageAdapter(), method)(run_id=_RUN_ID, job_name="tests.task", task=found, **_MORE, **more)
        event: dict[str, Any] = json.loads(self.file.read_text().splitlines()[-1])
        check_event(event)
        return event


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """OpenLineage, on, with a file to which the provider writes."""
    file = tmp_path / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(transport))
    return Told(file)


def plain(facets: dict[str, Any]) -> dict[str, Any]:
    """Return facets without what every facet has."""
    return {key: {name: each for name, each in facet.items() if name[0] != "_"} for key, facet in facets.items()}
