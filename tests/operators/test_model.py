"""A saved model version is complete, and never changes."""

from __future__ import annotations

import json
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_bitahub.demo.platform import FOLDERS
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import ConfigurationError, JobFailedError, StorageError
from airflow_bitahub.links import BitaHubModelLink
from airflow_bitahub.operators.model import BitaHubSaveModelOperator
from airflow_bitahub.storage.manifest import MANIFEST
from airflow_bitahub.storage.storage import Storage
from tests.conftest import Submitted, TaskRun

_numbers = count(1)


@pytest.fixture
def source(platform: Emulator) -> str:
    """Server path of a job's output that holds a trained model."""
    path = f"{FOLDERS.outputs('trained')}/{next(_numbers)}"
    folder = platform.storage / path.lstrip("/") / "dense-mnist-tf" / "variables"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("1, 2, 3")
    (folder.parent / "saved_model.pb").write_text("a graph")
    return path


@pytest.fixture
def model(platform: Emulator) -> str:
    """A model's name of the test's own."""
    name = f"model-{next(_numbers)}"
    (platform.storage / FOLDERS.model(name)[0].lstrip("/")).mkdir(parents=True)
    return name


def save(model: str, source: str | dict[str, Any], **arguments: Any) -> BitaHubSaveModelOperator:
    return BitaHubSaveModelOperator(
        **{
            "task_id": "task",
            "model": model,
            "source": source,
            "source_folder": "dense-mnist-tf",
            "poll_interval": 0.02,
            "retries": 2,
            **arguments,
        }
    )


def files_below(folder: Path) -> dict[str, str]:
    """Give the files of a model, without its manifest."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(folder)): file.read_text() for file in files}


COMPLETE = {"dense-mnist-tf/variables/weights": "1, 2, 3", "dense-mnist-tf/saved_model.pb": "a graph"}


@pytest.mark.usefixtures("connection")
def test_saved_version_is_complete_and_told_by_its_path(
    model: str, source: str, task_run: TaskRun, platform: Emulator
) -> None:
    result = save(model, source).execute(task_run.context())
    assert result is not None
    assert list(result)[-2:] == ["model_path", "version"]
    assert result["model_path"] == f"/models/{FOLDERS.user_id}/{model}/{result['version']}"
    version = platform.storage / result["model_path"].lstrip("/")
    assert files_below(version) == COMPLETE
    assert [entry.name for entry in version.parent.iterdir()] == [result["version"]], "nothing half is left over"


@pytest.mark.usefixtures("connection")
def test_placeholders_may_stand_in_model_and_source(source: str, task_run: TaskRun, platform: Emulator) -> None:
    folder = FOLDERS.model(f"net-of-{FOLDERS.user_name}")[0]
    (platform.storage / folder.lstrip("/")).mkdir(parents=True)
    result = save("net-of-{user_name}", source.replace(FOLDERS.user_id, "{user_id}")).execute(task_run.context())
    assert result is not None
    assert result["model_path"].startswith(f"{folder}/")


@pytest.mark.usefixtures("connection")
def test_model_that_is_saved_is_the_result_though_its_link_cannot_be_stored(
    model: str, source: str, task_run: TaskRun
) -> None:
    context = task_run.context()
    push, refused = context["ti"].xcom_push, []

    def push_all_but_the_link(key: str, value: Any) -> None:
        if key == BitaHubModelLink().xcom_key:
            refused.append(value)
            raise RuntimeError("no XComs for now")
        push(key=key, value=value)

    context["ti"].xcom_push = push_all_but_the_link
    result = save(model, source, copy_by="storage").execute(context)
    assert result is not None
    assert result["model_path"]
    assert len(refused) == 1


@pytest.mark.usefixtures("connection")
def test_saving_twice_makes_two_versions(model: str, source: str, platform: Emulator) -> None:
    for _ in range(2):
        assert save(model, source).execute(TaskRun().context())
    versions = list((platform.storage / FOLDERS.model(model)[0].lstrip("/")).iterdir())
    assert [files_below(version) for version in versions] == [COMPLETE, COMPLETE]


@pytest.mark.usefixtures("connection")
def test_version_may_be_given(model: str, source: str, task_run: TaskRun) -> None:
    result = save(model, source, output_version="2026.1").execute(task_run.context())
    assert result is not None
    assert (result["version"], result["model_path"]) == ("2026.1", f"/models/{FOLDERS.user_id}/{model}/2026.1")


@pytest.mark.usefixtures("connection")
def test_version_that_another_job_saved_is_neither_overwritten_nor_taken_for_ones_own(
    model: str, source: str, platform: Emulator
) -> None:
    first = save(model, source, output_version="2026.1").execute(TaskRun().context())
    assert first is not None
    weights = platform.storage / source.lstrip("/") / "dense-mnist-tf" / "variables" / "weights"
    weights.write_text("4, 5, 6")
    with pytest.raises(JobFailedError, match=r"(?s)exit code 1.*2026\.1 exists, and another job made it"):
        save(model, source, output_version="2026.1").execute(TaskRun().context())
    assert files_below(platform.storage / first["model_path"].lstrip("/")) == COMPLETE


@pytest.mark.parametrize("argument", ["command", "datasets", "models", "code_path", "task_roles", "outputs"])
def test_arguments_that_would_have_no_effect_are_refused_when_the_dag_is_read(argument: str) -> None:
    with pytest.raises(TypeError, match=f"takes no {argument}"):
        save("m", "/x", **{argument: "x"})


@pytest.mark.usefixtures("connection")
def test_missing_folder_fails_with_a_sentence_in_the_log_and_shows_no_version(
    model: str, source: str, task_run: TaskRun, platform: Emulator
) -> None:
    with pytest.raises(JobFailedError, match=r"Its last line: .*sparse-mnist-tf.*No such file"):
        save(model, source, source_folder="sparse-mnist-tf", preflight=False).execute(task_run.context())
    entries = (platform.storage / FOLDERS.model(model)[0].lstrip("/")).iterdir()
    assert all(entry.name.startswith(".") for entry in entries)


@pytest.mark.usefixtures("connection")
def test_missing_source_fails_at_once(model: str, source: str, task_run: TaskRun, submitted: Submitted) -> None:
    with pytest.raises(AirflowFailException, match="does not exist"):
        save(model, f"{source}-never", preflight=False).execute(task_run.context())
    assert submitted() == []


@pytest.mark.parametrize("odd", ["a b", "a;b", "../up", "$(id)", ".hidden", "a/b", "'"])
@pytest.mark.parametrize("argument", ["model", "source_folder", "output_version"])
def test_odd_characters_are_refused_when_the_dag_is_read_and_again_when_a_template_gave_them(
    argument: str, odd: str
) -> None:
    with pytest.raises(ConfigurationError, match="cannot be part of a path"):
        save(**{"model": "m", "source": "/x", argument: odd})
    operator = save("m", "/x")
    setattr(operator, argument, odd)
    with pytest.raises(ConfigurationError, match="cannot be part of a path"):
        operator.read_arguments()


@pytest.mark.usefixtures("connection")
def test_the_manifest_says_what_the_model_consists_of_and_where_it_comes_from(
    model: str, source: str, task_run: TaskRun, platform: Emulator
) -> None:
    trained = {"output_path": source, "job_name": "train-1", "code_digest": "abc", "status": "SUCCEEDED"}
    metrics = {"accuracy": 0.9, "loss": float("nan"), "note": 'it\'s "fine"; $(rm) \\'}
    task_run.map_index = 2
    result: Any = save(model, trained, metrics=metrics).execute(task_run.context())
    manifest = json.loads((platform.storage / result["model_path"].lstrip("/") / MANIFEST).read_text())
    files = manifest.pop("files")
    assert manifest == {
        "saved_by": result["job_name"],
        "model": model,
        "version": result["version"],
        "run": {"dag_id": "tests", "run_id": task_run.run_id, "task_id": "task", "map_index": 2},
        "source": source,
        "job": "train-1",
        "code_digest": "abc",
        "metrics": {**metrics, "loss": None},
    }
    sizes = {file["path"]: (file["size"], file["sha256"]) for file in files}
    expected = {name: (len(text), sha256(text.encode()).hexdigest()) for name, text in COMPLETE.items()}
    assert sizes == expected


@pytest.fixture(params=["job", "storage"])
def copy_by(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.usefixtures("connection", "results_at_once")
def test_the_whole_output_can_be_the_documents_plain_model(
    copy_by: str, model: str, source: str, task_run: TaskRun, platform: Emulator
) -> None:
    arguments = {"source_folder": None, "versioned": False, "copy_by": copy_by}
    result: Any = save(model, source, **arguments).execute(task_run.context())
    assert (result["model_path"], result["version"]) == (FOLDERS.model(model)[0], None)
    folder = platform.storage / result["model_path"].lstrip("/")
    whole = {name.removeprefix("dense-mnist-tf/"): text for name, text in COMPLETE.items()}
    assert files_below(folder / "dense-mnist-tf") == whole
    again: Any = save(model, source, if_exists="replace", **arguments).execute(TaskRun().context())
    assert again["model_path"] == result["model_path"]
    assert files_below(folder / "dense-mnist-tf") == whole
    assert (folder.parent / f".{model}.previous" / MANIFEST).exists()
    kept: Any = save(model, source, if_exists="keep", **arguments).execute(TaskRun().context())
    assert kept["model_path"] == result["model_path"]


@pytest.mark.usefixtures("connection", "results_at_once")
def test_a_retry_finds_what_an_earlier_try_has_copied_itself(
    model: str, source: str, task_run: TaskRun, platform: Emulator, submitted: Submitted
) -> None:
    operator = save(model, source, copy_by="storage")
    first: Any = operator.execute(task_run.context())
    assert first["job_name"] is None
    task_run.retry()
    assert save(model, source, copy_by="storage").execute(task_run.context())["version"] == first["version"]  # type: ignore[index]
    task_run.clear()
    second: Any = save(model, source, copy_by="storage").execute(task_run.context())
    assert second["version"] != first["version"]
    for result in (first, second):
        assert files_below(platform.storage / result["model_path"].lstrip("/")) == COMPLETE
    assert submitted() == [], "no job is needed"


@pytest.mark.usefixtures("connection", "results_at_once")
def test_what_cannot_be_saved_by_the_worker_is_told_by_its_argument(model: str, source: str) -> None:
    arguments = {"copy_by": "storage", "output_version": "2026.1"}
    save(model, source, **arguments).execute(TaskRun().context())
    with pytest.raises(AirflowFailException, match=r"if_exists='refuse': .*/2026\.1 exists, and another job made it"):
        save(model, source, **arguments).execute(TaskRun().context())
    with pytest.raises(StorageError, match=r"^source: .*/sparse does not exist .*Its folder contains 'dense-mnist-tf'"):
        save(model, source, source_folder="sparse", copy_by="storage").execute(TaskRun().context())


@pytest.mark.usefixtures("results_at_once")
def test_a_worker_saves_to_an_object_store(
    bucket: str, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch, task_run: TaskRun
) -> None:
    storage = Storage(f"{bucket}/{next(_numbers)}")
    connection["extra"]["storage_uri"] = storage.uri
    monkeypatch.setenv("AIRFLOW_CONN_BITAHUB_DEFAULT", json.dumps(connection))
    source = f"{FOLDERS.outputs('trained')}/s3"
    storage.write_bytes("source", f"{source}/dense-mnist-tf/weights", b"1, 2, 3")
    result: Any = save("s3", source, copy_by="storage").execute(task_run.context())
    manifest = storage.read_json("model", f"{result['model_path']}/{MANIFEST}", 10_000)
    assert [(file["path"], file["size"]) for file in manifest["files"]] == [("dense-mnist-tf/weights", 7)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"source_folder": "a/b"}, "source_folder 'a/b' cannot be part of a path"),
        ({"metrics": {"x": "y" * 20_000}}, "metrics must have at most 16384 bytes"),
        ({"if_exists": "overwrite"}, "if_exists must be 'refuse' or 'keep' or 'replace'"),
        ({"copy_by": "hand"}, "copy_by must be 'job' or 'storage'"),
    ],
)
def test_wrong_arguments_are_told_when_the_dag_is_read(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        save("m", "/x", **arguments)


def test_a_source_without_an_output_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"^source must be a server path, or the result of a job"):
        save("m", {"job_name": "x"})
