"""A folder that the doctor's job and Airflow both see: whether `user_id` and `storage_uri` mean the same storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_bitahub.doctor.report import FAILS, NOTE, SKIPPED, WORKS
from airflow_bitahub.exceptions import BitaHubError, ConfigurationError, StorageError

if TYPE_CHECKING:
    from airflow_bitahub.doctor.examination import Examination
    from airflow_bitahub.storage.storage import Storage

_QUESTION, _ANSWER, _MODEL = "question", "answer", "model"  # the names of the files
_DELAY, _SHORT_DELAY = 30.0, 2.0  # seconds after which a network file system shows a new file, at most and mostly


def prepare_folder(examination: Examination, *, is_model: bool) -> SharedFolder | None:
    """Return a folder for the second job, with a file of Airflow's in it; None where it would show nothing.

    :param is_model: a serving needs it, also where Airflow cannot see it
    """
    report, settings = examination.report, examination.settings
    if not settings.text("storage_uri"):
        report.row(
            SKIPPED,
            "storage",
            "The extra 'storage_uri' is not set: where this machine sees the folders 'projects', 'datasets' and\n"
            "'models', such as file:///mnt/bitahub. Without it, Airflow cannot read results or check data.",
        )
    elif not settings.text("user_id"):
        report.row(SKIPPED, "storage", "It cannot be tried without 'user_id'.")
    if not settings.text("user_id") or not (settings.text("storage_uri") or is_model):
        return None
    folder = SharedFolder(examination)
    if settings.text("storage_uri"):
        folder.write()
    return folder


class SharedFolder:
    """The output folder of the doctor's second job.

    :raises ConfigurationError: the connection does not name the user
    """

    def __init__(self, examination: Examination) -> None:
        self._examination = examination
        project = examination.name("storage")
        self.server_path = f"{examination.hook.folders.outputs(project)}/1"
        self._project_path = self.server_path.partition("/outputs")[0]
        self.what = f"folder {self._project_path}"
        self._is_written = False
        self._is_shared = True

    @property
    def command(self) -> str:
        """What the job runs: it prints what Airflow wrote, and writes something for Airflow and for a serving."""
        mark = self._examination.mark
        return f"cat /output/{_QUESTION}; echo {mark} > /output/{_ANSWER}; echo {mark} > /output/{_MODEL}; echo {mark}"

    def write(self) -> None:
        """Write a file for the job, and report whether that works."""
        examination = self._examination
        storage = examination.hook.storage
        self._look_at_user(storage)
        examination.remember(self.what, self.remove)
        try:
            storage.write_bytes(
                "storage_uri", f"{self.server_path}/{_QUESTION}", f"from Airflow {examination.mark}\n".encode()
            )
            storage.read_bytes("storage_uri", f"{self.server_path}/{_QUESTION}", 100)
        except (StorageError, ConfigurationError) as error:
            examination.report.row(FAILS, "write and read", f"{error}")
        else:
            self._is_written = True
            examination.report.row(WORKS, "write and read", f"a file under {examination.settings.text('storage_uri')}")

    def _look_at_user(self, storage: Storage) -> None:
        """Say if the storage does not know the user: the platform itself makes no folder for a wrong id."""
        folder = f"/projects/{self._examination.hook.folders.user_id}"
        try:
            is_there = storage.list_folder("storage_uri", folder, 1) is not None
        except BitaHubError:
            return  # what is wrong shows when something is written
        if not is_there and "user_id" not in self._examination.found:  # otherwise the platform itself says it
            self._examination.report.row(
                NOTE,
                "user_id",
                f"The storage has no folder {folder}: this user has no project yet, or user_id is wrong.\n"
                f"{storage.contents('/projects/').replace('Its folder', '/projects')}",
            )

    def remove(self) -> None:
        """Remove the folder, or say that it stays. Raises StorageError when that fails."""
        if not self._examination.settings.text("storage_uri") or not self._is_shared:
            self._examination.report.row(NOTE, "", f"A small folder stays on the platform: {self._project_path}")
        if not self._examination.settings.text("storage_uri"):
            return
        self._examination.hook.storage.remove("storage_uri", self._project_path)
        self._examination.forget(self.what)

    def check(self, read_log: Callable[[], str]) -> None:
        """Report whether the job sees what Airflow wrote, and Airflow what the job wrote."""
        if not self._is_written:
            return
        report, mark = self._examination.report, self._examination.mark
        log = read_log()
        sees_question = f"from Airflow {mark}" in log
        # A job that has run without seeing a file that was there before it shows enough.
        answer = self._answer(_SHORT_DELAY if mark in log and not sees_question else _DELAY)
        if answer == mark:
            report.row(WORKS, "same storage", "Airflow sees what the job writes: storage_uri and user_id are right.")
            if not sees_question:
                report.row(NOTE, "same storage", "Whether the job saw Airflow's file is not in its log.")
            return
        self._is_shared = False
        job = "The job sees" if sees_question else "Nor does the job see"
        said = f"\nThe job printed: {log.strip().splitlines()[0]}" if log.strip() and not sees_question else ""
        report.row(
            FAILS,
            "same storage",
            f"Wrong: storage_uri, or user_id. The job wrote a file into {self.server_path},\nand Airflow does not find "
            f"it there. {job} what Airflow wrote.{said}\nCheck that storage_uri shows the platform's own storage, and "
            f"that user_id is this user's.",
        )

    def _answer(self, delay: float) -> str:
        storage, path = self._examination.hook.storage, f"{self.server_path}/{_ANSWER}"
        deadline = time.monotonic() + delay
        while True:
            try:
                return storage.read_bytes("storage_uri", path, 100).decode("utf-8", "replace").strip()
            except BitaHubError:
                if time.monotonic() > deadline:
                    return ""
            time.sleep(0.2)
