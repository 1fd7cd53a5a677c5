"""Runs and range tests that were recorded: the chart carries their numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from lrtut.explore.chart import GREY, RED, Chart, axis, by_rate, choice, formula, panel, path, slider
from lrtut.finder import RangeTest
from lrtut.finder.rules import DIVISOR, RULES, WIDTH, middle, smooth, usable
from lrtut.misuse import check_mapping
from lrtut.plotting import final_loss
from lrtut.sweep import Run
from lrtut.training import History

POINTS = 60  # at most, of a run's loss curve
WIDTHS = [0.05, 0.1, WIDTH, 0.4]


def sweep(runs: Sequence[Run]) -> Chart:
    """The valley of rates from recorded runs, and the loss curves of one rate. Slider: the rate.

    Args:
        runs: what `lrtut.sweep` returned, each with a `History`.

    Raises:
        ValueError: no run has a `History`.

    Example:
        lrtut.explore.sweep(lrtut.sweep(run, [0.01, 0.1, 1.0], seeds=range(3)))
    """
    runs = [run for run in runs if isinstance(run.result, History)]
    if not runs:
        raise ValueError("runs holds no History: let run(lr, seed) return what lrtut.train returned.")
    lrs = sorted({run.lr for run in runs})
    ends = [{"lr": r.lr, "i": lrs.index(r.lr), "seed": r.seed, "loss": final_loss(r.result)} for r in runs]
    losses = {lr: [end["loss"] for end in ends if end["lr"] == lr] for lr in lrs}
    medians = {lr: float(np.median(np.nan_to_num(losses[lr], nan=np.inf))) for lr in lrs}
    said = [f"At {lr:g} the runs end at " + ", ".join(_loss(v) for v in sorted(losses[lr])) + "." for lr in lrs]
    best = lrs.index(min(lrs, key=medians.get))
    chosen = {"condition": {"test": "datum.i == rate", "value": 160}, "value": 40}
    y = axis("loss", "final validation loss" if runs[0].result.val_loss else "final loss", log=True)
    x = axis("lr", "learning rate", [lrs[0] / 1.5, lrs[-1] * 1.5], log=True)
    color = by_rate(lrs[0], lrs[-1])
    valley = [
        {
            "data": {"values": [{"lr": lr, "loss": medians[lr]} for lr in lrs if np.isfinite(medians[lr])]},
            "mark": {"type": "line", "color": GREY},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "point", "filled": True, "stroke": GREY, "opacity": 1},
            "encoding": {"x": x, "y": y, "color": color, "size": chosen},
        },
    ]
    curve = path(axis("step", "step"), axis("loss", "training loss", log=True), color, size={"value": 14})
    curve[0]["encoding"]["detail"] = {"field": "seed"}
    return Chart(
        f"Final loss against learning rate, {len(lrs)} rates from {lrs[0]:g} to {lrs[-1]:g}, and the loss curves of "
        "the rate that the slider chooses. " + " ".join(said),
        f"{json.dumps(said)}[rate]",
        [slider("rate", "rate, from the smallest to the largest", 0, len(lrs) - 1, 1, best)],
        columns=2,
        concat=[
            panel(
                "Each run's end, and the median", valley, data={"values": [e for e in ends if np.isfinite(e["loss"])]}
            ),
            panel(
                "The loss of this rate's runs",
                curve,
                data={"values": [row for run in runs for row in _curve(run, lrs.index(run.lr))]},
                transform=[{"filter": "datum.i == rate"}],
            ),
        ],
    )


def _loss(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "nothing, diverged"


def _curve(run: Run, i: int) -> list[dict]:
    """A run's training loss as rows, the mean of so many steps that `POINTS` are left."""
    loss = np.asarray(run.result.loss, float)
    window = -(-len(loss) // POINTS)
    rows = []
    for start in range(0, len(loss), window):
        mean = loss[start : start + window].mean()
        if np.isfinite(mean) and mean > 0:
            row = {"lr": run.lr, "i": i, "seed": run.seed, "step": start + (min(window, len(loss) - start) - 1) / 2}
            rows.append(row | {"loss": float(mean)})
    return rows


def edge(runs: Mapping[float, tuple[Sequence[float], Sequence[float]]]) -> Chart:
    """Loss and sharpness of recorded full-batch runs, with the border 2/η. Slider: the rate.

    Args:
        runs: for each rate the loss at every step, and the sharpness at evenly spaced steps from the first on.

    Raises:
        TypeError: `runs` is not a mapping.
        ValueError: `runs` is empty.

    Example:
        lrtut.explore.edge({0.3: (losses, sharpnesses)})
    """
    check_mapping("runs", runs)
    if not runs:
        raise ValueError("runs is empty: give at least one rate with its losses and its sharpnesses.")
    lrs, losses, curvatures, said = sorted(runs), [], [], []
    for i, lr in enumerate(lrs):
        loss, sharpness = runs[lr]
        losses += _curve(Run(lr, 0, History(loss=list(loss))), i)
        every = len(loss) / len(sharpness)
        curvatures += [
            {"lr": lr, "i": i, "step": k * every, "sharpness": float(value), "border": 2 / lr}
            for k, value in enumerate(sharpness)
        ]
        ends = f"The sharpness ends at {sharpness[-1]:.3g}, the loss at {loss[-1]:.3g}."
        said.append([f"At {lr:g} the border 2/η is {2 / lr:.3g}.", ends])
    step, color, domain = axis("step", "step"), by_rate(lrs[0], lrs[-1]), [2 / lrs[-1] / 1.5, 2 / lrs[0] * 1.5]
    border = {
        "mark": {"type": "line", "color": RED, "strokeWidth": 2},
        "encoding": {"x": step, "y": axis("border", "sharpness", domain, log=True)},
    }
    loss = axis("loss", "training loss", [min(r["loss"] for r in losses) / 1.2, losses[0]["loss"] * 1.2], log=True)
    one = [{"filter": "datum.i == rate"}]
    return Chart(
        f"Training loss, and sharpness with the border 2/η, at one of {len(lrs)} rates from {lrs[0]:g} to {lrs[-1]:g}, "
        "which the slider chooses. " + " ".join(line for lines in said for line in lines),
        f"{json.dumps(said)}[rate]",
        [slider("rate", "rate, from the smallest to the largest", 0, len(lrs) - 1, 1, 0)],
        columns=2,
        concat=[
            panel(
                "The loss",
                path(step, loss, color, size={"value": 14}),
                data={"values": losses},
                transform=one,
            ),
            panel(
                "The sharpness, and the border in red",
                [border, *path(step, axis("sharpness", "sharpness", domain, log=True), color, size={"value": 14})],
                data={"values": curvatures},
                transform=one,
            ),
        ],
    )


def range_test(test: RangeTest) -> Chart:
    """The curve of a range test, and the rate that each rule reads from it. To choose: smoothing, rule, divisor.

    Args:
        test: what `lrtut.lr_range_test` returned.

    Raises:
        ValueError: the first loss was not finite.

    Example:
        lrtut.explore.range_test(lrtut.lr_range_test(model, optimizer, batches))
    """
    lrs, losses = usable(test.lr, test.loss)
    if not len(lrs):
        raise ValueError("test: its first loss is not finite, so there is no curve to draw.")
    smoothed = {width: smooth(lrs, losses, width=width) for width in WIDTHS}
    middles = {width: middle(lrs, np.log(curve) if (losses > 0).all() else curve) for width, curve in smoothed.items()}
    readings = [{"by": "minimum", "smoothing": width, "at": at} for width, at in middles.items()]
    for name, rule in RULES.items():
        if name != "minimum":
            readings += [{"by": name, "smoothing": width, "at": float(rule(lrs, losses))} for width in WIDTHS]
    smoothed_so = [{"filter": "datum.smoothing == smoothing"}]
    read = [
        *smoothed_so,
        *formula(lr="datum.by == 'minimum' ? datum.at / divisor : datum.at"),
        *formula(chosen="datum.by == rule"),
    ]
    x, y = axis("lr", "learning rate", [lrs[0], lrs[-1]], log=True), axis("loss", "training loss", _ends(losses))
    color, only = by_rate(lrs[0], lrs[-1]), [{"filter": "datum.chosen"}]
    line = {"type": "line", "clip": True}
    points = {"type": "point", "filled": True, "stroke": GREY, "opacity": 1, "clip": True}
    curves = [
        {
            "data": {"values": _rows(lrs, losses)},
            "mark": line | {"color": GREY, "strokeWidth": 0.7},
            "encoding": {"x": x, "y": y},
        },
        {
            "data": {"values": [row | {"smoothing": w} for w, curve in smoothed.items() for row in _rows(lrs, curve)]},
            "transform": smoothed_so,
            "mark": line | {"color": "#3a9a8b", "strokeWidth": 2.5},
            "encoding": {"x": x, "y": y},
        },
        {"transform": [*read, *only], "mark": {"type": "rule", "color": RED, "strokeWidth": 2}, "encoding": {"x": x}},
    ]
    size = {"condition": {"test": "datum.chosen", "value": 160}, "value": 50}
    by = {"field": "by", "type": "nominal", "title": None, "sort": list(RULES)}
    strip = [{"transform": read, "mark": points, "encoding": {"x": x, "y": by, "color": color, "size": size}}]
    at_middle = f"({json.dumps(middles)})['' + smoothing]"
    lines = (
        f"['The middle of the valley is ' + format({at_middle}, '.2~g') + ',', rule == 'minimum' ? "
        f"'divided by ' + divisor + ': ' + format({at_middle} / divisor, '.2~g') + '.' : "
        f"'and the rule ' + rule + ' reads ' + format(({json.dumps(_at(readings))})[rule], '.2~g') + '.']"
    )
    return Chart(
        f"A range test from {lrs[0]:.2g} to {lrs[-1]:.2g}: its loss, the smoothed loss, and what {len(RULES)} rules "
        "read from it, with choices of smoothing and rule, and a slider for the divisor of the rule minimum.",
        lines,
        [
            choice("smoothing", "smoothing, decades", WIDTHS, WIDTH),
            choice("rule", "rule", list(RULES), "minimum"),
            slider("divisor", "divisor", 1, 12, 0.5, DIVISOR),
        ],
        columns=2,
        data={"values": readings},
        concat=[panel("The curve, and the chosen rate", curves), panel("What each rule reads", strip, height=100)],
    )


def _rows(lrs: np.ndarray, losses: np.ndarray) -> list[dict]:
    return [{"lr": float(lr), "loss": float(loss)} for lr, loss in zip(lrs, losses, strict=True)]


def _ends(losses: np.ndarray) -> list[float]:
    """Where the axis of the loss ends: `usable` has clipped what lies above."""
    margin = 0.05 * np.ptp(losses) + 1e-12
    return [float(losses.min() - margin), float(losses.max() + margin)]


def _at(readings: list[dict]) -> dict[str, float]:
    return {reading["by"]: reading["at"] for reading in readings}
