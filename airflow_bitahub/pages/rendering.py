"""Renders the templates of a folder, which may import `parts.html`."""

from __future__ import annotations

from datetime import tzinfo
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from airflow_bitahub.pages import formats
from airflow_bitahub.pages.language import Texts, translator

FOLDER = Path(__file__).parent
_STYLE, _SCRIPT = "text/css; charset=utf-8", "text/javascript; charset=utf-8"
_STATIC = {"pages.css": _STYLE, "charts.css": _STYLE, "live.js": _SCRIPT, "icon.svg": "image/svg+xml"}


class Renderer:
    """Makes pages.

    :param templates: the folder of the templates
    :param texts: what `t` gives in them
    :param zone: the time zone of times; None: this machine's
    """

    def __init__(self, templates: Path, texts: Texts, zone: tzinfo | None = None) -> None:
        self._texts = texts
        self._environment = Environment(
            loader=FileSystemLoader([templates, FOLDER / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            moment=partial(formats.moment, zone=zone),
            iso=formats.iso,
            duration=formats.duration,
            bytesize=formats.bytesize,
        )

    def render(self, template: str, language: str, **values: Any) -> bytes:
        """Return a page.

        :param values: what the template shows; it escapes all of it
        """
        text = self._environment.get_template(template)
        content = text.render(t=translator(self._texts, language), language=language, **values)
        # What a program wrote may hold half of a surrogate pair, which cannot be encoded.
        return content.encode("utf-8", "replace")


def static_file(name: str, script: Path) -> tuple[Path, str] | None:
    """Return a file that pages load, and its media type; None where they load none of this name.

    :param script: what these pages run
    """
    if name == script.name:
        return script, _SCRIPT
    return (FOLDER / "static" / name, _STATIC[name]) if name in _STATIC else None
