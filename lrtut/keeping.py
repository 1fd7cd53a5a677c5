"""The runs of a sweep in files: each is written when it ends, and found again by what makes it the same run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import uuid
import warnings
from pathlib import Path
from typing import Any

from lrtut.misuse import check_kind, short


def files(keep: Any, key: Any, pairs: list[tuple]) -> list[Path | None]:
    """The file of each run, named by what makes it the same run."""
    if keep is None and key is None:
        return [None] * len(pairs)
    if keep is None or key is None:
        raise ValueError(
            f"keep={short(keep)} and key={short(key)}: give both, a folder and what makes two runs the same beside "
            "rate and seed, such as key={'model': 'small_cnn', 'epochs': 3, 'version': 1}."
        )
    check_kind("keep", keep, str | os.PathLike, "give the folder to keep the results in")
    folder = Path(keep)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"keep='{folder}' is not a folder that can be made or opened ({error.strerror}): give another."
        raise OSError(error.errno, message) from error
    return [folder / f"{_name([key, *pair])}.pickle" for pair in pairs]


def _name(parts: list) -> str:
    try:
        text = json.dumps(parts, sort_keys=True, default=lambda scalar: scalar.item())  # NumPy's and torch's numbers
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"key, lr and seed are {short(parts)}: with keep=, build them of numbers, text, lists and dicts, which are "
            "the same after a restart."
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(file: Path) -> Any:
    """The run that is kept there, or None."""
    try:
        return pickle.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (EOFError, pickle.UnpicklingError) as error:
        warnings.warn(f"{file} is damaged ({error}): its run is run again.", RuntimeWarning, stacklevel=4)
    except Exception as error:  # a class that does not exist here: the file itself may be good
        error.add_note(f"{file} cannot be read here. Make what it needs importable, or delete it to run it again.")
        raise
    return None


def write(file: Path, run: Any) -> None:
    """Keep a run, whole or not at all, whatever ends the process and whoever else writes it."""
    part = file.with_name(f"{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as out:
            out.write(pickle.dumps(run))
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    except Exception as error:
        reason = getattr(error, "strerror", None) or error  # without the part's name: the same warning shows once
        warnings.warn(
            f"results cannot be kept in {file.parent} ({reason}): the sweep goes on and returns them.",
            RuntimeWarning,
            stacklevel=3,
        )
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
