"""Which version of the course this is, and whether a notebook was written for it."""

from __future__ import annotations

import importlib.metadata
import re

__version__ = "0.1.0"


class VersionError(ImportError):
    """A notebook and an `lrtut` that do not fit each other; the message says which is older, and what to do."""


def require(version: str) -> None:
    """Raise unless a notebook written for lrtut `version` fits the lrtut that is installed.

    >>> import lrtut
    >>> lrtut.require("0.1")  # silent with 0.1.0, 0.1.1, …
    >>> lrtut.require("0.2")  # VersionError: lrtut here is 0.1.0, too old for this notebook, …

    The setup cell of each notebook calls it. The second number grows when older notebooks would no longer run. So an
    outdated copy of a notebook, or an outdated lrtut, fails here and says what to do, not further down.

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
            f"repository: git pull. Elsewhere: %pip install --upgrade {archive()}. Then restart the kernel."
        )


def repository() -> str:
    """The repository's address, as pyproject.toml gives it."""
    return _url("Repository")


def archive() -> str:
    """The address of the repository's files in one archive, which pip can install."""
    return _url("Notebooks").replace("/tree/", "/archive/").removesuffix("/notebooks") + ".zip"


def files() -> str:
    """The address below which the repository's files are shown."""
    return _url("Notebooks").replace("/tree/", "/blob/").removesuffix("/notebooks")


def _url(name: str) -> str:
    urls = importlib.metadata.metadata("lrtut").get_all("Project-URL") or []
    return next(url.split(", ", 1)[1] for url in urls if url.startswith(f"{name}, "))
