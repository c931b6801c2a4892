"""The extras that whole parts of this package need, and the error where their packages are missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from airflow_bitahub.exceptions import MissingExtraError

# Modules by extra, as in pyproject.toml.
_EMULATOR = ("fastapi", "jinja2", "starlette", "uvicorn", *(("tomli",) if sys.version_info < (3, 11) else ()))
MODULES = {"emulator": _EMULATOR, "demo": (*_EMULATOR, "numpy", "PIL", "sklearn")}


def require_extra(extra: str) -> None:
    """Check that the packages of an extra are installed.

    :param extra: ``emulator`` or ``demo``
    :raises MissingExtraError: one of them is missing
    """
    missing = [module for module in MODULES[extra] if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"The {extra} needs packages that are not installed ({', '.join(missing)}): "
            f"pip install 'airflow-bitahub[{extra}]'"
        )
