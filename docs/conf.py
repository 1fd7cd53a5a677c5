"""The website: `lrtut run` gathers its pages in build/source/, laid out as the repository is, and calls Sphinx."""

import html
import posixpath
import sys
import textwrap
import tomllib
from pathlib import Path

from docutils import nodes
from math_core import LatexToMathML
from sphinx import addnodes

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))  # for charts.py
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
BLOB = URLS["Notebooks"].replace("/tree/", "/blob/").removesuffix("notebooks")
HERE = {  # what the notebooks name by an address is on the site as well
    BLOB: "/",
    "https://colab.research.google.com/assets/colab-badge.svg": "/docs/_static/colab.svg",
    "https://mybinder.org/badge_logo.svg": "/docs/_static/binder.svg",
}

project = html_title = "The learning rate in PyTorch"
author = copyright = "the lrtut authors"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "charts"]

html_theme = "furo"
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#31688e", "color-brand-content": "#2a6a94"},
    "dark_css_variables": {"color-brand-primary": "#5ec8a8", "color-brand-content": "#6cc6b0"},
}
html_static_path = ["_static"]
pygments_dark_style = "github-dark"
html_css_files = ["course.css"]
html_copy_source = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # lessons and answers come executed, and the exercises are the reader's
nb_merge_streams = True
nb_code_prompt_show = "Show the check"
nb_code_prompt_hide = "Hide the check"
copybutton_selector = "div.cell_input pre, div[class*=highlight-] pre"

autodoc_default_options = {"members": True, "imported-members": True}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
default_role = "code"  # docstrings write names in single backticks
python_maximum_signature_line_length = 70
napoleon_numpy_docstring = False


def use_local_addresses(app, docname, source):
    """Turn links into the repository into links within the site; take the badges' pictures from docs/_static/."""
    for there, here in HERE.items():
        source[0] = source[0].replace(there, here)


def resolve_files(app, doctree):
    """A link to a file of the repository leads to the page that was made of it, or else to GitHub."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        path, _, anchor = node["reftarget"].partition("#")
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(app.env.docname), path)).lstrip("/")
        if node["reftype"] == "myst" and node.get("refdomain") != "doc" and (ROOT / path).is_file():
            page = "index" if path == "README.md" else posixpath.splitext(path)[0]
            here = page in app.env.found_docs
            uri = app.builder.get_relative_uri(app.env.docname, page) if here else BLOB + path
            uri += "#" + anchor if anchor else ""
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=here))


def keep_colons(app, what, name, obj, options, lines):
    """Napoleon takes what stands before the first colon for a property's type, unless a comment is before it."""
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]


def describe(app, page, template, context, doctree):
    """Give each page the description that search engines show: its first words."""
    if doctree is None or 'name="description"' in context["metatags"]:
        return
    paragraphs = [list(p.findall(nodes.Text)) for p in doctree.findall(nodes.paragraph) if not p.next_node(nodes.image)]
    words = " ".join("".join(t for t in texts if not isinstance(t.parent, nodes.math)) for texts in paragraphs)
    short = html.escape(textwrap.shorten(words, 160, placeholder=" …"))
    context["metatags"] += f'<meta name="description" content="{short}">'


def rank_search(app, page, template, context, doctree):
    """Load search.js on the page of the search, after Sphinx's own script."""
    if page == "search":
        app.add_js_file("search.js", loading_method="defer", priority=900)


def as_mathml(self, node):
    """A formula as MathML, which browsers draw by themselves."""
    display = isinstance(node, nodes.math_block)
    self.body.append(LatexToMathML().convert_with_local_state(node.astext(), displaystyle=display))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(as_mathml, None), block_renderers=(as_mathml, None))
    app.connect("source-read", use_local_addresses)
    app.connect("doctree-read", resolve_files)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon's
    app.connect("html-page-context", describe)
    app.connect("html-page-context", rank_search)
