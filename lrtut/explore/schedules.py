"""Schedules: the rate at each step by its formula, and the line of PyTorch that makes it."""

from __future__ import annotations

import re

from lrtut.explore.chart import RED, WIDTH, Chart, axis, by_rate, choice, formula, path, slider

SHOWN = 60  # calls of scheduler.step()
GAMMA = (0.05, 1, 0.05, 0.3)
STEPS = (1, SHOWN, 1, 20)
PART = (0.05, 1, 0.05, 0.1)

# For each scheduler: its sliders (lowest, highest, step, value) and choices, the rate after t calls as a Vega
# expression, and the PyTorch that makes it. `lr` is the optimizer's own rate.
DESIGNS: dict[str, tuple[dict, str, str]] = {
    "LambdaLR": (
        {"warmup": (1, 30, 1, 10), "stable": (0, 60, 1, 30), "decay": (1, 60, 1, 20)},
        "lr * max(0, min(0.1 + 0.9 * t / warmup, 1, 1 - (t - warmup - stable) / decay))",
        "LambdaLR(\n    optimizer, lambda t: max(0, min(\n    0.1 + 0.9 * t / {warmup}, 1,\n"
        "    1 - (t - {warmup + stable}) / {decay})))",
    ),
    "MultiplicativeLR": (
        {"factor": (0.5, 1, 0.05, 0.8), "every": (1, 30, 1, 5)},
        "lr * pow(factor, floor(t / every))",
        "MultiplicativeLR(\n    optimizer, lambda t: {factor} if t % {every} == 0 else 1)",
    ),
    "StepLR": (
        {"step_size": (1, 60, 1, 15), "gamma": GAMMA},
        "lr * pow(gamma, floor(t / step_size))",
        "StepLR(\n    optimizer, step_size={step_size}, gamma={gamma})",
    ),
    "MultiStepLR": (
        {"first": (1, 60, 1, 20), "second": (1, 60, 1, 35), "third": (1, 60, 1, 50), "gamma": GAMMA},
        "lr * pow(gamma, (t >= first) + (t >= second) + (t >= third))",
        "MultiStepLR(\n    optimizer, milestones=[{first}, {second}, {third}],\n    gamma={gamma})",
    ),
    "ConstantLR": (
        {"factor": (0.05, 1, 0.05, 0.3), "total_iters": STEPS},
        "lr * (t < total_iters ? factor : 1)",
        "ConstantLR(\n    optimizer, factor={factor}, total_iters={total_iters})",
    ),
    "LinearLR": (
        {"start_factor": PART, "end_factor": (0, 1, 0.05, 1), "total_iters": STEPS},
        "lr * (start_factor + (end_factor - start_factor) * min(t / total_iters, 1))",
        "LinearLR(\n    optimizer, start_factor={start_factor},\n    "
        "end_factor={end_factor}, total_iters={total_iters})",
    ),
    "ExponentialLR": (
        {"gamma": (0.5, 1, 0.01, 0.93)},
        "lr * pow(gamma, t)",
        "ExponentialLR(optimizer, gamma={gamma})",
    ),
    "PolynomialLR": (
        {"total_iters": (1, 60, 1, 45), "power": (0.5, 4, 0.5, 2)},
        "lr * pow(1 - min(t / total_iters, 1), power)",
        "PolynomialLR(\n    optimizer, total_iters={total_iters}, power={power})",
    ),
    "CosineAnnealingLR": (
        {"T_max": (1, 60, 1, 25), "eta_min": (0, 0.1, 0.005, 0)},
        "eta_min + (lr - eta_min) * (1 + cos(PI * t / T_max)) / 2",
        "CosineAnnealingLR(\n    optimizer, T_max={T_max}, eta_min={eta_min})",
    ),
    "CosineAnnealingWarmRestarts": (
        {"T_0": (1, SHOWN, 1, 10), "T_mult": (1, 3, 1, 2), "eta_min": (0, 0.1, 0.005, 0)},
        {
            "cycle": "floor((T_mult == 1 ? t / T_0 : log(1 + t * (T_mult - 1) / T_0) / log(T_mult)) + 1e-9)",
            "length": "T_0 * pow(T_mult, cycle)",
            "begin": "T_mult == 1 ? T_0 * cycle : (length - T_0) / (T_mult - 1)",
            "rate": "eta_min + (lr - eta_min) * (1 + cos(PI * (t - begin) / length)) / 2",
        },
        "CosineAnnealingWarmRestarts(\n    optimizer, T_0={T_0}, T_mult={T_mult}, eta_min={eta_min})",
    ),
    "CyclicLR": (
        {
            "base_lr": (0.005, 0.1, 0.005, 0.01),
            "max_lr": (0.1, 1, 0.01, 0.1),
            "step_size_up": (1, 30, 1, 8),
            "step_size_down": (1, 30, 1, 12),
            "mode": ["triangular", "triangular2"],
        },
        {
            "length": "step_size_up + step_size_down",
            "cycle": "floor(t / length)",
            "place": "t - length * cycle",
            "part": "place <= step_size_up ? place / step_size_up : (length - place) / step_size_down",
            "rate": "base_lr + (max_lr - base_lr) * part * (mode == 'triangular' ? 1 : pow(0.5, cycle))",
        },
        "CyclicLR(\n    optimizer, base_lr={base_lr}, max_lr={max_lr},\n    step_size_up={step_size_up}, "
        "step_size_down={step_size_down},\n    mode='{mode}')",
    ),
    "OneCycleLR": (
        {
            "max_lr": (0.01, 1, 0.01, 0.1),
            "total_steps": (20, SHOWN, 1, SHOWN),
            "pct_start": (0.1, 0.4, 0.05, 0.3),
            "div_factor": (1, 100, 1, 25),
            "anneal_strategy": ["cos", "linear"],
            "three_phase": ["False", "True"],
        },
        {
            "start": "max_lr / div_factor",
            "last": "total_steps - 1",
            "top": "pct_start * total_steps - 1",
            "bottom": "three_phase == 'True' ? 2 * pct_start * total_steps - 2 : last",
            "begin": "t <= top ? 0 : t <= bottom ? top : bottom",
            "end": "t <= top ? top : t <= bottom ? bottom : last",
            "high": "t <= top ? start : t <= bottom ? max_lr : start",
            "low": "t <= top ? max_lr : t <= bottom && three_phase == 'True' ? start : start / 1e4",
            "part": "(t - begin) / (end - begin)",
            "rate": "low + (high - low) * (anneal_strategy == 'cos' ? (1 + cos(PI * part)) / 2 : 1 - part)",
        },
        "OneCycleLR(\n    optimizer, max_lr={max_lr}, total_steps={total_steps},\n    pct_start={pct_start}, "
        "div_factor={div_factor},\n    anneal_strategy='{anneal_strategy}', three_phase={three_phase})",
    ),
    "ReduceLROnPlateau": (
        {"factor": (0.1, 0.9, 0.1, 0.3), "patience": (0, 30, 1, 9), "loss_falls_until": (1, SHOWN, 1, 10)},
        {  # a cut that would change the rate by less than 1e-8 is not made
            "most": "ceil(log(1e-8 / lr / (1 - factor)) / log(factor))",
            "cuts": "min(most, max(0, floor((t - 1 - loss_falls_until) / (patience + 1))))",
            "rate": "lr * pow(factor, cuts)",
        },
        "ReduceLROnPlateau(\n    optimizer, factor={factor}, patience={patience})",
    ),
    "SequentialLR": (
        {"start_factor": PART, "warmup": (1, 30, 1, 10), "total": (31, SHOWN, 1, SHOWN)},
        "lr * (t < warmup ? start_factor + (1 - start_factor) * t / warmup : "
        "(1 + cos(PI * (t - warmup) / (total - warmup))) / 2)",
        "SequentialLR(optimizer, [\n    lr_scheduler.LinearLR(\n        optimizer, start_factor={start_factor}, "
        "total_iters={warmup}),\n    lr_scheduler.CosineAnnealingLR(\n        optimizer, T_max={total - warmup})],\n"
        "    milestones=[{warmup}])",
    ),
    "ChainedScheduler": (
        {"start_factor": PART, "total_iters": (1, 30, 1, 10), "step_size": STEPS, "gamma": GAMMA},
        "lr * min(1, start_factor + (1 - start_factor) * t / total_iters) * pow(gamma, floor(t / step_size))",
        "ChainedScheduler([\n    lr_scheduler.LinearLR(\n        optimizer, start_factor={start_factor}, "
        "total_iters={total_iters}),\n    lr_scheduler.StepLR(\n        "
        "optimizer, step_size={step_size}, gamma={gamma})])",
    ),
    "SWALR": (
        {"swa_lr": (0.01, 0.5, 0.01, 0.02), "anneal_epochs": STEPS, "anneal_strategy": ["cos", "linear"]},
        {
            "part": "min(1, t / anneal_epochs)",
            "done": "anneal_strategy == 'cos' ? (1 - cos(PI * part)) / 2 : part",
            "rate": "lr + (swa_lr - lr) * done",
        },
        "SWALR(\n    optimizer, swa_lr={swa_lr}, anneal_epochs={anneal_epochs},\n    "
        "anneal_strategy='{anneal_strategy}')",
    ),
}


def schedule(name: str) -> Chart:
    """A schedule of `lrtut.CATALOGUE`: a slider for each number, the rate at each step, and the PyTorch to copy.

    Args:
        name: a scheduler of torch, such as `"StepLR"`.

    Raises:
        ValueError: the catalogue has no such name.

    Example:
        lrtut.explore.schedule("CosineAnnealingLR")
    """
    if name not in DESIGNS:
        raise ValueError(f"name={name!r}: give one of {', '.join(DESIGNS)}.")
    settings, rate, code = DESIGNS[name]
    own = {} if "max_lr" in settings else {"lr": (0.01, 1, 0.01, 0.1)}
    params = [
        choice(one, one, values, values[0]) if isinstance(values, list) else slider(one, one, *values)
        for one, values in (own | settings).items()
    ]
    fields = rate if isinstance(rate, dict) else {"rate": rate}
    row = re.compile(rf"\b({'|'.join(['t', *fields])})\b")
    fields = {one: row.sub(r"datum.\1", expression) for one, expression in fields.items()}
    module = "swa_utils" if name == "SWALR" else "lr_scheduler"
    steps, rates = axis("t", "calls of scheduler.step()", [0, SHOWN]), axis("rate", "learning rate")
    limit = [{"filter": "datum.t < total_steps"}] if "total_steps" in settings else []
    line, points = path(steps, rates, by_rate(1e-3, 1))
    line["mark"]["interpolate"] = "step-after"
    return Chart(
        f"The learning rate that {name} sets at each of {SHOWN} steps, with a slider for each of its settings, and the "
        "line of PyTorch that makes it.",
        f"'{name}: the rate at each step, and how to make it'",
        params,
        as_expression(f"scheduler = {module}.{code}"),
        width=WIDTH,
        height=200,
        data={"sequence": {"start": 0, "stop": SHOWN, "as": "t"}},
        transform=[*formula(**fields), *limit, *formula(lr="max(datum.rate, 1e-9)", step="datum.t")],
        layer=[line, points],
    )


def as_expression(template: str) -> str:
    """A Vega expression for the lines of `template`, in which `{…}` holds an expression."""
    lines = []
    for line in template.split("\n"):
        pieces = re.split(r"\{(.+?)\}", line)  # text and expressions by turns
        lines.append(" + ".join(f"({p})" if i % 2 else repr(p) for i, p in enumerate(pieces)))
    return f"[{', '.join(lines)}]"


def half_life() -> Chart:
    """The decay γᵗ and its half-life. Sliders: γ, and the epochs after which a hundredth shall be left.

    Example:
        lrtut.explore.half_life()
    """
    lines = (
        "['γ = ' + format(gamma, '.3~f') + ' halves the rate every ' + format(half, '.2f') + ' epochs;', "
        "'after ' + epochs + ' epochs ' + format(pow(gamma, epochs), '.2~%') + ' of it is left.', "
        "'For a hundredth after ' + epochs + ' epochs take γ = ' + format(pow(0.01, 1 / epochs), '.3f') + '.']"
    )
    x, y = axis("t", "epoch", [0, 60]), axis("lr", "part of the first rate", [0, 1])
    at_half = {
        "data": {"sequence": {"start": 1, "stop": 5, "as": "halvings"}},
        "transform": formula(t="datum.halvings * half", lr="pow(0.5, datum.halvings)", zero="0"),
        "mark": {"type": "rule", "color": RED, "strokeDash": [4, 3], "clip": True},
        "encoding": {"x": x, "y": y, "y2": {"field": "zero"}},
    }
    return Chart(
        "An exponential decay over 60 epochs, with sliders for γ and for a number of epochs. Dashed lines mark where "
        "the rate is a half, a quarter, an eighth and a sixteenth of the first one.",
        lines,
        [
            slider("gamma", "γ", 0.05, 0.995, 0.005, 0.9),
            slider("epochs", "epochs", 1, 60, 1, 20),
            {"name": "half", "expr": "log(0.5) / log(gamma)"},
        ],
        width=WIDTH,
        height=200,
        data={"sequence": {"start": 0, "stop": 61, "as": "t"}},
        transform=formula(lr="pow(gamma, datum.t)", step="datum.t"),
        layer=[*path(x, y, by_rate(1e-3, 1)), at_half],
    )
