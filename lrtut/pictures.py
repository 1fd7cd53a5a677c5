"""A grid of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from lrtut.figure import axes_or_new, styled
from lrtut.misuse import check_kind, check_whole, short
from lrtut.plotting import label_of


@styled
def plot_images(
    x: torch.Tensor, y: torch.Tensor | Sequence | None = None, *, columns: int = 10, ax: Axes = None
) -> Axes:
    """Draw images `[N, 1, H, W]`, or in colour `[N, 3, H, W]` (RGB), in one grid, with their labels above them.

    >>> data = lrtut.load_mnist()
    >>> ax = lrtut.plot_images(data.x_train[:20], data.y_train[:20])
    >>> ax.set_title("Twenty digits")

    Args:
        x: uint8 or floats. Colours as floats are 0 to 1; where some lie outside, they are scaled to lie within.
        y: a label for each image: numbers or words.
        columns: images in a row.

    Raises:
        ValueError: `x` has another layout, `y` not one label for each image.
        TypeError: `x` is not a tensor.
    """
    check_whole("columns", columns)
    images, labels = _pictures(x), [""] * len(x) if y is None else _labels(y, len(x))
    ax = axes_or_new(ax, figsize=(8, 8 * math.ceil(len(x) / columns) / columns * 1.25))
    n, height, width, *channels = images.shape
    rows, top = math.ceil(n / columns), 8  # pixels above an image, for its label
    blank = 0 if channels else images.min()  # in colour, transparent
    grid = np.full((rows * (height + top), columns * width, *channels), blank, dtype=images.dtype)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(i, columns)
        grid[row * (height + top) + top : (row + 1) * (height + top), column * width : (column + 1) * width] = image
        ax.text((column + 0.5) * width, row * (height + top) + top / 2, label, ha="center", va="center")
    ink = LinearSegmentedColormap.from_list("ink", [(0.48, 0.48, 0.48, 0), (0.48, 0.48, 0.48, 1)])
    ax.imshow(grid, cmap=ink, interpolation="nearest")
    ax.set_axis_off()
    labelled = "" if y is None else f", labelled {', '.join(labels)}"
    ax.set_label(f"{n} {'colour ' if channels else ''}images of {height} × {width} pixels{labelled}")
    return ax


def _pictures(x: Any) -> np.ndarray:
    """`[N, H, W]`, or in colour `[N, H, W, 4]`, 0 to 1."""
    check_kind("x", x, torch.Tensor | np.ndarray, "give a tensor of images, [N, 1, H, W] or [N, 3, H, W]")
    x = torch.as_tensor(np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x).detach().cpu()
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.numel() == 0 or x.is_complex():
        raise ValueError(
            f"x is of shape {list(x.shape)} and type {x.dtype}: give images [N, 1, H, W], or [N, 3, H, W] in "
            "colour. If the channels come last, x.permute(0, 3, 1, 2); of one image, x.unsqueeze(0); without channels, "
            "x.unsqueeze(1)."
        )
    values = (x if x.dtype == torch.uint8 else x.float()).numpy()
    if x.shape[1] == 1:
        return values[:, 0]
    low, high = (0, 255) if x.dtype == torch.uint8 else (min(0, values.min()), max(1, values.max()))
    colours = np.moveaxis((values - low) / np.float32(high - low), 1, -1)
    return np.concatenate([colours, np.ones_like(colours[..., :1])], axis=-1)


def _labels(y: Any, n: int) -> list[str]:
    """A word for each of `n` images."""
    labels = y.tolist() if isinstance(y, torch.Tensor | np.ndarray) and y.ndim == 1 else y
    if isinstance(labels, str | bytes | Mapping) or not isinstance(labels, Sequence) or len(labels) != n:
        raise ValueError(f"y is {short(y)}: give a label for each of the {n} images, or None.")
    return [label_of(label.item() if isinstance(label, torch.Tensor) else label) for label in labels]
