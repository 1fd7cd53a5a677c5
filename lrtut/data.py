"""Real handwritten digits as tensors in memory, and batches of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor

from lrtut.checks import check_whole
from lrtut.download import FILES, DataError, fill, verify

DIGITS = "digits"
"""The value of `LRTUT_DATA` (or of `root`) that asks for scikit-learn's digits."""

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # of the 60,000 training images, scaled to [0, 1]

_VALIDATION = {"MNIST": 5_000, DIGITS: 250}  # images split off the training images
_DIGITS_TEST = 297  # the last images


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
    """Load MNIST, or the digits that scikit-learn carries where MNIST cannot be had.

    Looks in `root`, else in the folder that the environment variable `LRTUT_DATA` names (both in torchvision's
    layout, `<root>/MNIST/raw/train-images-idx3-ubyte` …; the word `digits` instead of a folder asks for
    scikit-learn's digits), else in the user's cache folder, which it fills by `torchvision.datasets.MNIST`, else
    takes scikit-learn's 1,797 digits, enlarged to 28 × 28. Prints one line that says which it took.

    Args:
        root: folder that holds `MNIST/raw/`, or `"digits"`.
        train_size: number of training images to keep, drawn by `seed`; all by default. The small digits are
            capped at what there is, and the printed line says so.
        seed: draws the split into training and validation images and the subset.
        device: where the tensors go; None means CUDA where there is one, else the CPU.

    Raises:
        DataError: (a ValueError) a folder that does not exist, a file that is missing, truncated or corrupt.
        ValueError: `train_size` below 1, or above the number of training images in MNIST.
    """
    if train_size is not None:
        check_whole("train_size", train_size)
    source, origin = find_data(root)
    if source == DIGITS:
        name, (x, y, x_test, y_test) = DIGITS, _read_digits()
    else:
        name, (x, y, x_test, y_test) = "MNIST", _read_mnist(Path(source))

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    val, train = order[: _VALIDATION[name]], order[_VALIDATION[name] :]
    note = ""
    if train_size is not None and train_size > len(train):
        if name != DIGITS:
            raise ValueError(
                f"train_size={train_size}: MNIST has {len(train):,} training images "
                f"({len(val):,} more are kept for validation); give at most {len(train)}, or None for all."
            )
        note = f" (asked for {train_size:,}; there are no more)"
    train = train[:train_size]

    device = default_device(device)
    parts = (x[train], y[train], x[val], y[val], x_test, y_test)
    data = Digits(*(t.to(device) for t in parts), name=name)
    print(f"{data}{note}, from {origin}.")
    return data


def default_device(device: torch.device | str | None = None) -> torch.device:
    """`device` as a `torch.device`; None means CUDA where there is one, else the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Batches:
    """Batches of normalised floats; see `batches()`. Each pass draws a new order, the same for the same seed."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, *, seed: int, shuffle: bool, drop_last: bool):
        if len(x) != len(y):
            raise ValueError(f"{len(x)} inputs but {len(y)} targets: they must be as many.")
        check_whole("batch_size", batch_size)
        self.x, self.y = x, y
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = None
        if self.shuffle:
            order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
        for i in range(len(self)):
            chosen = slice(i * self.batch_size, (i + 1) * self.batch_size)
            if order is not None:
                chosen = order[chosen]
            yield normalise(self.x[chosen]), self.y[chosen]


def batches(
    x: Tensor, y: Tensor, batch_size: int = 128, *, seed: int = 0, shuffle: bool = True, drop_last: bool = False
) -> Batches:
    """Cut `x`, `y` into batches: an iterable with a length, to be passed over as often as you like.

    Args:
        x: uint8 `[N, …]`, which comes out as normalised float32 (see `normalise`), or floats, handed on as they are.
        y: targets `[N]`.
        batch_size: samples a batch; the last batch may be smaller.
        seed: fixes the order of the first pass and of each later one.
        shuffle: draw a new order at each pass.
        drop_last: leave out a last batch that is smaller than the others.

    Raises:
        ValueError: `batch_size` below 1, or `x` and `y` of different lengths.
    """
    return Batches(x, y, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last)


def normalise(x: Tensor) -> Tensor:
    """uint8 images as float32 with MNIST's mean and standard deviation taken out; floats are handed on unchanged."""
    if x.dtype != torch.uint8:
        return x
    # One pass over x: (x/255 - mean)/std.
    return x.float().mul_(1 / (255 * MNIST_STD)).sub_(MNIST_MEAN / MNIST_STD)


# --- where the data are -----------------------------------------------------------------------------------------


def find_data(root: str | os.PathLike | None = None) -> tuple[str, str]:
    """What `load_mnist(root)` reads: the folder that holds `MNIST/raw/`, or `"digits"`; and words that say why.

    Downloads MNIST if need be. A parent process calls it once and hands the answer to its children in `LRTUT_DATA`, so
    that a network that swallows packets is waited for once.

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
    try:
        verify(cache)
    except DataError:
        failure = fill(cache)
        if failure:
            return DIGITS, f"scikit-learn: MNIST could not be had ({failure}), so figures will differ"
    return str(cache), str(cache)


def _read_mnist(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels of `verify`'d files: idx headers are 16 bytes for images, 8 for labels."""
    raw = folder / "MNIST" / "raw"

    def read(name: str) -> Tensor:
        images = "images" in name
        values = torch.from_numpy(np.fromfile(raw / name, dtype=np.uint8, offset=16 if images else 8))
        return values.reshape(-1, 1, 28, 28) if images else values.long()

    return tuple(read(name) for name in FILES)


def _read_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits  # a second to import, and rarely needed

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1)  # [1797, 1, 8, 8], 0 to 16
    # 20 × 20 inside 28 × 28, as MNIST's digits lie.
    large = torch.nn.functional.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    x = torch.nn.functional.pad(large * (255 / 16), (4, 4, 4, 4)).round().to(torch.uint8)
    y = torch.from_numpy(bunch.target).long()
    return x[:-_DIGITS_TEST], y[:-_DIGITS_TEST], x[-_DIGITS_TEST:], y[-_DIGITS_TEST:]
