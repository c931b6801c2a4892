"""images.toml, and the environments built from it."""

from __future__ import annotations

import asyncio
import fcntl
import sys
from pathlib import Path

import pytest

from airflow_bitahub.emulator.run.images import DEFAULT_IMAGES, Images, load_images
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.examples import examples_folder
from airflow_bitahub.exceptions import ConfigurationError
from tests.emulator.conftest import Api

BARE = '[[image]]\npattern = "bare"\nrequirements = []\n'


def images(tmp_path: Path, text: str) -> Images:
    file = tmp_path / "images.toml"
    file.write_text(text)
    return Images(load_images(file), tmp_path / "cache", grace=0.5)


def test_first_match_counts(tmp_path: Path) -> None:
    found = images(tmp_path, BARE + '[[image]]\npattern = "*"\nrequirements = ["x"]\n' + BARE.replace("[]", '["y"]'))
    assert found.find("bare").requirements == ()
    assert found.find("Bare").requirements == ("x",)
    assert found.find("registry:5000/a/b:v1").requirements == ("x",)


def test_unknown_image(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"image 'x' is unknown; known patterns: 'bare'"):
        images(tmp_path, BARE).find("x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold"),
        ("nonsense", "not TOML"),
        ("[image]\na = 1", "must hold"),
        (BARE + "[other]\na = 1", "must hold"),
        ('[[image]]\npattern = "x"', "requirements or python is missing"),
        ('[[image]]\npattern = "x"\npython = "/p"\nconstraints = "c"', "constraints need"),
        ("[[image]]\nrequirements = []", "pattern"),
        (BARE + "[[image]]\npattern = 1\nrequirements = []", "Image 2 .* pattern"),
        (BARE + "typo = 1", "typo"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        images(tmp_path, text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_images(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('python = "no/python"', "interpreter"),
        ('requirements = []\nconstraints = "none.txt"', "constraints"),
        ('requirements = []\n[image.files]\n"/x" = "none"', "/x"),
    ],
)
def test_what_an_entry_names_must_exist(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        images(tmp_path, f'[[image]]\npattern = "x"\n{text}').find("x")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "c.txt").write_text("")
    files = '[image.files]\n"/f" = "files"\n"/d" = "{dags}"'
    found = images(tmp_path, BARE + 'constraints = "c.txt"\n' + files).find("bare")
    assert found.constraints == tmp_path / "c.txt"
    assert found.files == {"/f": tmp_path / "files", "/d": examples_folder()}


def test_an_interpreter_is_taken_as_it_is(tmp_path: Path) -> None:
    found = images(tmp_path, f'[[image]]\npattern = "x"\npython = "{sys.executable}"')
    assert asyncio.run(found.prepare(found.find("x"))) == Path(sys.executable)


def test_an_interpreter_may_be_looked_for_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other-python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = images(tmp_path, '[[image]]\npattern = "x"\npython = "other-python"')
    assert found.find("x").python == tmp_path / "other-python"


def test_an_environment_may_be_another_interpreters(tmp_path: Path) -> None:
    other = tmp_path / "other" / "python"
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\ntouch "{tmp_path}/used"\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    found = images(tmp_path, BARE + f'python = "{other}"\n')
    python = asyncio.run(found.prepare(found.find("bare")))
    assert (tmp_path / "used").exists()
    own = images(tmp_path, BARE)
    assert asyncio.run(own.prepare(own.find("bare"))) != python


def test_the_shipped_images() -> None:
    shipped = Images(load_images(DEFAULT_IMAGES), Path("unused"))
    train = shipped.find("10.11.3.8:5000/bitahub/tensorflow-2.3-cuda-11.0-py3:v1.0")
    (serve,) = (image for image in load_images(DEFAULT_IMAGES) if "serving" in image.pattern)
    assert train.requirements == serve.requirements, "one environment for both"
    assert serve.files == {"/mnist-serving": examples_folder() / "workloads/dense-mnist-tf/serving"}
    assert shipped.find("busybox:1.36").requirements == ()
    with pytest.raises(InvalidRequest):
        shipped.find("pytorch")


def test_built_once_for_all_who_wait(tmp_path: Path) -> None:
    async def build() -> None:
        found = images(tmp_path, BARE)
        image = found.find("bare")
        assert not found.is_ready(image)
        first, second = await asyncio.gather(found.prepare(image), found.prepare(image))
        assert first == second
        assert found.is_ready(image)
        log = (first.parents[2] / "build.log").read_text()
        assert log.count("-m venv") == 1
        process = await asyncio.create_subprocess_exec(
            first, "-c", "import sys; assert sys.prefix != sys.base_prefix", stderr=asyncio.subprocess.PIPE
        )
        assert (await process.communicate())[1] == b""

    asyncio.run(build())
    other = images(tmp_path, BARE)  # another emulator, the same cache
    assert other.is_ready(other.find("bare"))


def test_a_relative_cache_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "images.toml"
    file.write_text('[[image]]\npattern = "bare"\nrequirements = []')
    found = Images(load_images(file), Path("cache"))
    python = asyncio.run(found.prepare(found.find("bare")))
    monkeypatch.chdir("/")
    assert python.exists()


def test_a_killed_build_is_built_anew(tmp_path: Path) -> None:
    found = images(tmp_path, BARE)
    python = asyncio.run(found.prepare(found.find("bare")))
    (python.parents[2] / "done").unlink()
    python.unlink()
    (python.parents[1] / "half").write_text("")
    again = images(tmp_path, BARE)
    assert asyncio.run(again.prepare(again.find("bare"))) == python
    assert python.exists()
    assert not (python.parents[1] / "half").exists()


def test_a_build_elsewhere_is_waited_for(tmp_path: Path) -> None:
    async def wait() -> None:
        found = images(tmp_path, BARE)
        image = found.find("bare")
        place = found._folder(image)
        place.mkdir(parents=True)
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            waiting = asyncio.ensure_future(found.prepare(image))
            await asyncio.sleep(0.5)
            assert not (place / "venv").exists()
            (place / "done").touch()
        await waiting
        assert not (place / "venv").exists(), "the other one built it"

    asyncio.run(wait())


def test_job_waits_while_its_environment_is_built(api: Api) -> None:
    body = api.job_body("python -c 'import sys; print(sys.prefix)'")
    body["taskRoles"][0]["image"] = "bare"
    assert api.post_job(body).status_code == 200
    job = api.job(body["jobName"])
    if job["state"] == "WAITING":
        assert "building the Python environment" in job["jobStatus"]["appExitDiagnostics"]
    assert api.wait_job(body["jobName"])["state"] == "SUCCEEDED"
    assert api.log(body["jobName"]).strip().startswith(str(api.emulator.home / "images"))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("no-venv", "No module named venv"),
        pytest.param("broken", "no-such-package", marks=pytest.mark.long),  # pip is installed before
    ],
)
def test_job_whose_environment_cannot_be_built_fails(api: Api, image: str, reason: str) -> None:
    body = api.job_body()
    body["taskRoles"][0]["image"] = image
    assert api.post_job(body).status_code == 200
    serving = api.serve("true", image=image)  # waits for the same build
    # Creating a virtual environment takes long on a busy machine.
    job = api.until(lambda: api.job(body["jobName"]), lambda job: job["state"] == "FAILED", seconds=120)
    assert reason in job["jobStatus"]["appExitDiagnostics"]
    assert job["launchedTime"] == 0
    failed = api.wait_serving(serving, "FAILED")
    assert reason in failed["podstatuses"][0]["message"]
    assert (failed["hosts"], failed["launchedTime"]) == ("", 0)
