"""Mounts at their real paths, where bubblewrap works."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from airflow_bitahub.emulator.mounts.handles import open_without_links
from airflow_bitahub.emulator.mounts.sandbox import SandboxWorkdir, bubblewrap_problem, choose_workdir
from airflow_bitahub.emulator.mounts.workdir import BindMount
from airflow_bitahub.emulator.run.processes import RecoverableCommand
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.errors import InvalidRequest
from airflow_bitahub.exceptions import ConfigurationError
from tests.emulator.conftest import JOBS, SERVINGS, TELL_PID, Api, ask, mount
from tests.emulator.killable import KillableEmulator

REASON = bubblewrap_problem()
needs_bubblewrap = pytest.mark.skipif(bool(REASON), reason=f"no mounts at their real paths: {REASON}")


def runs(word: str) -> bool:
    """Return whether a process of this machine has the word on its command line."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in file.read_bytes() and file.parent.name != str(os.getpid()):
                return True
        except OSError:
            continue
    return False


@pytest.fixture(scope="module")
def emulator(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    home = tmp_path_factory.mktemp("a home with spaces")
    with Emulator(home, images=images_file, grace=1.0, serving_restarts=0, mounts="bubblewrap") as emulator:
        for folder in ("projects/u/p/code", "datasets/u/MNIST", "models/u/dense"):
            (emulator.storage / folder).mkdir(parents=True)
        (emulator.storage / "datasets/u/MNIST/digits").write_text("3 1 4\n")
        yield emulator


@needs_bubblewrap
def test_a_path_written_down_in_the_program_is_found(api: Api, emulator: Emulator) -> None:
    program = "from pathlib import Path\nPath('/output/sum').write_text(Path('/data/u/MNIST/digits').read_text() * 2)\n"
    (emulator.storage / "projects/u/p/code/program.py").write_text(program)
    job, log = api.run("cd /code && python program.py && cat /in-image/hello.txt")
    assert (job["state"], log) == ("SUCCEEDED", "from the image")
    assert (emulator.storage / "projects/u/p/outputs/1/sum").read_text() == "3 1 4\n3 1 4\n"


@needs_bubblewrap
def test_inputs_cannot_be_changed(api: Api, emulator: Emulator) -> None:
    for place in ("/code/new", "/data/u/MNIST/digits", "/in-image/hello.txt"):
        job, log = api.run(f"echo changed > {place}")
        assert job["state"] == "FAILED"
        assert "Read-only file system" in log
    assert (emulator.storage / "datasets/u/MNIST/digits").read_text() == "3 1 4\n"


@needs_bubblewrap
def test_nothing_else_of_the_storage_and_the_home_is_there(api: Api, emulator: Emulator) -> None:
    (emulator.home / "token").write_text(emulator.token)
    command = f"ls '{emulator.storage}' '{emulator.home}' '{emulator.home}/token' /models; ls /data/u; ls -A ~ /tmp"
    job, log = api.run(f"{command}; grep -rs {emulator.token} /proc/*/environ /proc/*/cmdline | grep -v grep")
    assert log.count("No such file or directory") == 4
    assert "dense" not in log
    assert "token\n" not in log
    assert job["jobStatus"]["appExitCode"] == 1, "the last grep found nothing"


@needs_bubblewrap
def test_two_jobs_with_the_same_mount_path_never_meet(api: Api, emulator: Emulator) -> None:
    command = "echo {0} > /output/me; touch /tmp/{0}; sleep 0.2; ls /output /tmp; cat /output/me"
    names = [
        api.submit(command.format(which), output=mount(f"/projects/u/p/outputs/{which}", "/output"))
        for which in ("this", "that")
    ]
    for name, which, other in zip(names, ("this", "that"), ("that", "this"), strict=True):
        assert api.wait_job(name)["state"] == "SUCCEEDED"
        assert which in api.log(name).split()
        assert other not in api.log(name).split()
        assert (emulator.storage / f"projects/u/p/outputs/{which}/me").read_text() == f"{which}\n"


@needs_bubblewrap
def test_mounts_below_an_input_and_with_spaces(api: Api, emulator: Emulator) -> None:
    (emulator.storage / "datasets/u/MNIST/my labels").mkdir(exist_ok=True)
    (emulator.storage / "models/u/dense/names").write_text("zero one\n")
    datasets = [mount("/datasets/u/MNIST", "/my data"), mount("/models/u/dense", "/my data/my labels")]
    _, log = api.run("cat '/my data/digits' '/my data/my labels/names'", datasets=datasets)
    assert log == "3 1 4\nzero one\n"


def test_nothing_is_mounted_below_the_output(api: Api) -> None:
    answer = api.post_job(api.job_body(datasets=[mount("/datasets/u/MNIST", "/output/here")]))
    assert answer.status_code == 400
    assert "below the output '/output'" in answer.text


@needs_bubblewrap
def test_a_link_put_in_the_place_of_a_mounts_folder_is_never_followed(emulator: Emulator, tmp_path: Path) -> None:
    """As a job would that may write to the folder above: after the path was checked, before it is mounted."""
    storage, outside = emulator.storage, tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    inside = storage / "projects/u/p/outputs/mine/inside"
    inside.mkdir(parents=True)
    (inside / "word").write_text("right\n")
    mounts = {"/data": BindMount(inside), "/output": BindMount(inside, is_writable=True)}

    def swap() -> None:
        inside.rename(inside.with_name("moved"))
        inside.symlink_to(outside)

    with SandboxWorkdir(mounts, Path(sys.executable)) as workdir:
        swap()  # after it was opened
        with workdir.launch_options({}) as (wrapper, env, files):
            command = [*wrapper, "/bin/sh", "-c", "cat /data/*; echo x > /output/new; ls /proc/self/fd"]
            done = subprocess.run(command, env=env, pass_fds=files, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["right", "0", "1", "2", "3"], "the program inherits nothing that leads outside"
    assert not (outside / "new").exists()
    with pytest.raises(InvalidRequest, match="contains a link"), SandboxWorkdir(mounts, Path(sys.executable)):
        pass  # before it was opened
    with pytest.raises(InvalidRequest, match="contains a link"):
        os.close(open_without_links(inside / "deeper", create=True))
    assert not (outside / "deeper").exists()


# What a program reads and writes that it should not. Paths of processes are its own, and /usr is the distribution's.
WALK = """
import os, stat
own = os.stat('/').st_dev  # a file system of the sandbox itself, in memory, with the folders between the mounts
bad = []
for top, folders, files in os.walk('/'):
    folders[:] = [name for name in folders if not os.path.islink(os.path.join(top, name))]
    if top == '/':
        folders[:] = sorted(set(folders) - {'usr', 'nix', 'root', 'tmp', 'output', 'dev'})
    if top == '/proc':
        folders[:] = [name for name in folders if not name.isdecimal()]
    for path in [os.path.join(top, name) for name in (*folders, *files)]:
        try:
            found = os.stat(path)
        except OSError:
            continue
        mode = found.st_mode
        if os.access(path, os.W_OK) and found.st_dev != own and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            try:
                if stat.S_ISREG(mode):
                    os.close(os.open(path, os.O_WRONLY))
                else:
                    os.mkdir(path + '/new')
                    os.rmdir(path + '/new')
                bad.append('writable ' + path)
            except OSError:
                pass
        if stat.S_ISREG(mode) and not mode & stat.S_IROTH:
            try:
                open(path, 'rb').read(1)
                bad.append('readable ' + path)
            except OSError:
                pass
print(len(bad), bad[:20])
"""


@needs_bubblewrap
def test_a_program_can_write_nothing_but_its_mounts_and_read_nothing_that_is_for_root(api: Api) -> None:
    _, log = api.run(f"python -c {shlex.quote(WALK)}")
    assert log == "0 []\n"


@needs_bubblewrap
def test_an_interpreter_in_a_folder_of_the_users_brings_nothing_else_with_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    (home / "letter").write_text("private")
    (home / "bin/python3").symlink_to(sys.executable)
    script = home / "bin/python"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    script.chmod(0o755)
    for python in (home / "bin/python3", script):
        with SandboxWorkdir({}, python) as workdir, workdir.launch_options({}) as (wrapper, env, files):
            command = [*wrapper, "/bin/sh", "-c", f"python -c 'print(6 * 7)'; ls -A {home}"]
            done = subprocess.run(command, env=env, pass_fds=files, capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["42", "bin"]


@needs_bubblewrap
def test_a_mount_among_the_systems_own_files_fails_and_says_so(api: Api) -> None:
    job, log = api.run("true", datasets=[mount("/datasets/u/MNIST", "/usr/mnist")])
    assert job["state"] == "FAILED"
    assert "bwrap: Can't mkdir /usr/mnist" in log


@needs_bubblewrap
def test_the_images_interpreter_is_the_programs(api: Api) -> None:
    _, log = api.run("python -c 'import sys; print(sys.prefix)'; kill -9 $$")
    assert log == f"{sys.prefix}\n"
    assert api.run("kill -9 $$")[0]["jobStatus"]["appExitCode"] == 137


@needs_bubblewrap
def test_stop_lets_the_program_finish_in_order_and_ends_what_has_left_its_group(api: Api, emulator: Emulator) -> None:
    word = "sleep 61.25"
    command = f"setsid {word} & trap 'echo in order > /output/ended; exit' TERM; echo ready; sleep 60 & wait"
    name = api.submit(command)
    api.until(lambda: api.log(name) == "ready\n" and runs(word), bool)
    api.http.delete(f"{JOBS}/{name}")
    assert api.wait_job(name)["state"] == "STOPPED"
    assert (emulator.storage / "projects/u/p/outputs/1/ended").read_text() == "in order\n"
    api.until(lambda: runs(word), lambda found: not found)


@needs_bubblewrap
def test_a_program_that_is_stopped_while_it_starts_does_not_run_on(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()

    async def stop(delay: float, number: int) -> None:
        with SandboxWorkdir({"/output": BindMount(output, is_writable=True)}, Path(sys.executable)) as workdir:
            command = RecoverableCommand(tmp_path / f"trace-{number}")
            group = command.start(f"sleep 30; touch /output/{number}", workdir, {}, tmp_path / "log")
            await asyncio.sleep(delay)
            await group.end(grace=60)

    async def stop_at_every_moment() -> None:
        await asyncio.gather(*(stop(number * 0.004, number) for number in range(12)))

    asyncio.run(stop_at_every_moment())
    assert list(output.iterdir()) == []


@needs_bubblewrap
def test_a_serving_sees_its_model_and_can_be_asked(api: Api, emulator: Emulator) -> None:
    (emulator.storage / "models/u/dense/weights").write_text("1 2 3")
    name = api.serve("cd $MODEL", "exec python -m http.server --bind $HOST $PORT", envs={"MODEL": "/model/u/dense"})
    url = api.wait_serving(name, "RUNNING")["hosts"]

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/weights", trust_env=False).text == "1 2 3"
        except httpx.TransportError:
            return False

    api.until(answers, bool)
    api.http.delete(f"/lapis/inference.leinao.ai/v1/workspaces/bitahub/namespaces/inference/serving/{name}")


@needs_bubblewrap
def test_what_a_serving_is_told_reaches_its_program_and_nothing_before_it(api: Api, emulator: Emulator) -> None:
    envs = {"PATH": "/usr/bin:/bin", "LD_PRELOAD": "/no/such/library.so", "SECRET": "s3cret-word"}
    command = "cat /proc/self/cmdline; env; exec sleep 61.75"
    name = api.serve(command, envs=envs)
    api.wait_serving(name, "RUNNING")
    [log] = emulator.home.glob(f"servings/**/{name}/**/log")
    text = api.until(log.read_text, lambda text: "SECRET" in text)
    assert "SECRET=s3cret-word" in text
    assert "PATH=/usr/bin:/bin" in text
    assert not runs("s3cret-word"), "it is on a command line"
    for part in ("environ", "cmdline"):
        shells = [file for file in Path("/proc").glob(f"[0-9]*/{part}") if f"/{name}/".encode() in read(file)]
        assert not [file for file in shells if b"LD_PRELOAD" in read(file)]
    api.http.delete(f"/lapis/inference.leinao.ai/v1/workspaces/bitahub/namespaces/inference/serving/{name}")


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def killable(images_file: Path, tmp_path: Path) -> Iterator[KillableEmulator]:
    killable = KillableEmulator(tmp_path / "a home with spaces", images_file, "bubblewrap")
    yield killable
    killable.stop()


@needs_bubblewrap
def test_jobs_and_servings_are_found_again(killable: KillableEmulator) -> None:
    name, _ = killable.running("echo done; exit 3")
    serving = killable.api.serve(TELL_PID)
    url = killable.api.wait_serving(serving, "RUNNING")["hosts"]
    killable.restart()
    assert killable.api.job(name)["state"] == "RUNNING"
    assert killable.api.serving(serving)["hosts"] == url
    killable.let_go()
    job = killable.api.wait_job(name)
    assert (job["state"], job["jobStatus"]["appExitCode"], killable.api.log(name)) == ("FAILED", 3, "done\n")


def test_without_bubblewrap_there_are_links_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.INFO, "airflow_bitahub"), Emulator():
        pass
    assert "programs see their mounts through links (bubblewrap (bwrap) is not installed)" in caplog.text
    with pytest.raises(ConfigurationError, match="not possible here: bubblewrap"):
        choose_workdir("bubblewrap")
    with pytest.raises(ConfigurationError, match="choose one of auto, bubblewrap, links"):
        choose_workdir("docker")


def test_bubblewrap_that_may_not_work_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert choose_workdir("auto")[0].__name__ == "SymlinkWorkdir"
    if sys.platform == "linux":
        with pytest.raises(ConfigurationError, match="No permissions to create new namespace"):
            choose_workdir("bubblewrap")


# Asks every port of the machine's loopback interface on which a program listens.
ASK_ALL_PORTS = """python -c '
import urllib.error, urllib.request
lines = [line.split() for line in open("/proc/net/tcp")]
ports = {int(line[1].split(":")[1], 16) for line in lines if line[3] == "0A"}
for port in ports:
    try:
        print(port, urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).read()[:20])
    except urllib.error.HTTPError as error:
        print(port, error.code)
    except OSError as error:
        print(port, type(error).__name__)
'"""
# The program of a serving that fetches an address of this machine, whose port is in its path.
FETCH = TELL_PID.replace("str(os.getpid()).encode()", "fetch(self.path[1:])").replace(
    "class",
    """def fetch(port):
    import urllib.request
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
    except OSError as error:
        return str(error).encode()
class""",
)
TELL_SECRET = TELL_PID.replace("str(os.getpid()).encode()", 'b"secret"')


@needs_bubblewrap
def test_no_job_gets_round_the_token_of_a_serving(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file, grace=1.0, serving_tokens=True, mounts="bubblewrap") as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        api = Api(emulator)
        with api.http:
            servings = [api.wait_serving(api.serve(TELL_SECRET, replicas=2), "RUNNING") for _ in range(2)]
            for serving in servings:  # all of these programs listen on the same port, each in its own network
                assert api.until(partial(ask, serving["hosts"], serving["token"]), bool) == "secret"
                assert ask(serving["hosts"]) == ""
            _, log = api.run(ASK_ALL_PORTS, code=None, datasets=[])
            for serving in servings:
                assert f"{httpx.URL(serving['hosts']).port} 401" in log
            assert "secret" not in log
            fetching = api.wait_served(api.serve(FETCH))
            way = f"{fetching['hosts']}/{httpx.URL(servings[0]['hosts']).port}"  # out of its own network
            assert ask(way, fetching["token"]) == "HTTP Error 401: Unauthorized"


@needs_bubblewrap
def test_served_program_in_its_own_network_is_found_again(images_file: Path, tmp_path: Path) -> None:
    killable = KillableEmulator(tmp_path, images_file, "bubblewrap", serving_tokens=True)
    name = killable.api.serve(TELL_SECRET)
    serving = killable.api.wait_serving(name, "RUNNING")
    for _ in range(2):
        assert killable.api.until(partial(ask, serving["hosts"], serving["token"]), bool) == "secret"
        killable.restart()
    killable.stop()


@needs_bubblewrap
def test_a_served_program_that_ends_when_it_is_asked_to_is_gone_at_once(images_file: Path, tmp_path: Path) -> None:
    # Whatever is left of it would be killed after the grace period only, for which no client waits.
    with Emulator(tmp_path, images=images_file, grace=600, mounts="bubblewrap") as emulator:
        (emulator.storage / "models/u/dense").mkdir(parents=True)
        api = Api(emulator)
        with api.http:
            name = api.serve("python -m http.server --bind 127.0.0.1 $PORT")
            api.wait_served(name)
            assert api.http.delete(f"{SERVINGS}/{name}").status_code == 200
