"""The emulator as a whole, from Python and from the shell."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from airflow_bitahub.api.jobs import JobSpec, TaskRole
from airflow_bitahub.api.servings import ServingModel, ServingProtocol, ServingSpec
from airflow_bitahub.cli import main
from airflow_bitahub.emulator.credentials import PASSWORD_VARIABLE, TOKEN_VARIABLE
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import DrivenClock, Emulator, EmulatorError
from airflow_bitahub.exceptions import ConfigurationError
from tests.emulator.conftest import JOBS, Api, is_alive

SERVING = ServingSpec(
    name="s",
    model=ServingModel(path="/models/u/m", mount_path="/model/u/m"),
    image="i",
    protocols=[ServingProtocol()],
    commands=["c"],
)
COMMAND = [sys.executable, "-c", "import sys; from airflow_bitahub.cli import main; sys.exit(main())", "emulator"]


@pytest.fixture
def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    env = {name: value for name, value in os.environ.items() if not name.startswith("BITAHUB_")}
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, [root, env.get("PYTHONPATH", "")]))}


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Restore the handlers that the command sets, so it can run in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def read_greeting(process: subprocess.Popen[str]) -> str:
    """Return what an emulator prints until it serves."""
    assert process.stdout is not None
    text = ""
    while "Ctrl-C" not in text:
        line = process.stdout.readline()
        assert line, text
        text += line
    return text


def test_temporary_home(images_file: Path) -> None:
    with Emulator(images=images_file) as emulator:
        assert httpx.get(emulator.url + "/healthz", trust_env=False).status_code == 200
        assert emulator.is_running
        assert emulator.storage.is_dir()
    assert not emulator.is_running
    assert not emulator.home.exists()


def test_storage_elsewhere(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path / "home", images=images_file, storage=tmp_path / "nfs", token="known") as emulator:
        assert emulator.storage == tmp_path / "nfs"
        assert (emulator.storage / "models").is_dir()
        assert emulator.token == "known"


def test_a_home_of_another_version_is_left_alone(images_file: Path, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "records.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigurationError, match="another version of the emulator"):
        Emulator(tmp_path, images=images_file).start()


def test_a_fork_does_not_end_the_emulator_of_its_parent(images_file: Path) -> None:
    with Emulator(images=images_file) as emulator:
        child = os.fork()
        if child == 0:
            emulator.stop()
            os._exit(0)
        os.waitpid(child, 0)
        assert emulator.home.exists()
        assert httpx.get(emulator.url + "/healthz", trust_env=False).status_code == 200


def test_records_and_logs_are_kept_from_other_users(images_file: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Emulator(tmp_path, images=images_file) as emulator:
        assert tmp_path.stat().st_mode & 0o777 == 0o700
        emulator.scripts.add(ScriptedJob())
        api = Api(emulator)
        with api.http:
            api.wait_job(api.submit())
        files = [*tmp_path.glob("records.sqlite*"), *tmp_path.glob("jobs/*/*/log")]
        assert len(files) >= 2
        assert {file.stat().st_mode & 0o077 for file in files} == {0}


def test_home_that_others_share_is_refused_and_left_alone(images_file: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigurationError, match="choose another home"):
        Emulator(tmp_path, images=images_file)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777


def memory_mb() -> float:
    """Return the memory that this process uses now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is looked up as Linux tells it")
def test_thousands_of_finished_jobs_are_a_light_burden(
    images_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "airflow_bitahub")  # pytest would keep a record of every change
    role = TaskRole(image="i", command="c")
    for is_restart in (False, True):
        before = memory_mb()
        with Emulator(tmp_path, images=images_file) as emulator:
            for number in range(0 if is_restart else 5_000):
                spec = JobSpec(job_name=f"old-{number}", task_roles=[role])
                key = emulator.state.create_job("bita-user", spec).key
                emulator.state.launch_job(key)
                emulator.state.finish_job(key, 0, "")
            api = Api(emulator)
            with api.http:
                page = api.http.get(JOBS, params={"limit": 100, "page": 50}).json()["data"]
                assert (page["totalItems"], len(page["items"])) == (5_000 + is_restart, 100)
                assert api.job("old-0")["state"] == "SUCCEEDED"
                assert api.run("echo new", code=None, datasets=[])[1] == "new\n"
            assert memory_mb() - before < 50


def test_clearing_ends_and_removes_everything(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file, grace=0.5, mounts="links") as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        api = Api(emulator)
        with api.http:
            api.wait_job(api.submit("true", code=None, datasets=[]))
            api.submit("echo $$ > /output/pid; sleep 60", code=None, datasets=[])
            api.serve("sleep 60")
            pid = api.pid_from(emulator.storage / "projects/u/p/outputs/1/pid")
        emulator.clear()
        assert not is_alive(pid)
        assert (emulator.state.jobs(), emulator.state.servings()) == ([], [])
        assert len(emulator.state.ledger()) == 2


def test_what_is_over_is_removed_after_a_while_where_that_is_wished_for(images_file: Path, tmp_path: Path) -> None:
    clock = DrivenClock()
    with Emulator(tmp_path, images=images_file, expire=3600, clock=clock) as emulator:
        emulator.scripts.add(ScriptedJob())
        emulator.scripts.add(ScriptedJob(command="long", run_seconds=10_000))
        emulator.scripts.add(ScriptedServing(exit_code=1))
        api = Api(emulator)
        with api.http:
            over, lives = api.submit("short"), api.submit("long")
            api.wait_job(over)
            api.wait_serving(api.serve("x"), "FAILED")
            clock.advance(3599)
            assert len(emulator.state.jobs()) == 2
            clock.advance(2)
            api.until(lambda: [job.key.name for job in emulator.state.jobs()], lambda names: names == [lives])
            api.until(emulator.state.servings, lambda servings: servings == [])


def test_port_in_use(images_file: Path, tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(EmulatorError, match=f"Port {taken_port} of 127.0.0.1 is in use"):
        Emulator(tmp_path, images=images_file, port=taken_port).start()
    with pytest.raises(EmulatorError, match=r"Cannot listen on 192\.0\.2\.1"):
        Emulator(tmp_path, images=images_file, host="192.0.2.1").start()


def test_one_emulator_per_home(images_file: Path, tmp_path: Path) -> None:
    second = Emulator(tmp_path, images=images_file)
    with Emulator(tmp_path, images=images_file), pytest.raises(EmulatorError, match="Another emulator uses the home"):
        second.start()
    with Emulator(tmp_path, images=images_file):
        pass


@contextmanager
def started(argv: list[str], env: dict[str, str], stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and kill it if the test fails before the program has ended."""
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_the_shell(images_file: Path, tmp_path: Path, environment: dict[str, str], number: signal.Signals) -> None:
    home = tmp_path / "home"
    argv = [*COMMAND, "--port", "0", "--home", str(home), "--images", str(images_file), "--mounts", "links"]
    with started(argv, environment) as process:
        text = read_greeting(process)
        token = (home / "token").read_text().strip()
        assert f"token             {token}" in text
        assert f"storage           {home}/storage" in text
        assert "AIRFLOW_CONN_BITAHUB_DEFAULT" in text
        url = re.search(r"http://127.0.0.1:\d+", text)
        assert url

        emulator = Emulator(tmp_path / "other", images=images_file, token=token)  # its address is all that is needed
        emulator._port = httpx.URL(url[0]).port or 0
        api = Api(emulator)
        api.submit("echo $$ > /output/pid; sleep 60", code=None, datasets=[])
        pid = api.pid_from(home / "storage/projects/u/p/outputs/1/pid")
        process.send_signal(number)
        assert process.wait(15) == 0
        assert not is_alive(pid)
        api.http.close()


def test_signing_in_from_the_shell(images_file: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    argv = [*COMMAND, "--port", "0", "--home", str(tmp_path), "--images", str(images_file)]
    argv += ["--sign-in", "you", "--expires-in", "60"]
    env = {**environment, "BITAHUB_EMULATOR_PASSWORD": "s3cret"}
    with started(argv, env, stderr=subprocess.STDOUT) as process:
        text = read_greeting(process)
        address = re.search(r"sign-in           you at (http://127.0.0.1:\d+/oauth/token)", text)
        assert address
        form = {"grant_type": "password", "username": "you", "password": "s3cret"}
        assert httpx.post(address[1], data=form, trust_env=False).json()["expires_in"] == 60
        process.send_signal(signal.SIGTERM)
        assert "s3cret" not in text + process.communicate(timeout=15)[0]
        assert process.returncode == 0


def test_a_port_in_use_is_reported_to_the_shell(tmp_path: Path, environment: dict[str, str], taken_port: int) -> None:
    argv = [*COMMAND, "--home", str(tmp_path), "--port", str(taken_port)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert f"Port {taken_port} of 127.0.0.1 is in use" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999"], "no port 99999"),
        (["--images", "none.toml"], "none.toml"),
        (["--token-file", "none"], "token"),
        (["--home", "/dev/null/home"], "/dev/null"),
        (["--profile", "none"], "no profile 'none'"),
        (["--sign-in", "you"], "BITAHUB_EMULATOR_PASSWORD"),
        (["--sign-in", "you", "--password-file", "none"], "password from none"),
    ],
)
def test_trouble_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signal_handlers: None,  # noqa: ARG001
    arguments: list[str],
    words: str,
) -> None:
    for variable in (TOKEN_VARIABLE, PASSWORD_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    assert main(["emulator", "--home", str(tmp_path), *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err
