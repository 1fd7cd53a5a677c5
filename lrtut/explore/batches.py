"""Recorded runs with several batch sizes: the chart carries their losses."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from lrtut.explore.chart import RED, Chart, axis, by_rate, choice, panel, path, slider
from lrtut.misuse import check_mapping


def batch_sizes(sizes: Sequence[int], grids: Mapping[str, tuple[Sequence[float], np.ndarray]]) -> Chart:
    """Loss against rate at one batch size, and the best rate at each. To choose: the grid, and the batch size.

    Args:
        sizes: the batch sizes, in increasing order.
        grids: for each name (of an optimizer, say) its rates, and the losses with shape (sizes, seeds, rates).

    Raises:
        ValueError: losses of another shape, or none that is finite.

    Example:
        lrtut.explore.batch_sizes([32, 128], {"Adam": ([0.001, 0.01], losses)})
    """
    check_mapping("grids", grids)
    rows, bests, said = [], [], {name: [] for name in grids}
    for name, (rates, losses) in grids.items():
        losses = np.asarray(losses, float)
        if losses.ndim != 3 or losses.shape[::2] != (len(sizes), len(rates)):
            raise ValueError(
                f"the losses of {name!r} are of shape {list(losses.shape)}: give them as [{len(sizes)} sizes, seeds, "
                f"{len(rates)} rates]."
            )
        losses = np.where(np.isnan(losses), np.inf, losses)
        best = np.median(np.asarray(rates)[losses.argmin(2)], axis=1)  # of each seed its best rate
        for i, (size, lr) in enumerate(zip(sizes, best, strict=True)):
            place = {"grid": name, "i": i, "images": int(size)}
            bests.append(place | {"lr": lr, "step": i})
            runs = [{"seed": s, "lr": rates[k], "step": k, "loss": v} for (s, k), v in np.ndenumerate(losses[i])]
            rows += [place | run for run in runs if np.isfinite(run["loss"])]
            end = np.median(losses[i].min(1))
            said[name].append(f"{name}, batches of {size}: best rate {lr:.2g}, lowest loss {end:.2g} (medians).")
    if not rows:
        raise ValueError("grids hold no finite loss: give at least one name with its rates and losses.")
    lrs, ends = ([min(row[key] for row in rows) / 1.2, max(row[key] for row in rows) * 1.2] for key in ("lr", "loss"))
    x = axis("lr", "learning rate", lrs, log=True)
    images = axis("images", "batch size", [int(sizes[0]) / 1.2, int(sizes[-1]) * 1.2], log=True)
    images["axis"] |= {"values": [int(size) for size in sizes]}
    of_grid, of_size = {"filter": "datum.grid == grid"}, {"filter": "datum.i == size"}
    valley = path(x, axis("loss", "validation loss", ends, log=True), by_rate(*lrs))
    valley[0]["encoding"]["detail"] = {"field": "seed"}
    border = {"mark": {"type": "rule", "color": RED}, "encoding": {"x": x}}
    border |= {"data": {"values": bests}, "transform": [of_grid, of_size]}
    chosen = {"condition": {"test": "datum.i == size", "value": 160}, "value": 40}
    best = path(images, x | {"title": "best learning rate"}, by_rate(*lrs), size=chosen)
    names, last = list(grids), len(sizes) - 1
    return Chart(
        f"Loss against learning rate at one of {len(sizes)} batch sizes, which the slider chooses, and the best at "
        "each. " + " ".join(line for lines in said.values() for line in lines),
        f"({json.dumps(said)})[grid][size]",
        [choice("grid", "runs", names, names[0]), slider("size", "batch size, from small to large", 0, last, 1, 0)],
        columns=2,
        concat=[
            panel(
                "Each seed's losses; in red the median of their best rates",
                [*valley, border],
                data={"values": rows},
                transform=[of_grid, of_size],
            ),
            panel("The best rate", best, data={"values": bests}, transform=[of_grid]),
        ],
    )
