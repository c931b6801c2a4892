"""Every way of signing in, from the Airflow connection to an emulator that wants it, over a socket."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from airflow_bitahub.api.jobs import JobSpec, TaskRole, list_jobs, submit_job
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.scripts import ScriptedJob
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.exceptions import AuthenticationError, ConfigurationError
from airflow_bitahub.hooks.bitahub import BitaHubHook
from airflow_bitahub.hooks.sessions import sessions_of
from airflow_bitahub.triggers.job import BitaHubJobTrigger
from tests.conftest import events_of, until

USER, PASSWORD = "ann", "correct-horse"
CLIENT = ("airflow", "airflow-s3cret")
CLIENT_EXTRAS = {"client_id": CLIENT[0], "client_secret": CLIENT[1]}
TOKENS = "bitahub_token."
Connect = Callable[..., BitaHubHook]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, SignIn]]:
    sign_in = SignIn({USER: PASSWORD})
    with Emulator(tmp_path_factory.mktemp("home"), sign_in=sign_in, mounts="links") as emulator:
        yield emulator, sign_in


@pytest.fixture
def guarded(shared: tuple[Emulator, SignIn]) -> Iterator[Callable[..., tuple[Emulator, SignIn]]]:
    """A function that sets how users sign in at the emulator."""

    def guarded(**options: Any) -> tuple[Emulator, SignIn]:
        emulator, sign_in = shared
        vars(sign_in).update(vars(SignIn({USER: PASSWORD}, client=CLIENT, **options)))
        return emulator, sign_in

    another_process()
    yield guarded
    another_process()
    shared[0].clear()


async def event_of(trigger: BitaHubJobTrigger) -> Any:
    return (await anext(trigger.run())).payload


def another_process() -> None:
    """Forget the tokens that this process knows."""
    sessions_of.cache_clear()


@pytest.mark.parametrize("kind", [None, "bearer", "header", "basic", "kubesphere"])
def test_every_way_of_signing_in(
    kind: str | None,
    guarded: Any,
    connect: Connect,
    variables: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator, _ = guarded()
    caplog.set_level(logging.DEBUG)
    password = PASSWORD if kind in ("basic", "kubesphere") else emulator.token
    extra = {"auth": kind, **CLIENT_EXTRAS}
    hook = connect(extra, host=emulator.url, login=USER, password=password)
    assert hook.send(list_jobs()).jobs == {}

    async def main() -> None:
        other = await BitaHubHook.connect("bitahub_test")
        async with aclosing(other.client):
            assert (await other.asend(list_jobs())).jobs == {}

    asyncio.run(main())
    assert len(variables) == (kind == "kubesphere")
    assert all(name.startswith(TOKENS) for name in variables)
    tokens = [json.loads(text)[key] for text in variables.values() for key in ("access_token", "refresh_token")]
    for secret in (password, CLIENT[1], *tokens):
        assert secret not in caplog.text
    assert PASSWORD not in str(variables)
    assert CLIENT[1] not in str(variables)


@pytest.mark.parametrize("kind", ["bearer", "header", "basic"])
def test_a_refused_password_is_named_without_being_shown(kind: str, guarded: Any, connect: Connect) -> None:
    emulator, _ = guarded()
    works, message = connect({"auth": kind}, host=emulator.url, login=USER, password="wrong-one").test_connection()
    assert works is False
    assert "Check the token or password of the Airflow connection" in message
    assert "wrong-one" not in message


@pytest.mark.usefixtures("variables")
def test_the_wrong_client_is_named(guarded: Any, connect: Connect) -> None:
    emulator, sign_in = guarded()
    hook = connect({"auth": "kubesphere"}, host=emulator.url, login=USER, password=PASSWORD)
    with pytest.raises(AuthenticationError, match="extras 'client_id' and 'client_secret'"):
        hook.send(list_jobs())
    assert not sign_in._failures[USER]


@pytest.mark.parametrize(
    ("fields", "extra", "complaint"),
    [
        ({"password": "x"}, {"auth": "oauth"}, "'auth' is 'oauth'; allowed are none, bearer"),
        ({"login": "ann"}, {"auth": "kubesphere"}, "'auth' is 'kubesphere', but its password is empty"),
        ({}, {"auth": "bearer"}, "password is empty"),
        ({"password": "x"}, {"auth": "basic"}, "login is empty"),
        ({"password": "x"}, {"share_token": "perhaps"}, "'share_token' must be true or false"),
        ({"password": "x"}, {"client_secret": True}, "'client_secret' must be text"),
    ],
)
def test_what_a_way_of_signing_in_lacks_is_named(
    fields: dict[str, Any], extra: dict[str, Any], complaint: str, connect: Connect
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        _ = connect(extra, **fields).settings


def test_tokens_that_are_not_shared_stay_in_the_process(
    guarded: Any, connect: Connect, variables: dict[str, str]
) -> None:
    emulator, sign_in = guarded(single_session=True)
    extra = {"auth": "kubesphere", **CLIENT_EXTRAS, "share_token": "false"}
    hook = connect(extra, host=emulator.url, login=USER, password=PASSWORD)
    hook.send(list_jobs())
    token = list(sign_in._access)
    hook.new_client().send(list_jobs())
    assert list(sign_in._access) == token
    assert variables == {}


@pytest.mark.usefixtures("variables")
def test_threads_and_an_event_loop_sign_in_once(guarded: Any, connect: Connect) -> None:
    emulator, sign_in = guarded()
    extra = {"auth": "kubesphere", **CLIENT_EXTRAS}
    hook = connect(extra, host=emulator.url, login=USER, password=PASSWORD)
    client, results = hook.client, []

    async def main() -> None:
        results.extend(await asyncio.gather(*(client.asend(list_jobs()) for _ in range(5))))
        await client.aclose()

    threads = [threading.Thread(target=lambda: results.append(client.send(list_jobs()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(main())
    for thread in threads:
        thread.join()
    assert len(results) == 9
    assert len(sign_in._access) == 1


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("single_session", [False, True], ids=["new", "old"])
def test_a_job_that_outlives_its_tokens_is_watched_by_workers_and_a_triggerer_that_restarts(
    single_session: bool, guarded: Any, connect: Connect
) -> None:
    emulator, sign_in = guarded(expires_in=1, single_session=single_session)
    extra = {"auth": "kubesphere", **CLIENT_EXTRAS}
    worker = connect(extra, host=emulator.url, login=USER, password=PASSWORD)
    emulator.scripts.add(ScriptedJob(job_name="long", run_seconds=4))
    worker.send(submit_job(JobSpec(job_name="long", task_roles=[TaskRole(image="i", command="c")])))
    trigger = BitaHubJobTrigger("bitahub_test", "long", poll_interval=0.1)

    async def begin() -> None:
        watching = asyncio.create_task(event_of(trigger))
        while not known or known == [*sign_in._access]:
            assert not watching.done()
            await asyncio.sleep(0.05)
            worker_answers.append(await asyncio.to_thread(worker.send, list_jobs()))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    another_process()
    known, worker_answers = [*sign_in._access], [worker.send(list_jobs())]
    asyncio.run(begin())
    another_process()
    [event] = events_of(trigger)
    assert event["outcome"] == "finished"
    assert event["job"]["status"] == "SUCCEEDED"
    worker.send(list_jobs())
    assert not sign_in._failures[USER]


def test_a_triggerer_takes_up_a_password_that_was_changed(
    guarded: Any, connect: Connect, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the connection has the wrong one, it is sent once."""
    monkeypatch.setattr("airflow_bitahub.triggers.watch.shared_hook._LOOK_UP_PAUSE", 0.2)
    emulator, sign_in = guarded()
    extra = {"auth": "kubesphere", **CLIENT_EXTRAS}
    fields = {"host": emulator.url, "login": USER}
    worker = connect(extra, **fields, password=PASSWORD)
    emulator.scripts.add(ScriptedJob(job_name="patient"))
    worker.send(submit_job(JobSpec(job_name="patient", task_roles=[TaskRole(image="i", command="c")])))
    variables.clear()
    another_process()
    connect(extra, **fields, password="wrong-one")
    trigger = BitaHubJobTrigger("bitahub_test", "patient", poll_interval=0.1)

    async def main() -> Any:
        watching = asyncio.create_task(event_of(trigger))
        await asyncio.to_thread(until, lambda: sign_in._failures[USER])
        await asyncio.sleep(0.5)  # for more attempts, of which there must be none
        connect(extra, **fields, password=PASSWORD)
        return await watching

    assert asyncio.run(main())["outcome"] == "finished"
    assert len(sign_in._failures[USER]) == 1
    assert "wrong-one" not in str(variables)
