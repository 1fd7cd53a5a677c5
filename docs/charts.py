"""Sphinx: show the charts of `lrtut.explore`. Pages that have one load the JavaScript, Vega included, from one file."""

import html
import json
from pathlib import Path

import vl_convert
from docutils import nodes
from myst_nb.core.render import load_mime_renders

from lrtut.explore.chart import MIME

HTML = """<div>{description}</div><p class="visually-hidden" aria-live="polite"></p>
<script type="application/json">{spec}</script>"""  # in a <div class="chart">, which docutils makes of the class


class Charts:
    """What MyST-NB asks how to show an output: it finds such a class by an entry point, or in its list."""

    mime_priority_overrides = [("*", MIME, 1)]

    @staticmethod
    def handle_mime(renderer, data, inline):
        if data.mime_type == MIME:
            # Without its version: the Vega-Lite here is newer, draws it too, and would warn.
            spec = json.dumps(data.content | {"$schema": None}).replace("</", "<\\/")
            page = HTML.format(description=html.escape(data.content["description"]), spec=spec)
            return [nodes.raw("", page, format="html", classes=["chart"])]


def write_javascript(app):
    bundle = vl_convert.javascript_bundle(Path(__file__).with_suffix(".js").read_text("utf-8"))
    folder = Path(app.outdir, "_static")
    folder.mkdir(parents=True, exist_ok=True)
    # Its names are a module's; but a browser loads no module for a page that is opened as a file.
    (folder / "charts.js").write_text(f"(() => {{{bundle}}})();", encoding="utf-8")


def load_javascript(app, page, template, context, doctree):
    if doctree is not None and any("chart" in raw["classes"] for raw in doctree.findall(nodes.raw)):
        app.add_js_file("charts.js", loading_method="defer")
        app.add_css_file("charts.css")


def setup(app):
    load_mime_renders().append(Charts)
    app.connect("builder-inited", write_javascript)
    app.connect("html-page-context", load_javascript)
    return {"parallel_read_safe": True}
