"""Real handwritten digits as tensors in memory, and batches of them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lrtut.misuse import check_kind, check_whole, short

DIGITS = "digits"
"""The value of `LRTUT_DATA` (or of `root`) that asks for scikit-learn's digits."""

# name: (bytes, md5, md5 of the .gz) of the files that LeCun, Cortes and Burges published.
FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"),
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision's
    "https://storage.googleapis.com/cvdf-datasets/mnist/",  # TensorFlow Datasets'
)
_PACKED_BYTES = 11_594_722  # of the four .gz files
_TIMEOUT_S = 3.0  # for each wait on a mirror: it leaves time for a second one
_PATIENCE_S, _LEAST_BYTES = 6.0, 10_000  # a download that brings less than that in this time is given up

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # of the 60,000 training images, scaled to [0, 1]

_VALIDATION = {"MNIST": 5_000, DIGITS: 250}  # images split off the training images
_DIGITS_TEST = 297  # the last images


class DataError(ValueError):
    """A data folder that cannot be used; the message names the file and the way out."""


@dataclass(frozen=True, repr=False, eq=False)
class Digits:
    """Images of handwritten digits and their labels, split three ways.

    `x_train`, `x_val`, `x_test`: uint8 `[N, 1, 28, 28]`, 0 to 255; `y_train`, `y_val`, `y_test`: int64 `[N]`,
    0 to 9. Choose rates and schedules on `val`; look at `test` once, at the end.
    """

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor
    name: str
    """`"MNIST"` or `"digits"`."""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{s} {len(getattr(self, f'y_{s}')):,}" for s in ("train", "val", "test"))
        return f"{self.name} on {self.x_train.device}: {sizes}"


def load_mnist(
    root: str | os.PathLike | None = None,
    *,
    train_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Digits:
    """Load MNIST, or the digits that come with scikit-learn where MNIST cannot be downloaded.

    >>> data = lrtut.load_mnist(train_size=2560)
    >>> print(data.x_train.shape)  # torch.Size([2560, 1, 28, 28])
    >>> batches = lrtut.batches(data.x_train, data.y_train)

    It looks in `root`, then in the folder that the environment variable `LRTUT_DATA` names (both in torchvision's
    layout, `<root>/MNIST/raw/train-images-idx3-ubyte` …; the word `digits` in place of a folder asks for
    scikit-learn's digits), then in the user's cache folder, into which it downloads MNIST once. Without a network it
    takes scikit-learn's 1,797 digits, enlarged to 28 × 28. It prints one line that says which it took.

    Args:
        root: folder that holds `MNIST/raw/`, or `"digits"`.
        train_size: number of training images to keep, drawn by `seed`; all by default. Where the small digits are
            fewer, all of them are kept, and the printed line says so.
        seed: draws the split into training and validation images and the subset.
        device: where the tensors go; None means CUDA where there is one, else the CPU.

    Raises:
        DataError: (a ValueError) a folder that does not exist, a file that is missing, truncated or corrupt.
        ValueError: `train_size` below 1, or above the number of training images in MNIST.
    """
    check_kind("root", root, str | os.PathLike | None, "give the folder that holds MNIST/raw/, or 'digits'")
    check_whole("seed", seed, least=-math.inf)
    if train_size is not None:
        check_whole("train_size", train_size)
    device = default_device(device)
    source, origin = find_data(root)
    name = DIGITS if source == DIGITS else "MNIST"
    x, y, x_test, y_test = _read_digits() if name == DIGITS else _read_mnist(Path(source))

    order = torch.randperm(len(x), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    val, train = order[: _VALIDATION[name]], order[_VALIDATION[name] :]
    note = ""
    if train_size is not None and train_size > len(train):
        if name != DIGITS:
            raise ValueError(
                f"train_size={train_size}: MNIST has {len(train):,} training images ({len(val):,} more are kept for "
                f"validation); give at most {len(train)}, or None for all."
            )
        note = f" (asked for {train_size:,}; there are no more)"
    train = train[:train_size]

    parts = (x[train], y[train], x[val], y[val], x_test, y_test)
    data = Digits(*(t.to(device) for t in parts), name=name)
    print(f"{data}{note}, from {origin}.")
    return data


def default_device(device: torch.device | str | None = None) -> torch.device:
    """`device` as a `torch.device`; None means CUDA where there is one, else the CPU."""
    if device is not None:
        try:
            return torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device is {short(device)}: give 'cpu', 'cuda', a torch.device, or None.") from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Batches:
    """Batches of normalised floats; see `batches()`. Each pass draws a new order; the seed fixes them all."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, *, seed: int, shuffle: bool, drop_last: bool):
        for name, part in {"x": x, "y": y}.items():
            check_kind(name, part, Tensor, "give a tensor, as in torch.as_tensor(array)")
        check_whole("seed", seed, least=-math.inf)
        if len(x) != len(y):
            raise ValueError(f"x and y differ: {len(x)} inputs but {len(y)} targets: give one target for each input.")
        check_whole("batch_size", batch_size)
        self.x, self.y = x, y
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def __len__(self) -> int:
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = None
        if self.shuffle:
            order = torch.randperm(len(self.x), generator=self.generator, device="cpu").to(self.x.device)
        for i in range(len(self)):
            chosen = slice(i * self.batch_size, (i + 1) * self.batch_size)
            if order is not None:
                chosen = order[chosen]
            yield normalise(self.x[chosen]), self.y[chosen]


def batches(
    x: Tensor, y: Tensor, batch_size: int = 128, *, seed: int = 0, shuffle: bool = True, drop_last: bool = False
) -> Batches:
    """Cut `x`, `y` into batches: an iterable with a length that you can pass over as often as you like.

    >>> for x, y in lrtut.batches(data.x_train, data.y_train, 64, seed=0):
    ...     loss = F.cross_entropy(model(x), y)
    ...     ...

    Args:
        x: uint8 `[N, …]`, which comes out as normalised float32 (see `normalise`), or floats, which stay as they are.
        y: targets `[N]`.
        batch_size: samples in a batch; the last batch may be smaller.
        seed: fixes the order of the first pass and of each later one.
        shuffle: draw a new order at each pass.
        drop_last: leave out a last batch that is smaller than the others.

    Raises:
        ValueError: `batch_size` below 1, or `x` and `y` of different lengths.
    """
    return Batches(x, y, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last)


def normalise(x: Tensor) -> Tensor:
    """Turn uint8 images into float32 with MNIST's mean and standard deviation taken out; floats stay as they are.

    >>> data = lrtut.load_mnist()
    >>> x = lrtut.normalise(data.x_test)
    >>> print(x.dtype, x.mean())  # torch.float32, about 0
    """
    check_kind("x", x, Tensor, "give a tensor of images")
    if x.dtype != torch.uint8:
        return x
    # One pass over x: (x/255 - mean)/std.
    return x.float().mul_(1 / (255 * MNIST_STD)).sub_(MNIST_MEAN / MNIST_STD)


# --- where the data are -------------------------------------------------------------------------------------------


def find_data(root: str | os.PathLike | None = None) -> tuple[str, str]:
    """What `load_mnist(root)` reads: the folder that holds `MNIST/raw/`, or `"digits"`; and words that say why.

    Downloads MNIST if need be. A parent process calls it once and passes the answer to its children in `LRTUT_DATA`, so
    that they do not wait for the network again.

    Raises:
        DataError: `root` or `LRTUT_DATA` names a folder that cannot be used.
    """
    asked, by = (root, "root") if root is not None else (os.environ.get("LRTUT_DATA") or None, "LRTUT_DATA")
    if asked is not None:
        if str(asked) == DIGITS:
            return DIGITS, f"scikit-learn, as {by}={DIGITS} asks (figures differ from MNIST's)"
        folder = Path(asked).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"{by}={str(asked)!r} is not a folder. Name the folder that holds MNIST/raw/, or {DIGITS!r} for "
                f"scikit-learn's digits, or leave {by} out to let MNIST be downloaded."
            )
        verify(folder)
        return str(folder), str(folder)
    cache = Path(platformdirs.user_cache_dir("lrtut"))
    with contextlib.suppress(DataError):
        verify(cache)
        return str(cache), str(cache)
    try:
        _fill(cache)
    except Exception as error:  # whatever is wrong with the network or the disk, the lesson goes on
        while error.__context__ is not None:  # requests names the mirror before the reason
            error = error.__context__
        why = " ".join(f"{type(error).__name__}: {error}".split())
        return DIGITS, f"scikit-learn: MNIST could not be had ({why}), so figures will differ"
    return str(cache), str(cache)


def verify(folder: Path) -> None:
    """Raise DataError unless the four published files are in `folder`/MNIST/raw, whole."""
    for name, (size, md5, _) in FILES.items():
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


def _fill(cache: Path) -> None:
    """Download MNIST into a folder of our own and move it in one rename: the cache never holds half a download."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-", ignore_cleanup_errors=True) as scratch:
        fresh, target = Path(scratch) / "MNIST", cache / "MNIST"
        _download(fresh / "raw")
        for _ in range(2):
            with contextlib.suppress(OSError):
                fresh.rename(target)
                return
            with contextlib.suppress(DataError):  # another process was first
                verify(cache)
                return
            with contextlib.suppress(OSError):  # a damaged copy is in the way; it goes with the scratch folder
                target.rename(fresh.with_name("damaged"))
        verify(cache)


def _download(folder: Path) -> None:
    """Fetch the files into `folder` and unpack them.

    A timeout bounds each wait on a connection, but not a name look-up, nor a server that drips. So a thread fetches,
    and is left behind if too little arrives.
    """
    folder.mkdir(parents=True)
    errors: list[Exception] = []
    thread = threading.Thread(target=_fetch, args=(folder, errors), daemon=True, name="lrtut-download")
    thread.start()
    seen, since = 0, time.monotonic()
    with tqdm(total=_PACKED_BYTES, desc="MNIST", unit="B", unit_scale=True, delay=1, leave=False) as bar:
        while thread.is_alive():
            thread.join(0.05)
            with contextlib.suppress(OSError):  # a file may vanish between the listing and the look
                bar.update(sum(path.stat().st_size for path in folder.iterdir()) - bar.n)
            if abs(bar.n - seen) >= _LEAST_BYTES:  # less, where a bad file was deleted
                seen, since = bar.n, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_S:
                errors = [TimeoutError(f"the network brought less than {_LEAST_BYTES:,} bytes in {_PATIENCE_S:g} s")]
                break
        bar.total = bar.n  # even if it failed: tqdm would leave an unfinished bar in red
    if errors:
        raise errors[-1]
    for name in FILES:
        with gzip.open(folder / f"{name}.gz") as packed, open(folder / name, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)


def _fetch(folder: Path, errors: list[Exception]) -> None:
    """Each file from the first mirror that has it whole; the errors stay in `errors` where none has."""
    import pooch  # slow to import, and rarely needed

    pooch.get_logger().setLevel(logging.WARNING)  # else it says on stderr what it downloads
    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_S)
    for name, (_, _, md5) in FILES.items():
        for mirror in MIRRORS:
            if not folder.is_dir():  # given up: leave nothing behind
                return
            try:
                pooch.retrieve(f"{mirror}{name}.gz", f"md5:{md5}", f"{name}.gz", folder, downloader=downloader)
            except Exception as error:
                errors.append(error)
            else:
                errors.clear()
                break
        if errors:
            return


def _read_mnist(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels of `verify`'d files: idx headers are 16 bytes for images, 8 for labels."""
    raw = folder / "MNIST" / "raw"

    def read(name: str) -> Tensor:
        images = "images" in name
        values = torch.from_numpy(np.fromfile(raw / name, dtype=np.uint8, offset=16 if images else 8))
        return values.reshape(-1, 1, 28, 28) if images else values.long()

    return tuple(read(name) for name in FILES)


def _read_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # The file of sklearn.datasets.load_digits(), without the two seconds that its import takes.
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations
    table = torch.from_numpy(np.loadtxt(Path(package, "datasets/data/digits.csv.gz"), delimiter=","))
    small = table[:, :-1].float().reshape(-1, 1, 8, 8)  # 1797 images, 0 to 16
    # 20 × 20 inside 28 × 28, as MNIST's digits lie.
    large = torch.nn.functional.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    x = torch.nn.functional.pad(large * (255 / 16), (4, 4, 4, 4)).round().to(torch.uint8)
    y = table[:, -1].long()
    return x[:-_DIGITS_TEST], y[:-_DIGITS_TEST], x[-_DIGITS_TEST:], y[-_DIGITS_TEST:]
