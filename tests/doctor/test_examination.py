"""What an examination started is removed at its end."""

from __future__ import annotations

import io

from airflow_bitahub.doctor.examination import Examination
from airflow_bitahub.doctor.report import Report
from airflow_bitahub.exceptions import BitaHubError
from airflow_bitahub.hooks.bitahub import BitaHubHook


def test_a_job_is_removed_before_the_folder_into_which_it_writes(hook: BitaHubHook) -> None:
    said, removed = io.StringIO(), []

    def fail() -> None:
        removed.append("job")
        raise BitaHubError("it does not answer")

    examination = Examination(hook, Report(said), timeout=1)
    examination.remember("folder A", lambda: removed.append("folder"))
    examination.remember("job A-2", fail)
    examination.remember("serving A-3", lambda: removed.append("serving"))
    assert not examination.is_newest("folder A"), "a job that could not be stopped may still write into it"
    examination.close()
    assert removed == ["serving", "job", "folder"]
    assert said.getvalue().splitlines() == [
        "Removing serving A-3, job A-2, folder A.",
        "Could not remove job A-2: it does not answer",
    ]
