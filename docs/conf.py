"""The website: `lrtut run` gathers its pages in build/source/, laid out as the repository is, and calls Sphinx on them."""

import html
import posixpath
import textwrap
import tomllib
from pathlib import Path

from docutils import nodes
from math_core import LatexToMathML
from sphinx import addnodes

ROOT = Path(__file__).parents[1]
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
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

html_theme = "furo"
html_theme_options = {
    "source_repository": URLS["Repository"],
    "source_branch": BLOB.split("/")[-2],
    "source_directory": "",
    "light_css_variables": {"color-brand-primary": "#31688e", "color-brand-content": "#2a6a94"},
    "dark_css_variables": {"color-brand-primary": "#5ec8a8", "color-brand-content": "#6cc6b0"},
}
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_copy_source = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # of the answers alone: the lessons come executed, the exercises are the reader's
nb_execution_excludepatterns = ["notebooks/*", "exercises/*/*/*"]
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_code_prompt_show = "Show the check"
nb_code_prompt_hide = "Hide the check"
nb_ipywidgets_js = {}
copybutton_selector = "div.cell_input pre, div[class*=highlight-] pre"

autodoc_default_options = {"members": True, "imported-members": True}
autodoc_typehints_format = "short"
default_role = "code"  # docstrings write names in single backticks
python_maximum_signature_line_length = 70
napoleon_numpy_docstring = False


def use_local_addresses(app, docname, source):
    """Turn links into the repository into links within the site; take the badges' pictures from docs/_static/."""
    for there, here in HERE.items():
        source[0] = source[0].replace(there, here)


def link_to_github(app, doctree):
    """A link to a file of the repository that is no page of the site leads to GitHub; README.md is the landing page."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        path, _, anchor = node["reftarget"].partition("#")
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(app.env.docname), path)).lstrip("/")
        if node["reftype"] == "myst" and node.get("refdomain") != "doc" and (ROOT / path).is_file():
            index = app.builder.get_relative_uri(app.env.docname, "index")
            uri = index if path == "README.md" else BLOB + path + ("#" + anchor if anchor else "")
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=path == "README.md"))


def drop_progress_bars(app, doctree):
    """A progress bar closed with its cell, and a page cannot show a closed widget."""
    for bundle in list(doctree.findall(nodes.container)):
        if any("widget-view" in child.get("mime_type", "") for child in bundle):
            bundle.parent.remove(bundle)


def describe(app, page, template, context, doctree):
    """Give each page the description that search engines show: its first words."""
    if doctree is None:
        return
    words = " ".join(p.astext() for p in doctree.findall(nodes.paragraph) if not p.next_node(nodes.image))
    short = html.escape(textwrap.shorten(words, 160, placeholder=" …"))
    context["metatags"] += f'<meta name="description" content="{short}">'


def as_mathml(self, node):
    """A formula as MathML, which browsers draw by themselves."""
    display = isinstance(node, nodes.math_block)
    self.body.append(LatexToMathML().convert_with_local_state(node.astext(), displaystyle=display))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(as_mathml, None), block_renderers=(as_mathml, None))
    app.connect("source-read", use_local_addresses)
    app.connect("doctree-read", link_to_github)
    app.connect("doctree-read", drop_progress_bars)
    app.connect("html-page-context", describe)
