"""The page of models: the versions of each, which job made them, and which servings use them."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_bitahub.emulator.console.access import ROOT
from airflow_bitahub.emulator.console.files import Entry, Folder
from airflow_bitahub.emulator.console.pages import ConsoleContext, context_of, render
from airflow_bitahub.emulator.state.errors import InvalidRequest, NotFound
from airflow_bitahub.emulator.state.records import StoredJob
from airflow_bitahub.emulator.state.serving_records import StoredServing

_MAX_MODELS = 100
_MAX_VERSIONS = 50


class Version(NamedTuple):
    """A version of a model; `path` is its server path."""

    path: str
    folder: Entry
    job: StoredJob | None
    servings: list[StoredServing]


class Model(NamedTuple):
    """A model: the folder of one user, with a folder for each version, the newest first."""

    path: str
    versions: list[Version]
    left_out: int


def show_models(request: Request) -> Response:
    """Show all models."""
    context = context_of(request)
    paths = [f"{user}/{model.path}" for user in _users(context) for model in _folders(context, user)]
    return render(
        request,
        "models.html",
        models=[_model(context, path) for path in paths[:_MAX_MODELS]],
        left_out=max(0, len(paths) - _MAX_MODELS),
    )


def _users(context: ConsoleContext) -> list[str]:
    names = (place.name for place in (context.storage.root / "models").iterdir())
    return sorted(f"/models/{name}" for name in names if not name.startswith("."))


def _folders(context: ConsoleContext, path: str) -> list[Entry]:
    try:
        with Folder(context.storage, path) as folder:
            return sorted(folder.folders())
    except (NotFound, InvalidRequest):
        return []


def _model(context: ConsoleContext, path: str) -> Model:
    found = sorted(_folders(context, path), key=lambda entry: -entry.modified)
    jobs, servings = context.state.jobs(), context.state.servings()
    versions = []
    for entry in found[:_MAX_VERSIONS]:
        place = f"{path}/{entry.path}"
        job = next((job for job in jobs if _made(job, path, entry.path)), None)
        using = [one for one in servings if one.spec.model.path in (path, place) and _uses(one, path, entry.path)]
        versions.append(Version(place, entry, job, using))
    return Model(path, versions, max(0, len(found) - _MAX_VERSIONS))


def _made(job: StoredJob, model: str, version: str) -> bool:
    """Return whether a job wrote this version: into the version's folder, or into the model's, where it names it."""
    if job.spec.output is None:
        return False
    path = job.spec.output.mount_source.path.rstrip("/")
    names_it = any(version in role.command for role in job.spec.task_roles)
    return path == f"{model}/{version}" or (path == model and names_it)


def _uses(serving: StoredServing, model: str, version: str) -> bool:
    """Return whether a serving uses this version: it mounts the version, or the model and names the version."""
    texts = [*serving.spec.envs.values(), *serving.spec.commands]
    return serving.spec.model.path != model or any(version in text for text in texts)


routes = [Route(f"{ROOT}/models", show_models)]
