"""Which version of the course this is, and whether a notebook was written for it."""

from __future__ import annotations

import importlib.metadata
import re

__version__ = "0.1.0"


class VersionError(ImportError):
    """A notebook and an `lrtut` that do not fit each other; the message says which is older and what to do."""


def require(version: str) -> None:
    """Raise unless a notebook written for lrtut `version` fits the lrtut that is here.

    The setup cell of each notebook calls it. `"0.1"` fits 0.1.0, 0.1.1, …: the second number grows when a notebook
    from before would no longer run, so an older copy of a notebook, or an older lrtut, is told what to do here, and not
    by an error further down that hides the cause.

    Args:
        version: the first two numbers of a version, as in `"0.1"`.

    Raises:
        VersionError: (an ImportError) the versions differ in their first or second number.
        ValueError: `version` is not two numbers.
    """
    if not isinstance(version, str) or not re.fullmatch(r"\d+\.\d+", version):
        raise ValueError(f"require({version!r}): give the first two numbers of a version, as in require('0.1').")
    asked = tuple(map(int, version.split(".")))
    here = tuple(map(int, __version__.split(".")[:2]))
    if asked < here:
        raise VersionError(
            f"this notebook is an older copy: it was written for lrtut {version}, and lrtut here is {__version__}. "
            f"Open the notebook anew from {repository()}, and take over what you added to this copy."
        )
    if asked > here:
        raise VersionError(
            f"lrtut here is {__version__}, too old for this notebook, which needs {version}. In a clone of the "
            f"repository: git pull. Elsewhere: %pip install --upgrade git+{repository()}. Then restart the kernel."
        )


def repository() -> str:
    """The repository's address, as pyproject.toml gives it."""
    urls = importlib.metadata.metadata("lrtut").get_all("Project-URL") or []
    return next(url.split(", ", 1)[1] for url in urls if url.startswith("Repository, "))
