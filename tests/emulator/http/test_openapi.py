"""The description at /openapi.json is true: the emulator answers every request as described there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import requests

from airflow_bitahub.emulator.faults.faults import Effect, Fault, Faults
from airflow_bitahub.emulator.http.app import create_app
from airflow_bitahub.emulator.http.profiles import find_profile
from airflow_bitahub.emulator.http.signin import SignIn
from airflow_bitahub.emulator.origins import Origins
from airflow_bitahub.emulator.scripts import ScriptedJob, ScriptedServing
from airflow_bitahub.emulator.server import Emulator
from airflow_bitahub.emulator.state.state import State
from tests.emulator.conftest import JOBS, SERVINGS, Api, assert_refused

USERS = {"you": "s3cret"}
CLUSTER = "/clusters/{cluster}"


def document_of(sign_in: SignIn | None) -> dict[str, Any]:
    """Return an emulator's description without starting one, since pytest needs it while it collects tests."""
    runner, profile = cast(Any, None), find_profile("default")
    app = create_app(
        State(),
        runner,
        Faults(),
        "",
        Origins([]),
        profile,
        sign_in,
        token_for_reading=False,
        prefix="lapis",
        auth="any",
    )
    return app.openapi()


DOCUMENT = document_of(SignIn(USERS))
OPERATIONS = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]


class Description:
    """What schemathesis makes of the document. It is imported here, because that takes as long as many tests do."""

    def __init__(self, document: dict[str, Any]) -> None:
        import schemathesis
        from hypothesis.configuration import set_hypothesis_home_dir
        from schemathesis.checks import not_a_server_error
        from schemathesis.specs.openapi.checks import (
            content_type_conformance,
            response_schema_conformance,
            status_code_conformance,
        )

        # Hypothesis stores some things even without a database.
        set_hypothesis_home_dir(Path(__file__).parents[3] / ".pytest_cache" / "hypothesis")
        # Methods that are not described are tried elsewhere.
        config = schemathesis.Config.from_dict({"seed": 1, "phases": {"coverage": {"unexpected-methods": []}}})
        self.schema = schemathesis.openapi.from_dict(document, config=config)
        self.checks = [
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ]

    def try_out(self, method: str, path: str, call: Callable[[Any], None]) -> None:
        """Call an operation with examples, with every kind of value in every place, and with random values."""
        from hypothesis import HealthCheck, settings
        from schemathesis.pytest.lazy import get_all_tests

        # The last release for Python 3.10 requires these, too.
        others = {"seed", "as_strategy_kwargs"} & set(signature(get_all_tests).parameters)
        [found] = get_all_tests(
            schema=self.schema.include(method=method, path=path),
            test_func=lambda case: call(case),
            settings=settings(
                max_examples=5,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
            given_kwargs=None,
            **dict.fromkeys(others),
        )
        _, test = cast(Any, found).ok()
        test()


@pytest.fixture(scope="module")
def description() -> Description:
    """The description of an emulator at which users sign in."""
    return Description(DOCUMENT)


@pytest.fixture(scope="module")
def emulator(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator at which users sign in, and on which nothing really runs."""
    home = tmp_path_factory.mktemp("home")
    with Emulator(home, images=images_file, sign_in=SignIn(USERS)) as emulator:
        emulator.scripts.add(ScriptedJob())
        emulator.scripts.add(ScriptedServing())
        yield emulator


@pytest.fixture(scope="module")
def free(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator at which nobody signs in."""
    with Emulator(tmp_path_factory.mktemp("home"), images=images_file) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def session(emulator: Emulator) -> Iterator[requests.Session]:
    """A client with the emulator's own token."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {emulator.token}"
        yield session


# Requests generated from the description ---------------------------------------------------------------------


# Both roots have the same routes, so half of them will do.
@pytest.mark.parametrize(("method", "path"), [each for each in OPERATIONS if CLUSTER not in each[1]])
def test_every_answer_is_as_described(
    method: str, path: str, description: Description, emulator: Emulator, session: requests.Session
) -> None:
    def call(case: Any) -> None:
        case.call_and_validate(emulator.url, session, checks=description.checks)
        emulator.faults.clear()  # else the next answer could be anything, late, or none

    description.try_out(method, path, call)


# Chosen requests -------------------------------------------------------------------------------------------


def places(path: str, name: str = "x") -> dict[str, str]:
    namespace = "inference" if "/inference" in path else "bita-user"
    every = {"cluster": "host", "workspace": "bitahub", "namespace": namespace, "name": name, "fault_id": name}
    return {place: value for place, value in every.items() if f"{{{place}}}" in path}


def proper_request(api: Api, method: str, path: str) -> tuple[str, Any]:
    """Return the name of a job, serving or fault that exists, or that can be created, and the body to send."""
    if path == "/oauth/token":
        return "", {"grant_type": "password", "username": "you", "password": USERS["you"]}
    if path.startswith("/emulator/faults"):
        return api.emulator.faults.add(Fault(effect=Effect(delay=0))).id, {"effect": {"delay": 0}}
    if "/jobs" in path:
        body = api.job_body()
        return (body["jobName"] if method == "POST" else api.submit()), body
    if method == "POST" or "{name}" not in path:
        return "", api.serving_body("serve")
    name = api.serve("serve")
    return name, {"replicas": 2} if method == "PATCH" else api.serving_body("serve", name=name, replicas=2)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_success_is_as_described(
    api: Api, session: requests.Session, description: Description, method: str, path: str
) -> None:
    name, body = proper_request(api, method, path)
    operation = description.schema[path][method]
    sent = {"body": body} if operation.body else {}
    case = operation.Case(path_parameters=places(path, name), **sent)
    response = case.call_and_validate(api.emulator.url, session, checks=description.checks)
    assert response.status_code == 200
    api.emulator.faults.clear()


@pytest.mark.parametrize(
    ("status", "headers", "content"),
    [
        (400, {}, b"{"),
        (401, {"Authorization": "Bearer wrong"}, b"{}"),
        (403, {"Host": "evil.example"}, b"{}"),
        (413, {}, b" " * (1 << 20) + b"{}"),
        (415, {"Content-Type": "text/plain"}, b"{}"),
    ],
)
def test_refusals_are_as_described(
    api: Api, description: Description, status: int, headers: dict[str, str], content: bytes
) -> None:
    response = api.http.post(f"{JOBS}/x", content=content, headers={"Content-Type": "application/json", **headers})
    assert response.status_code == status
    path = next(path for method, path in OPERATIONS if CLUSTER in path and path.endswith("/jobs/{name}"))
    case = description.schema[path]["POST"].Case(path_parameters=places(path))
    case.validate_response(response, description.checks)


@pytest.mark.parametrize("signing_in", [False, True])
def test_what_needs_a_token_is_as_described(emulator: Emulator, free: Emulator, signing_in: bool) -> None:
    document = DOCUMENT if signing_in else document_of(None)
    description = Description(document)
    with httpx.Client(base_url=(emulator if signing_in else free).url, trust_env=False, verify=False) as stranger:
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                response = stranger.request(method, path.format(**places(path)))
                is_closed = operation["security"] == [{"token": []}]
                assert (response.status_code == 401) == is_closed, (method, path)
                assert is_closed or method == "get" or path == "/oauth/token"
                case = description.schema[path][method.upper()].Case(path_parameters=places(path))
                case.validate_response(response, description.checks)


# The description itself -------------------------------------------------------------------------------------------


def test_it_is_served_to_who_has_a_token(api: Api, free: Emulator) -> None:
    assert api.http.get("/openapi.json").json() == DOCUMENT
    assert httpx.get(f"{api.emulator.url}/openapi.json").status_code == 401
    assert httpx.get(f"{free.url}/openapi.json").json() == document_of(None)


def test_every_operation_is_summed_up_in_a_sentence() -> None:
    summaries = [DOCUMENT["paths"][path][method.lower()]["summary"] for method, path in OPERATIONS]
    assert all(summary[0].isupper() and summary.endswith(".") for summary in summaries)


def test_bodies_are_spelled_as_the_document_does() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert {"jobName", "taskRoles", "retryCount"} <= schemas["JobSpec"]["properties"].keys()
    assert {"memoryMB", "shmMB", "accDevice"} <= schemas["TaskRole"]["properties"].keys()
    assert {"mountPath"} <= schemas["ServingModel"]["properties"].keys()
    assert schemas["JobSpec"]["required"] == ["jobName", "taskRoles"]


def test_the_cluster_may_be_left_out_of_every_address() -> None:
    with_cluster = {path for _, path in OPERATIONS if CLUSTER in path}
    without = {path for _, path in OPERATIONS if path.startswith("/lapis/") and CLUSTER not in path}
    assert {path.replace(CLUSTER, "") for path in with_cluster} == without


# Defects that were found this way ---------------------------------------------------------------------------------


def test_a_scripted_job_of_endless_tasks_is_refused(api: Api) -> None:
    [role] = api.job_body()["taskRoles"]
    body = api.job_body(taskRoles=[{**role, "taskNumber": 10**1000}])
    assert_refused(api.post_job(body), 400, "more than 64 tasks")


def test_a_serving_of_endless_replicas_is_refused(api: Api) -> None:
    body = api.serving_body("serve", replicas=10**1000)
    assert_refused(api.http.post(SERVINGS, json=body), 400, "replicas: the emulator runs at most 64")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("resource.cpu", {"resource": {"cpu": 10**1000}}),
        ("resource.memory", {"resource": {"memory": 10**1000}}),
        ("resource.accDevice.requests", {"resource": {"accDevice": {"deviceType": "g", "requests": 10**1000}}}),
    ],
)
def test_a_serving_that_could_not_be_metered_is_refused(api: Api, field: str, changes: dict[str, Any]) -> None:
    response = api.http.post(SERVINGS, json=api.serving_body("serve", **changes))
    assert_refused(response, 400, f"{field}: is more than 2147483647")
    assert api.http.get(SERVINGS).status_code == 200
