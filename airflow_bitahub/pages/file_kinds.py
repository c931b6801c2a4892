"""How a file that a program wrote is shown: as text, as a picture, or not at all. Nothing about it is trusted."""

from __future__ import annotations

import json
from enum import Enum
from urllib.parse import quote

BYTES = "application/octet-stream"
HEAD = 4096  # bytes by which the kind of a file is found
MAX_TEXT_BYTES = 200_000  # that are shown
_MAX_PICTURE_BYTES = 16 << 20
# Pictures by their first bytes. SVG is none of them: it may hold a script.
_PICTURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
_MARKUP = (".html", ".htm", ".xhtml", ".xht", ".shtml", ".svg", ".svgz", ".xml", ".mht", ".mhtml")


class Kind(str, Enum):
    """How a file is shown."""

    TEXT = "text"
    PICTURE = "picture"
    DOWNLOAD = "download"


def file_kind(path: str, head: bytes, size: int) -> tuple[Kind, str]:
    """Return how a file is shown, and its media type. Markup is downloaded, as a browser could run what is in it.

    :param head: its first `HEAD` bytes
    """
    if path.lower().endswith(_MARKUP):
        return Kind.DOWNLOAD, BYTES
    picture = next((media_type for beginning, media_type in _PICTURES.items() if head.startswith(beginning)), None)
    if picture is None and head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        picture = "image/webp"
    if picture is not None:
        return (Kind.PICTURE, picture) if size <= _MAX_PICTURE_BYTES else (Kind.DOWNLOAD, BYTES)
    return (Kind.TEXT, "text/plain") if _is_text(head) else (Kind.DOWNLOAD, BYTES)


def file_headers(path: str, kind: Kind, media_type: str, *, save: bool) -> dict[str, str]:
    """Return the headers of a file's content: a picture is shown, anything else is saved.

    :param save: a picture is saved, too
    """
    headers = {"Content-Security-Policy": "default-src 'none'; sandbox", "X-Content-Type-Options": "nosniff"}
    if kind is Kind.PICTURE and not save:
        return {**headers, "Content-Type": media_type}
    return {**headers, "Content-Type": BYTES, **attachment(path.rpartition("/")[2])}


def attachment(name: str) -> dict[str, str]:
    """Return the header that lets a browser save a file under a name."""
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}


def indented(text: str) -> str:
    """Return JSON with indentation; what is no JSON as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return len(head) == HEAD and error.start >= HEAD - 3  # the end of `head` cuts a character
    return True
