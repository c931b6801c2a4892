"""The language of a page, and its texts in English and Chinese."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

LANGUAGES = ("en", "zh")
DEFAULT_LANGUAGE = "en"

Texts = Mapping[str, tuple[str, str]]  # by keys, in the order of `LANGUAGES`


def language_of(accepted: str) -> str:
    """Return the reader's language, one of `LANGUAGES`, from the header Accept-Language."""
    best, best_quality = DEFAULT_LANGUAGE, 0.0
    for part in accepted[:1000].split(","):
        name, _, parameter = part.strip().partition(";")
        language = name.partition("-")[0].strip().lower()
        try:
            quality = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if language in LANGUAGES and quality > best_quality:
            best, best_quality = language, quality
    return best


def translator(texts: Texts, language: str) -> Callable[..., str]:
    """Return the function `t` of the templates: it gives a text by its key, with the values of its placeholders."""
    return partial(_translate, texts, LANGUAGES.index(language))


def _translate(texts: Texts, column: int, key: str, **values: object) -> str:
    text = texts[key][column]
    return text.format(**values) if values else text
