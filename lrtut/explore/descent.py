"""Gradient descent on a parabola and in a valley."""

from __future__ import annotations

from lrtut.explore.chart import GREY, RED, Chart, axis, by_rate, formula, panel, path, slider

ONE_ROW = {"values": [{}]}


def descent(steps: int, start: str, factor: str) -> list[dict]:
    """Transforms: SGD with momentum from `start` on a parabola, a row a step, `step` and `w`. `factor` is 1 - ηλ.

    torch computes m' = βm + λw and w' = w - ηm', which makes w'' = (factor + β) w' - β w.
    """
    fields = {"w0": start, "w1": f"datum.w0 * ({factor})"}
    for k in range(2, steps + 1):
        fields[f"w{k}"] = f"({factor} + momentum) * datum.w{k - 1} - momentum * datum.w{k - 2}"
    unfold = {"fold": list(fields), "as": ["key", "w"]}
    return [*formula(**fields), unfold, *formula(step="toNumber(slice(datum.key, 1))", lr="lr")]


def parabola() -> Chart:
    """Gradient descent on ½ λ w² from w = 1. Sliders: the learning rate, the curvature λ, the momentum.

    Example:
        lrtut.explore.parabola()
    """
    params = [
        slider("lr", "learning rate η", 0.01, 1.2, 0.01, 0.3),
        slider("curvature", "curvature λ", 0.5, 8, 0.5, 4),
        slider("momentum", "momentum β", 0, 0.95, 0.05, 0),
        {"name": "border", "expr": "2 * (1 + momentum) / curvature"},
        # Of the two roots of the recursion this is the sum, and momentum the product: on which side w comes in.
        {"name": "roots", "expr": "1 - lr * curvature + momentum"},
        {"name": "jumps", "expr": "roots < 0 || roots * roots < 4 * momentum"},
    ]
    lines = (
        "['At η = ' + format(lr, '.2f') + ' w ' + (lr > border - 1e-9 ? 'does not arrive.' : jumps ? "
        "'jumps across and arrives.' : 'comes in from one side.'), "
        "'The border is 2(1 + β)/λ = ' + format(border, '.3f') + '.']"
    )
    color, loss = by_rate(0.01, 1.2), formula(loss="curvature * datum.w * datum.w / 2")
    on_the_bowl = {"x": axis("w", "w", [-2, 2]), "y": axis("loss", "loss ½ λ w²", [0, 8])}
    bowl = {
        "data": {"sequence": {"start": -2, "stop": 2.01, "step": 0.05, "as": "w"}},
        "transform": loss,
        "mark": {"type": "line", "color": GREY, "strokeDash": [4, 3], "clip": True},
        "encoding": on_the_bowl,
    }
    rates = formula(lr="lr", border="border", zero="0")
    along = axis("border", "learning rate", [0, 1.2])
    strip = [
        {
            "mark": {"type": "bar", "color": GREY, "opacity": 0.4, "clip": True},
            "encoding": {"x": along, "x2": {"field": "zero"}},
        },
        {"mark": {"type": "tick", "color": RED, "thickness": 3, "clip": True}, "encoding": {"x": along}},
        {
            "mark": {"type": "point", "filled": True, "size": 120, "stroke": GREY, "opacity": 1},
            "encoding": {"x": axis("lr", "learning rate", [0, 1.2]), "color": color},
        },
    ]
    steps = descent(24, "1", "1 - lr * curvature")
    return Chart(
        "Gradient descent on a parabola, with sliders for learning rate, curvature and momentum. First panel: the "
        "parabola and the path on it. Second: w at each step. Third: the rates that arrive, the border, and this rate.",
        lines,
        params,
        columns=2,
        data=ONE_ROW,
        concat=[
            panel("The path", [bowl, *path(*on_the_bowl.values(), color)], transform=[*steps, *loss]),
            panel(
                "w at each step", path(axis("step", "step", [0, 24]), axis("w", "w", [-2, 2]), color), transform=steps
            ),
            panel("The rates that arrive, and this one", strip, height=24, transform=rates),
        ],
    )


def valley() -> Chart:
    """Gradient descent on ½ (λu² + v²) from u = 1, v = 8. Sliders: the rate, the steep curvature λ, the momentum.

    Example:
        lrtut.explore.valley()
    """
    params = [
        slider("lr", "learning rate η", 0.002, 0.2, 0.001, 0.075),
        slider("curvature", "steep curvature λ", 1, 50, 1, 25),
        slider("momentum", "momentum β", 0, 0.95, 0.05, 0),
        {"name": "border", "expr": "2 * (1 + momentum) / curvature"},
        # What a step leaves of v in the long run: the larger root of the recursion.
        {"name": "roots", "expr": "1 - lr + momentum"},
        {"name": "under", "expr": "roots * roots - 4 * momentum"},
        {"name": "left", "expr": "under < 0 ? sqrt(momentum) : (roots + sqrt(under)) / 2"},
    ]
    lines = (
        "['Steep: ' + (lr < border - 1e-9 ? 'converges' : 'does not converge') + '. The border is 2(1 + β)/λ = ' + "
        "format(border, '.3f') + '.', 'Shallow: in the long run each step leaves ' + format(left, '.1%') + '.', "
        "'A hundredth is left after about ' + format(ceil(log(0.01) / log(left)), 'd') + ' steps.']"
    )
    color = by_rate(0.002, 0.2)
    seen_from_above = {
        "x": axis("v", "v, the shallow direction", [-10, 10]),
        "y": axis("u", "u, the steep direction", [-2.5, 2.5]),
    }
    contours = {
        "data": {"sequence": {"start": 0, "stop": 5 * 73, "as": "step"}},
        "transform": formula(
            size="2 + 2 * floor(datum.step / 73)",
            angle="(datum.step % 73) * PI / 36",
            v="datum.size * cos(datum.angle)",
            u="datum.size * sin(datum.angle) / sqrt(curvature)",
        ),
        "mark": {"type": "line", "color": GREY, "opacity": 0.5, "clip": True},
        "encoding": {
            **seen_from_above,
            "detail": {"field": "size"},
            "order": {"field": "step", "type": "quantitative"},
        },
    }
    left = axis("step", "step", [0, 60]), axis("distance", "distance left", [0.01, 20], log=True)
    names = {
        "transform": [{"filter": "datum.step == 12"}],
        "mark": {"type": "text", "color": GREY, "fontSize": 14, "dx": 8, "dy": -12, "clip": True},
        "encoding": {"x": left[0], "y": left[1], "text": {"field": "direction"}},
    }
    steps = descent(60, "datum.start", "1 - lr * (datum.direction == 'u' ? curvature : 1)")
    return Chart(
        "Gradient descent in a valley with a steep and a shallow direction, with sliders for learning rate, steep "
        "curvature and momentum. First panel: the path among lines of equal loss. Second: the distance left in each "
        "direction at each step.",
        lines,
        params,
        columns=2,
        data={"values": [{"direction": "u", "start": 1}, {"direction": "v", "start": 8}]},
        transform=steps,
        concat=[
            panel(
                "The path",
                [contours, *path(*seen_from_above.values(), color)],
                transform=[{"pivot": "direction", "value": "w", "groupby": ["step", "lr"]}],
            ),
            panel(
                "What is left",
                [*path(*left, color)[1:], names],
                transform=formula(distance="max(abs(datum.w), 1e-9)"),
            ),
        ],
    )
