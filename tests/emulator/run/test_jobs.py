"""Jobs really run, in their own process groups and folders, and end when they are stopped."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from airflow_bitahub.emulator.server import Emulator
from tests.emulator.conftest import IMAGE, JOBS, Api, is_alive, mount, open_files


@pytest.fixture
def outputs(api: Api) -> Path:
    return api.emulator.storage / "projects/u/p/outputs/1"


def test_paths_in_the_command_are_mapped(api: Api) -> None:
    code = api.emulator.storage / "projects/u/p/code/dense"
    code.mkdir(exist_ok=True)
    (code / "copy.py").write_text(
        "import pathlib, sys; pathlib.Path(sys.argv[2], 'copy').write_text(pathlib.Path(sys.argv[1]).read_text())"
    )
    (api.emulator.storage / "datasets/u/MNIST/labels").write_text("labels")
    job, log = api.run("cd /code/dense; python copy.py /data/u/MNIST/labels /output/copies/..; ls /output2")
    assert (api.emulator.storage / "projects/u/p/outputs/1").is_dir()
    assert job["state"] == "FAILED", "there is no /output2"
    assert "/output2" in log


def test_input_of_another_project(api: Api) -> None:
    predictions = api.emulator.storage / "projects/u/infer/outputs/1"
    predictions.mkdir(parents=True)
    (predictions / "x.npy").write_text("predicted")
    _, log = api.run("cat /prediction/x.npy", datasets=[mount("/projects/u/infer/outputs/1", "/prediction")])
    assert log == "predicted"


def test_environment(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_SECRET", "secret")
    program = "import json, os, sys; print(json.dumps([dict(os.environ), os.getcwd(), sys.prefix]))"
    job, log = api.run(f'python -c "{program}"')
    env, folder, prefix = json.loads(log)
    assert prefix == sys.prefix
    assert env["HOME"] == folder
    assert env["PAI_JOB_NAME"] == job["name"]
    assert env["PAI_TASK_INDEX"] == "0"
    assert env["PAI_CURRENT_TASK_ROLE_NAME"] == "task1"
    assert env["TMPDIR"].startswith(folder)
    assert env.keys() <= {
        "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PWD", "OLDPWD", "SHLVL", "_", "PYTHONUNBUFFERED",
        "BITAHUB_PROGRAM",
    } | {name for name in env if name.startswith(("PAI_", "VC_", "VK_"))}  # fmt: skip
    assert api.emulator.token not in log
    assert not Path(folder).exists(), "the folder is gone with the job"


def test_both_outputs_are_logged(api: Api) -> None:
    _, log = api.run("echo out; echo err >&2")
    assert log == "out\nerr\n"


def test_log_can_be_read_while_the_job_runs(api: Api) -> None:
    name = api.submit("python -c \"import time; print('first'); time.sleep(60)\"")
    api.until(lambda: api.log(name), lambda log: log == "first\n")
    api.http.delete(f"{JOBS}/{name}")
    api.wait_job(name, "STOPPED")


def test_killed_by_a_signal(api: Api) -> None:
    job, _ = api.run("kill -9 $$")
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 137)


def test_stop_lets_the_program_finish_in_order(api: Api, outputs: Path) -> None:
    program = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.3)\n    pathlib.Path('/output/ended').write_text('in order')\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('ready')\ntime.sleep(60)"
    )
    name = api.submit(f'python -c "{program}"; true')
    api.until(lambda: api.log(name), bool)
    api.http.delete(f"{JOBS}/{name}")
    assert api.wait_job(name)["state"] == "STOPPED"
    assert (outputs / "ended").read_text() == "in order"


def test_stop_ends_all_that_the_command_started(api: Api, outputs: Path) -> None:
    name = api.submit("trap '' TERM; (sleep 61 & echo $! > /output/pid1); sleep 62 & echo $! > /output/pid2; wait")
    pids = [api.pid_from(outputs / "pid1"), api.pid_from(outputs / "pid2")]
    api.http.delete(f"{JOBS}/{name}")
    api.wait_job(name, "STOPPED")
    api.until(lambda: [pid for pid in pids if is_alive(pid)], lambda alive: not alive)


def test_what_a_finished_command_left_is_ended(api: Api, outputs: Path) -> None:
    job, _ = api.run("sleep 60 & echo $! > /output/left")
    assert job["state"] == "SUCCEEDED"
    pid = api.pid_from(outputs / "left")
    api.until(lambda: is_alive(pid), lambda alive: not alive)


def test_tasks_run_side_by_side(api: Api) -> None:
    body = api.job_body()
    # Each waits for the file that the other writes.
    wait = "while [ ! -e /output/side-{} ]; do sleep 0.02; done; echo $PAI_CURRENT_TASK_ROLE_NAME $PAI_TASK_INDEX"
    role = body["taskRoles"][0]
    ps = {**role, "taskRoleName": "ps", "command": "touch /output/side-ps; " + wait.format("worker")}
    worker = {**role, "taskRoleName": "worker", "taskNumber": 2, "command": "touch /output/side-worker; "}
    worker["command"] += wait.format("ps")
    name = api.submit(taskRoles=[ps, worker])
    job = api.wait_job(name)
    assert job["state"] == "SUCCEEDED"
    assert sorted(api.log(name).splitlines()) == ["ps 0", "worker 0", "worker 1"]
    assert [task["exitCode"] for task in job["taskRoles"]["worker"]["taskStatuses"]] == [0, 0]


def test_one_task_that_fails_ends_the_job(api: Api) -> None:
    role = api.job_body()["taskRoles"][0]
    roles = [{**role, "command": "sleep 60"}, {**role, "taskRoleName": "bad", "command": "exit 5"}]
    job = api.wait_job(api.submit(taskRoles=roles))
    assert (job["state"], job["jobStatus"]["appExitCode"]) == ("FAILED", 5)
    assert "'bad'" in job["jobStatus"]["appExitDiagnostics"]
    assert job["taskRoles"]["task1"]["taskStatuses"][0]["state"] == "STOPPED"


def roles_of(api: Api, *changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**api.job_body()["taskRoles"][0], **change} for change in changes]


def test_replicas_find_one_another(api: Api) -> None:
    talk = """python -c '
import os, socket, time
hosts, index = os.environ["VC_TWO_WORKERS_HOSTS"].split(","), int(os.environ["VK_TASK_INDEX"])
assert os.environ["VC_TWO_WORKERS_NUM"] == str(len(hosts)) == "2" and os.environ["VC_TASK_NAME"] == "two-workers"
listed = [entry.split(":") for entry in os.environ["PAI_TASK_ROLE_two_workers_HOST_LIST"].split(",")]
assert [host for host, _ in listed] == hosts and len({port for _, port in listed}) == 2
if index == 0:
    with socket.create_server((hosts[0], int(listed[0][1]))) as server:
        print("heard", server.accept()[0].recv(100).decode())
else:
    for _ in range(1000):
        try:
            socket.create_connection((hosts[0], int(listed[0][1]))).sendall(b"worker 1")
            break
        except OSError:
            time.sleep(0.02)
'"""
    # Two jobs of the same kind at once do not get in each other's way.
    names = [
        api.submit(taskRoles=roles_of(api, {"taskRoleName": "two-workers", "taskNumber": 2, "command": talk}))
        for _ in range(2)
    ]
    assert [api.wait_job(name)["state"] for name in names] == ["SUCCEEDED", "SUCCEEDED"]
    assert [api.log(name) for name in names] == ["heard worker 1\n", "heard worker 1\n"]


def test_so_many_replicas_of_a_role_may_fail(api: Api) -> None:
    command = "test $PAI_TASK_INDEX != 0 || exit 3; until [ -e /output/go-$PAI_JOB_NAME ]; do sleep 0.02; done"
    [role] = roles_of(api, {"taskNumber": 3, "minFailedTaskCount": 2, "command": command})
    name = api.submit(taskRoles=[role])
    failed = api.until(
        lambda: api.job(name)["taskRoles"]["task1"]["taskStatuses"][0], lambda task: task["exitCode"] is not None
    )
    assert (failed["exitCode"], api.job(name)["state"]) == (3, "RUNNING")
    (api.emulator.storage / f"projects/u/p/outputs/1/go-{name}").touch()
    assert api.wait_job(name)["state"] == "SUCCEEDED"


def test_so_many_replicas_that_succeed_end_the_job(api: Api) -> None:
    command = "test $PAI_TASK_INDEX = 1 || sleep 60"
    [role] = roles_of(api, {"taskNumber": 3, "minSucceededTaskCount": 1, "command": command})
    job = api.wait_job(api.submit(taskRoles=[role]))
    assert job["state"] == "SUCCEEDED"
    states = [task["state"] for task in job["taskRoles"]["task1"]["taskStatuses"]]
    assert states == ["STOPPED", "SUCCEEDED", "STOPPED"]


def test_failed_job_is_restarted_as_often_as_it_may(api: Api) -> None:
    command = "echo try >> /output/tries-$PAI_JOB_NAME; test $(wc -l < /output/tries-$PAI_JOB_NAME) -ge {} || exit 4"
    job, log = api.run(f"echo hello; {command.format(3)}", retryCount=2)
    assert (job["state"], job["jobStatus"]["retries"], log) == ("SUCCEEDED", 2, "hello\nhello\nhello\n")
    job, _ = api.run(command.format(3), retryCount=1)
    assert (job["state"], job["jobStatus"]["retries"], job["jobStatus"]["appExitCode"]) == ("FAILED", 1, 4)


def test_stopped_job_is_not_restarted(api: Api, outputs: Path) -> None:
    name = api.submit("echo $$ > /output/restarting; sleep 60", retryCount=3)
    pid = api.pid_from(outputs / "restarting")
    api.http.delete(f"{JOBS}/{name}")
    job = api.wait_job(name)
    assert (job["state"], job["jobStatus"]["retries"]) == ("STOPPED", 0)
    assert not is_alive(pid)


def test_jobs_wait_for_a_place_first_come_first_served(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file, max_running=1, grace=1) as emulator:
        api = Api(emulator)
        plain: dict[str, Any] = {"code": None, "datasets": [], "output": None}
        first = api.submit("sleep 60", **plain)
        api.wait_job(first, "RUNNING")
        names = [api.submit(**plain) for _ in range(3)]
        waiting = api.job(names[0])
        assert waiting["state"] == "WAITING"
        assert "waiting: 1 job slot requested, 0 free" in waiting["jobStatus"]["appExitDiagnostics"]
        api.http.delete(f"{JOBS}/{names[1]}")
        assert api.wait_job(names[1])["state"] == "STOPPED"
        assert api.job(names[1])["launchedTime"] == 0
        api.http.delete(f"{JOBS}/{first}")
        jobs = [api.wait_job(name) for name in (first, names[0], names[2])]
        assert [job["state"] for job in jobs] == ["STOPPED", "SUCCEEDED", "SUCCEEDED"]
        assert jobs[0]["stopedTime"] <= jobs[1]["launchedTime"] <= jobs[1]["stopedTime"] <= jobs[2]["launchedTime"]
        api.http.close()


@pytest.mark.long
def test_a_hundred_jobs_at_once(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file) as emulator:
        api = Api(emulator)
        files, threads = open_files(), threading.active_count()
        names = [api.submit(code=None, datasets=[], output=None) for _ in range(100)]
        api.until(
            lambda: api.http.get(JOBS, params={"limit": 1000}).json()["data"]["items"],
            lambda items: {item["state"] for item in items} == {"SUCCEEDED"} and len(items) == len(names),
            seconds=40,
        )
        assert open_files() <= files + 2
        assert threading.active_count() <= threads
        api.http.close()


def test_stopping_the_emulator_ends_everything(images_file: Path, tmp_path: Path) -> None:
    files, threads = open_files(), threading.active_count()
    emulator = Emulator(tmp_path, images=images_file, grace=0.5, max_running=2, mounts="links")
    emulator.start()
    api = Api(emulator)
    (emulator.storage / "models/u/dense").mkdir(parents=True)
    plain: dict[str, Any] = {"code": None, "datasets": []}
    deaf = "trap '' TERM; pwd > /output/cwd; echo $$ > /output/pid{}; sleep 60 & wait; sleep 60; sleep 60"
    names = [api.submit(deaf.format(i), **plain) for i in range(3)]
    api.serve("python -m http.server --bind $HOST $PORT")
    outputs = emulator.storage / "projects/u/p/outputs/1"
    pids = [api.pid_from(outputs / "pid0"), api.pid_from(outputs / "pid1")]
    api.http.close()
    emulator.stop()
    assert not any(is_alive(pid) for pid in pids)
    assert not Path((outputs / "cwd").read_text().strip()).exists()
    assert {emulator.state.jobs()[i].status.value for i in range(len(names))} == {"STOPPED"}
    assert {record.status.value for record in emulator.state.servings()} == {"STOPPED"}
    assert open_files() <= files
    assert threading.active_count() <= threads
    emulator.stop()  # twice does no harm


def test_what_cannot_be_started_fails(api: Api) -> None:
    job, _ = api.run("echo " + "x" * 200_000)  # more than one argument of a Linux program may have
    if sys.platform == "linux":
        assert job["state"] == "FAILED"
        assert "the emulator could not run it" in job["jobStatus"]["appExitDiagnostics"]
        assert job["jobStatus"]["appExitCode"] is None


def test_input_that_is_gone_when_the_turn_comes(images_file: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path, images=images_file, max_running=1, grace=1) as emulator:
        api = Api(emulator)
        dataset = emulator.storage / "datasets/u/MNIST"
        dataset.mkdir(parents=True)
        first = api.submit("sleep 60", code=None, datasets=[])
        name = api.submit(code=None)
        dataset.rmdir()
        api.http.delete(f"{JOBS}/{first}")
        job = api.wait_job(name)
        assert job["state"] == "FAILED"
        assert job["jobStatus"]["appExitDiagnostics"] == "dataset '/datasets/u/MNIST' does not exist"
        api.http.close()


def test_files_of_the_image(api: Api) -> None:
    assert api.job_body()["taskRoles"][0]["image"] == IMAGE
    _, log = api.run("cat /in-image/hello.txt")
    assert log == "from the image"


@pytest.mark.parametrize("ending", ["exit 0", "sleep 60"])
def test_what_left_its_group_ends_with_its_job(api: Api, emulator: Emulator, ending: str) -> None:
    name = api.submit(f"setsid sleep 600 & echo $! > /output/left; {ending}")
    pid = api.pid_from(emulator.storage / "projects/u/p/outputs/1/left")
    if ending != "exit 0":
        api.http.delete(f"{JOBS}/{name}")
    api.wait_job(name)
    api.until(lambda: is_alive(pid), lambda alive: not alive)
