"""What the charts compute in the browser is what torch computes, at many settings of the sliders."""

import copy
import math

import numpy as np
import pytest
import torch
import vl_convert
from torch.optim import lr_scheduler, swa_utils

import lrtut
from lrtut import explore
from lrtut.finder.rules import RULES

SETTINGS = 2  # drawn at random for each chart


def draw(chart, seed):
    """A setting of each slider and list of a chart."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for param in chart.spec["params"]:
        if bind := param.get("bind"):
            steps = round((bind["max"] - bind["min"]) / bind["step"]) if bind["input"] == "range" else 0
            value = bind["min"] + bind["step"] * int(rng.integers(steps + 1)) if steps else rng.choice(bind["options"])
            drawn[param["name"]] = round(value, 6) if steps else str(value)
    return drawn


def shown(chart, setting, fields, part=None):
    """What Vega makes of a chart or its panel `part`: `{field: values}` of the rows, the texts `lines` and `code`."""
    panel = {} if part is None else chart.spec["concat"][part]
    transform = chart.spec.get("transform", []) + panel.get("transform", [])
    layers = panel.get("layer", [{}])
    spec = copy.deepcopy(
        {
            "params": chart.spec["params"],
            "data": panel.get("data") or chart.spec["data"],
            "transform": transform + (layers[0].get("transform", []) if len(layers) == 1 else []),
        }
    )
    for param in spec["params"]:
        if param["name"] in setting:
            param["value"] = setting[param["name"]]
    together = " + ' ' + ".join(f"toNumber(datum.{field})" for field in fields)
    spec["transform"] += [{"calculate": together, "as": "row"}]
    spec |= {"mark": "text", "encoding": {"text": {"field": "row", "type": "nominal"}}}
    spec["title"] = {"text": {"expr": "lines"}, "subtitle": {"expr": "code"}}
    texts = {"row": []}
    found = [vl_convert.vegalite_to_scenegraph(spec)["scenegraph"]]
    while found:
        node = found.pop()
        if node.get("marktype") == "text":
            texts.setdefault({"title-text": "lines", "title-subtitle": "code"}.get(node["role"], "row"), []).extend(
                item["text"] for item in node["items"]
            )
        found += node.get("items", [])
    table = np.array([list(map(float, row.split())) for row in texts.pop("row")]).T
    return dict(zip(fields, table, strict=True)), {name: "\n".join(np.ravel(text[0])) for name, text in texts.items()}


def descend(curvatures, start, setting, steps):
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=setting["lr"], momentum=setting["momentum"])
    path = [w.tolist()]
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (torch.tensor(curvatures, dtype=torch.float64) * w**2).sum()).backward()
        optimizer.step()
        path.append(w.tolist())
    return np.array(path)


@pytest.mark.parametrize("seed", range(SETTINGS))
def test_parabola(seed):
    setting = draw(explore.parabola(), seed)
    rows, texts = shown(explore.parabola(), setting, ["step", "w"], part=1)
    w = descend([setting["curvature"]], [1.0], setting, 24)[:, 0]
    assert np.allclose(rows["w"][rows["step"].argsort()], w, rtol=1e-6, atol=1e-12)
    long = np.abs(descend([setting["curvature"]], [1.0], setting, 2000))
    arrives = long[-1] < 0.01
    assert ("does not arrive" not in texts["lines"]) == arrives
    assert ("from one side" in texts["lines"]) == (arrives and (w > 0).all())


@pytest.mark.parametrize("seed", range(SETTINGS))
def test_valley(seed):
    setting = draw(explore.valley(), seed)
    rows, texts = shown(explore.valley(), setting, ["step", "u", "v"], part=0)
    order = rows["step"].argsort()
    path = descend([setting["curvature"], 1.0], [1.0, 8.0], setting, 60)
    assert np.allclose(np.stack([rows["u"], rows["v"]], axis=1)[order], path, rtol=1e-6, atol=1e-12)
    u = np.abs(descend([setting["curvature"], 1.0], [1.0, 8.0], setting, 2000)[-1, 0])
    assert ("does not converge" not in texts["lines"]) == (u < 0.01)


def stalling(setting):
    return lambda step: 0.97 ** min(step, setting["loss_falls_until"])


@pytest.mark.parametrize("name", lrtut.CATALOGUE)
def test_the_code_that_a_schedule_shows_makes_the_rates_that_it_shows(name):
    chart = explore.schedule(name)
    for seed in [None, *range(SETTINGS)]:
        setting = (
            draw(chart, seed)
            if seed is not None
            else {p["name"]: p["value"] for p in chart.spec["params"] if "bind" in p}
        )
        rows, texts = shown(chart, setting, ["t", "rate"])
        code = texts["code"].removeprefix("scheduler = ")

        def make(optimizer, code=code):
            return eval(code, {"optimizer": optimizer, "lr_scheduler": lr_scheduler, "swa_utils": swa_utils})

        metric = stalling(setting) if name == "ReduceLROnPlateau" else None
        rates = lrtut.preview(make, lr=setting.get("lr", 0.1), steps=len(rows["t"]), metric=metric)[:, 0]
        assert np.allclose(rows["rate"][rows["t"].argsort()], rates, rtol=1e-6, atol=1e-12), setting


@pytest.mark.parametrize("gamma", [0.1, 0.99])
def test_half_life(gamma):
    rows, texts = shown(explore.half_life(), {"gamma": gamma, "epochs": 20}, ["t", "lr"])
    rates = lrtut.preview(lambda o: lr_scheduler.ExponentialLR(o, gamma), lr=1.0, steps=61)[:, 0]
    assert np.allclose(rows["lr"][rows["t"].argsort()], rates, rtol=1e-6, atol=0)
    assert f"every {math.log(0.5) / math.log(gamma):.2f} epochs" in texts["lines"]
    assert f"take γ = {0.01 ** (1 / 20):.3f}" in texts["lines"]


def test_recorded_runs_are_shown_as_they_were():
    losses = {0.01: [3.0, 2.0, 1.5], 0.1: [2.0, 1.0, 0.5], 1.0: [2.0, math.inf]}
    runs = [lrtut.Run(lr, 0, lrtut.History(loss=loss, diverged=lr == 1.0)) for lr, loss in losses.items()]
    chart = explore.sweep(runs)
    for i, end in enumerate(["At 0.01 the runs end at 1.500.", "At 0.1 the runs end at 0.500.", "nothing, diverged."]):
        rows, texts = shown(chart, {"rate": i}, ["step", "loss"], part=1)
        assert rows["loss"][rows["step"].argsort()].tolist() == [v for v in runs[i].result.loss if v < math.inf]
        assert texts["lines"].endswith(end)
    with pytest.raises(ValueError, match="runs holds no History"):
        explore.sweep([lrtut.Run(0.1, 0, 1.5)])


def test_the_edge_shows_the_chosen_rate_with_its_own_border():
    runs = {0.4: ([2.0, 1.0, 0.5, 0.2], [3.0, 5.1]), 0.1: ([2.0, 1.8, 1.6, 1.5], [3.0, 4.0])}
    chart = explore.edge(runs)
    for i, lr in enumerate(sorted(runs)):
        rows, texts = shown(chart, {"rate": i}, ["step", "sharpness", "border"], part=1)
        assert sorted(zip(rows["step"], rows["sharpness"], strict=True)) == list(zip([0, 2], runs[lr][1], strict=True))
        assert np.allclose(rows["border"], 2 / lr)
        assert f"border 2/η is {2 / lr:g}." in texts["lines"] and f"ends at {runs[lr][1][-1]:g}, the" in texts["lines"]
        rows, _ = shown(chart, {"rate": i}, ["step", "loss"], part=0)
        assert rows["loss"][rows["step"].argsort()].tolist() == runs[lr][0]
    with pytest.raises(ValueError, match="runs is empty"):
        explore.edge({})


def test_batch_sizes_shows_the_chosen_runs_and_their_best_rate():
    rates, losses = [0.01, 0.1, 1.0], np.array([[[1, 2, math.inf]] * 3, [[4, 5, 3], [4, 3, 5], [5, 3, math.nan]]])
    chart = explore.batch_sizes([8, 32], {"SGD": (rates, losses + 1), "Adam": (rates, losses)})
    for i, lr in enumerate([0.01, 0.1]):
        setting = {"grid": "Adam", "size": i}
        rows, texts = shown(chart, setting, ["seed", "lr", "loss"], part=0)
        held = {(seed, lr): loss for seed, lr, loss in zip(*rows.values(), strict=True)}
        known = {(s, rates[k]): loss for (s, k), loss in np.ndenumerate(losses[i]) if loss < math.inf}
        assert held == known and f"best rate {lr:g}, lowest loss {np.nanmin(losses[i]):g} (medians)." in texts["lines"]
        rows, _ = shown(chart, setting, ["images", "lr"], part=1)
        assert sorted(zip(*rows.values(), strict=True)) == [(8, 0.01), (32, 0.1)]
    with pytest.raises(ValueError, match=r"of 'SGD' are of shape \[3, 3\]: give them as \[2 sizes, seeds, 3 rates\]"):
        explore.batch_sizes([8, 32], {"SGD": (rates, losses[0])})
    for nothing in ({}, {"SGD": (rates, losses * math.nan)}):
        with pytest.raises(ValueError, match="no finite loss"):
            explore.batch_sizes([8, 32], nothing)


@pytest.mark.parametrize("rule", RULES)
def test_a_range_test_reads_what_its_rule_reads(rule):
    lrs = np.geomspace(1e-4, 10, 120)
    loss = 2.3 - 1.8 * np.exp(-(np.log10(lrs / 0.3) ** 2)) + 8 * np.maximum(0, np.log10(lrs / 1.5))
    test = lrtut.RangeTest(lrs[:, None], loss + 0.02 * np.random.default_rng(0).normal(size=120))
    rows, texts = shown(explore.range_test(test), {"rule": rule}, ["lr", "chosen"], part=1)
    (chosen,) = rows["lr"][rows["chosen"] == 1]
    assert np.isclose(chosen, test.suggestion(rule), rtol=1e-6)
    assert f"{chosen:.2g}" in texts["lines"]


def test_names_that_are_none_are_refused():
    with pytest.raises(ValueError, match="name='Cosine': give one of LambdaLR"):
        explore.schedule("Cosine")
    nothing = lrtut.RangeTest(np.array([[0.1]]), np.array([math.nan]))
    with pytest.raises(ValueError, match="first loss is not finite"):
        explore.range_test(nothing)
