"""Turn what docstrings write in reStructuredText into Markdown, and names of documented classes into links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

_CODE_BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
# What follows the list of parameters would count as a part of the last one.
_AFTER_PARAMETERS = re.compile(r"\A(.*?)(^:.*?)(?:\n\n(?=[^\s:])(.*))?\Z", re.MULTILINE | re.DOTALL)
_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
_NAME = re.compile(r"(?<!`)`(\w+)`(?!`)")


class MarkdownDocstrings(griffe.Extension):
    """Rewrite the docstring of every object before it is parsed."""

    def __init__(self) -> None:
        pages = (Path(__file__).parent / "en/reference").glob("*.md")
        found = [path for page in pages for path in _DIRECTIVE.findall(page.read_text("utf-8"))]
        names = {path.rpartition(".")[2]: path for path in found}
        self._paths = {name: path for name, path in names.items() if name[0].isupper()}  # modules have no heading

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is None:
            return
        text = obj.docstring.value
        if parts := _AFTER_PARAMETERS.match(text):
            before, parameters, after = parts.groups("")
            text = f"{before}{after}\n\n{parameters}"
        text = _CODE_BLOCK.sub(_fence, text + "\n")
        obj.docstring.value = _NAME.sub(self._link, text).rstrip()

    def _link(self, match: re.Match[str]) -> str:
        path = self._paths.get(match[1])
        return f"[`{match[1]}`][{path}]" if path else match[0]


def _fence(match: re.Match[str]) -> str:
    code = re.sub(r"^ {4}", "", match[2], flags=re.MULTILINE).rstrip()
    return f"```{match[1]}\n{code}\n```\n\n"
