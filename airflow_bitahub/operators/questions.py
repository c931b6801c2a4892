"""What operators ask a served program: pictures and JSON, from an author's arguments to what is sent."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_bitahub.exceptions import ConfigurationError
from airflow_bitahub.operators.arguments import Check, as_json, as_list, as_text, kind_of
from airflow_bitahub.storage.limits import PICTURE_LIMIT
from airflow_bitahub.storage.paths import is_server_path

if TYPE_CHECKING:
    from airflow_bitahub.hooks.bitahub import BitaHubHook
    from airflow_bitahub.procedures.questions import Picture


def one_or_more(check: Check) -> Check:
    """Return a check that takes one value as another check does, or a list of at least one, and returns a list."""

    def read(name: str, value: Any) -> list[Any]:
        if value is None or isinstance(value, str | int | float):
            return [check(name, value)]
        values: list[Any] = as_list(check)(name, value)
        if not values:
            raise ConfigurationError(f"{name} must have at least one entry.")
        return values

    return read


def as_base64(name: str, value: Any) -> str:
    """Take base64 text, which may be wrapped into lines or have the prefix of a ``data:`` URL."""
    text = "".join(as_text(name, value).split())  # the command `base64` wraps its lines
    try:
        base64.b64decode(text.rpartition(",")[2], validate=True)
    except ValueError as error:
        raise ConfigurationError(f"{name} is not base64: {error}") from None
    return text


def as_json_body(name: str, value: Any) -> Any:
    """Take what is sent as JSON. Text is read as JSON, since this is what a template gives."""
    if not isinstance(value, str):
        return as_json(name, value)
    from airflow_bitahub.texts import parse_json

    try:
        body = parse_json(as_text(name, value).encode())
    except ValueError as error:
        raise ConfigurationError(f"{name} is text that is not JSON: {error}") from None
    if body is None or isinstance(body, str):
        raise ConfigurationError(f"{name} must be a mapping, a list, a number or a boolean, not {kind_of(body)}.")
    return body


# The arguments that give pictures.
PICTURE_CHECKS: Mapping[str, Check] = {
    "image_url": one_or_more(as_text),
    "image_file": one_or_more(as_text),
    "image_base64": one_or_more(as_base64),
}


class FileReader:
    """Reads the files that an author's arguments name.

    :param hook: leads to the platform's storage
    :param allow_any: also read files of this worker, and any address that Airflow's object storage supports
    :param advice: what to do about a file elsewhere that is not to be read
    """

    def __init__(
        self, hook: BitaHubHook, *, allow_any: bool = False, advice: str = "Put the file on that storage."
    ) -> None:
        self._hook = hook
        self._allow_any = allow_any
        self._advice = advice

    def read(self, argument: str, path: str, limit: int = PICTURE_LIMIT) -> bytes:
        """Return a file's content.

        :param argument: the argument that names the file, for messages
        :param path: a path on the platform's storage, in which ``{user_id}`` and ``{user_name}`` may stand
        :param limit: bytes that it may have
        :raises ConfigurationError: it is not on the platform's storage, and must be
        :raises StorageError: it cannot be read
        """
        from airflow_bitahub.storage.storage import read_anywhere

        if is_server_path(path):
            return self._hook.storage.read_bytes(argument, self._hook.folders.fill(path), limit)
        if not self._allow_any:
            raise ConfigurationError(
                f"{argument} {path!r} is not below /projects, /datasets or /models of the platform's storage. "
                f"{self._advice}"
            )
        return read_anywhere(argument, path, limit)

    def picture(self, argument: str, path: str) -> Picture:
        """Return a picture whose content is sent. The parameters and errors are those of `read`."""
        from airflow_bitahub.procedures.questions import Picture

        return Picture("file", path.rsplit("/", 1)[-1], self.read(argument, path))

    def pictures(self, argument: str, kind: str, values: list[str]) -> tuple[Picture, ...]:
        """Return the pictures of one request.

        :param argument: the argument, for messages
        :param kind: a key of `PICTURE_CHECKS`
        :param values: what the check of this kind returned
        :raises ConfigurationError: they are too large for one request. The other errors are those of `read`
        """
        from airflow_bitahub.procedures.questions import Picture

        if kind == "image_url":
            return tuple(Picture("url", _name_of(url), url) for url in values)
        if kind == "image_base64":
            return tuple(Picture("base64", "a picture as base64", text) for text in values)
        names = [argument] if len(values) == 1 else [f"{argument}[{number}]" for number in range(len(values))]
        pictures: list[Picture] = []
        for name, path in zip(names, values, strict=True):
            pictures.append(self.picture(name, path))
            check_total(argument, pictures, PICTURE_LIMIT)
        return tuple(pictures)


def check_total(argument: str, pictures: list[Picture], limit: int) -> None:
    """Raise ConfigurationError for pictures that have more bytes together than `limit`."""
    if sum(len(picture.value) for picture in pictures) > limit:
        raise ConfigurationError(
            f"{argument}: its pictures have more than {limit // 2**20} MiB together. Give fewer, or smaller ones."
        )


def _name_of(url: str) -> str:
    """Return what a log calls the picture at an address: without its query, which may contain a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a picture"
    return parts.path.rstrip("/").rsplit("/", 1)[-1] or parts.hostname or "a picture"
