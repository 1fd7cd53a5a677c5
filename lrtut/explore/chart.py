"""What the charts are made of."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

MIME = "application/vnd.vegalite.v5+json"
WIDTH = 290  # pixels, of a panel: with its axis it fits a phone
GREY, RED = "#888", "#d6604d"  # seen on white and on black
OPTIONS = {"renderer": "svg", "actions": False}  # text in SVG can be read aloud, selected and copied
PAGE = """\
<div id="{id}"></div>
<script src="https://cdn.jsdelivr.net/npm/vega@5"></script>
<script src="https://cdn.jsdelivr.net/npm/vega-lite@5"></script>
<script src="https://cdn.jsdelivr.net/npm/vega-embed@6"></script>
<script>vegaEmbed("#{id}", {spec}, {options})</script>"""


class Chart:
    """A chart with sliders that shows itself in JupyterLab, in VS Code, on Colab and on the site.

    Attributes:
        spec: the Vega-Lite specification, a dict fit for JSON.
    """

    def __init__(self, description: str, lines: str, params: list[dict], code: str = "", **spec: Any) -> None:
        """`lines` and `code` are Vega expressions for the lines above the chart, which follow the sliders."""
        params = [*params, {"name": "lines", "expr": lines}, {"name": "code", "expr": code or "''"}]
        title = {"text": {"expr": "lines"}, "anchor": "start", "fontWeight": "normal", "fontSize": 12, "offset": 8}
        if code:
            title |= {"subtitle": {"expr": "code"}, "subtitleFont": "monospace", "subtitleFontSize": 10}
        self.spec = {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "description": description,
            "title": title,
            "params": params,
            "config": {"axis": {"gridOpacity": 0.4}},
            **spec,
        }

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        data = {MIME: self.spec, "text/plain": self.spec["description"]}
        if "google.colab" in sys.modules:
            name = f"lrtut-{id(self)}"
            data["text/html"] = PAGE.format(id=name, spec=json.dumps(self.spec), options=json.dumps(OPTIONS))
        return data, {MIME: {"embed_options": OPTIONS}}


def slider(name: str, label: str, low: float, high: float, step: float, value: float) -> dict:
    """A parameter of a chart, and the slider that sets it."""
    bind = {"input": "range", "min": low, "max": high, "step": step, "name": f"{label} "}
    return {"name": name, "value": value, "bind": bind}


def choice(name: str, label: str, options: Sequence, value: Any) -> dict:
    """A parameter of a chart, and the list that sets it."""
    return {"name": name, "value": value, "bind": {"input": "select", "options": options, "name": f"{label} "}}


def formula(**fields: str) -> list[dict]:
    """Transforms that compute each field by its expression, in this order."""
    return [{"calculate": expression, "as": name} for name, expression in fields.items()]


def axis(field: str, title: str | None, domain: Sequence[float] | None = None, *, log: bool = False) -> dict:
    """A quantitative encoding that ends at `domain`; a mark's `clip` cuts off what lies outside."""
    scale = {"domain": domain, "nice": False} if domain else {}
    look = {"scale": scale | {"type": "log"}, "axis": {"grid": False, "format": "~g"}} if log else {"scale": scale}
    return {"field": field, "type": "quantitative", "title": title, **look}


def by_rate(low: float, high: float) -> dict:
    """The field `lr` as a colour, as in the course's other figures: small dark, large bright."""
    scale = {"type": "log", "domain": [low, high], "clamp": True, "scheme": {"name": "viridis", "extent": [0, 0.8]}}
    return {"field": "lr", "type": "quantitative", "scale": scale, "legend": None}


def path(x: dict, y: dict, color: dict, **encoding: Any) -> list[dict]:
    """Two layers: a grey line in the order of the steps, and ringed points, so that dark ones are seen on black."""
    line = {"type": "line", "color": GREY, "strokeWidth": 1, "clip": True}
    point = {"type": "point", "filled": True, "size": 40, "stroke": GREY, "strokeWidth": 1, "opacity": 1, "clip": True}
    order = {"order": {"field": "step", "type": "quantitative"}}
    return [
        {"mark": line, "encoding": {"x": x, "y": y, **order}},
        {"mark": point, "encoding": {"x": x, "y": y, "color": color, **encoding}},
    ]


def panel(title: str, layers: list[dict], *, height: int = 200, **more: Any) -> dict:
    return {"title": {"text": title, "fontSize": 11}, "width": WIDTH, "height": height, "layer": layers, **more}
