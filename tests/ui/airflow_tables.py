"""Airflow's tables in an empty database, and runs in them as if they had happened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow import settings
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.variable import Variable
from airflow.models.xcom import XComModel
from airflow.utils.state import DagRunState
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from airflow_bitahub.hooks.deployment_records import DEPLOYMENT_KEY
from airflow_bitahub.procedures.deployments import Deployment, to_json

BEGIN = datetime(2026, 1, 1, 2, tzinfo=timezone.utc)


class Tables:
    """A database with Airflow's tables, which are made where there is no such file."""

    def __init__(self, file: Path) -> None:
        self.engine = create_engine(f"sqlite:///{file}")
        if not file.exists():
            import_all_models()
            Base.metadata.create_all(self.engine)
        self.session = sessionmaker(self.engine)
        self._runs = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let Airflow use this database."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "NonScopedSession", self.session)
            yield
        self.engine.dispose()

    def add_run(
        self, facts: Mapping[Any, Any] = {}, *, dag_id: str = "mnist", state: DagRunState = DagRunState.SUCCESS
    ) -> str:
        """Add a run, a day after the one before, and return its id.

        :param facts: XComs by task and key, or by task, map index and key
        """
        after = BEGIN + timedelta(days=self._runs)
        self._runs += 1
        run_id = f"scheduled__{after.isoformat()}"
        run = DagRun(
            dag_id=dag_id, run_id=run_id, run_after=after, logical_date=after, state=state, run_type="scheduled"
        )
        run.start_date, run.end_date = after, None if state is DagRunState.RUNNING else after + timedelta(minutes=20)
        with self.session() as session:
            session.add(run)
            session.flush()
            for (task_id, *map_index, key), value in facts.items():
                session.add(
                    XComModel(
                        dag_run_id=run.id,
                        dag_id=dag_id,
                        run_id=run_id,
                        task_id=task_id,
                        map_index=map_index[0] if map_index else -1,
                        key=key,
                        value=value,
                        timestamp=after,
                    )
                )
            session.commit()
        return run_id

    def set_record(self, record: str, deployment: Deployment | None) -> None:
        """Store the record of a serving."""
        with self.session() as session:
            session.add(Variable(DEPLOYMENT_KEY + record, json.dumps(deployment and to_json(deployment))))
            session.commit()
