"""MNIST's published files: are they whole, and how they get into the cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import tempfile
import threading
import time
from pathlib import Path

_PATIENCE_S = 6.0  # a download that brings no byte for this long is given up

# name: (bytes, md5) of the unpacked files that LeCun, Cortes and Burges published.
FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


class DataError(ValueError):
    """A data folder that cannot be used; the message names the file and the way out."""


def verify(folder: Path) -> None:
    """Raise DataError unless the four published files lie in `folder`/MNIST/raw, whole."""
    for name, (size, md5) in FILES.items():
        path = folder / "MNIST" / "raw" / name
        if not path.is_file():
            packed = path.with_name(name + ".gz").is_file()
            way = "Unpack the .gz beside it (gunzip -k)." if packed else "Name another folder, or unset LRTUT_DATA."
            raise DataError(f"{path} is missing. {way}")
        found = path.stat().st_size
        if found != size:
            state = "truncated" if found < size else "too long"
            raise DataError(f"{path} is {state}: {found:,} bytes, not {size:,}. Delete it and fetch it again.")
        if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            raise DataError(f"{path} is corrupt: not the published file (md5 {md5}). Delete it and fetch it again.")


def fill(cache: Path) -> str:
    """Download MNIST into `cache`; the empty string, or why it failed.

    The files are fetched into a folder of this call's own, checked there and moved in one rename, so the cache
    never holds half a download, whoever else is filling it.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-", ignore_cleanup_errors=True) as scratch:
            failure = _download(Path(scratch))
            if failure:
                return failure
            verify(Path(scratch))
            _move(Path(scratch) / "MNIST", cache)
    except (OSError, DataError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _move(fresh: Path, cache: Path) -> None:
    target = cache / "MNIST"
    try:
        fresh.rename(target)
        return
    except OSError:  # another process was first, or a damaged copy lies there
        pass
    try:
        verify(cache)
    except DataError:
        with contextlib.suppress(OSError):  # another process may be setting it aside, too
            target.rename(fresh.with_name("damaged"))  # it goes with the scratch folder
        try:
            fresh.rename(target)
        except OSError:
            verify(cache)  # what another process has put there meanwhile


def _download(folder: Path) -> str:
    """Let torchvision download into `folder`, watching it; the empty string, or why it failed.

    torchvision sets no timeout. A socket timeout bounds each wait on a connection, but not a name look-up, so the
    download runs in a thread that is left behind if the folder stops growing.
    """
    try:
        import torchvision  # takes longer to import than torch, so only where it is needed
    except Exception as error:  # beside another build of torch it raises a RuntimeError
        return f"torchvision cannot be imported: {_last_line(error)}"

    outcome: list[BaseException | None] = []

    def work() -> None:
        try:
            torchvision.datasets.MNIST(str(folder), train=True, download=True)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_S)
    try:
        # Older torchvisions print each mirror's failure; the caller's one line is enough.
        with contextlib.redirect_stdout(io.StringIO()):
            thread = threading.Thread(target=work, daemon=True, name="lrtut-download")
            thread.start()
            size, grew = 0, time.monotonic()
            while thread.is_alive():
                thread.join(0.05)
                now = _bytes_in(folder)
                if now != size:
                    size, grew = now, time.monotonic()
                elif time.monotonic() - grew > _PATIENCE_S:
                    return f"the network brought nothing for {_PATIENCE_S:g} s"
    finally:
        socket.setdefaulttimeout(timeout)
    error = outcome[0]
    return "" if error is None else f"download failed: {_last_line(error)}"


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # a file may vanish between the listing and the look
            total += path.stat().st_size
    return total
