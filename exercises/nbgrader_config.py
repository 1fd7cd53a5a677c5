"""The course for nbgrader: run its commands in this folder. See README.md."""

from pathlib import Path

import bleach
import nbgrader
from nbconvert.filters import markdown2html

c = get_config()  # noqa: F821 - nbgrader defines it

c.CourseDirectory.course_id = "lrtut"
c.CourseDirectory.root = str(Path(__file__).parent.resolve())
# A warning on stderr is no error: without this, nbgrader gives no marks to a test during which one appears.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s).*"
# nbclient runs no cell with this tag, and a test without an output has full marks: no student shall set it.
c.Execute.skip_cells_with_tag = "not even this one"

# Nothing that a student wrote or displayed is executed in the browser of who looks at it.
TAGS = "a b blockquote br code div em h1 h2 h3 h4 h5 hr i li ol p pre span strong sub sup table tbody td th thead tr ul"


def clean(html):
    """HTML without scripts, styles, forms, frames, images, and whatever else is not in TAGS."""
    return bleach.clean(html, tags=TAGS.split(), attributes={"a": ["href", "title"]}, strip=True)


def only_safe_outputs(notebook, resources):
    """Metadata of an output would become attributes of HTML, unescaped."""
    for cell in notebook.cells:
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "nbgrader"}
        for output in cell.get("outputs", []):
            output["metadata"] = {}
    return notebook, resources


c.HTMLExporter.sanitize_html = True
c.HTMLExporter.filters = {"markdown2html": lambda text: clean(markdown2html(text)), "clean_html": clean}
c.HTMLExporter.preprocessors = [only_safe_outputs]
# The feedback's page: nbgrader's, with lines that wrap and tasks that have names.
formgrader = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader"
c.GenerateFeedback.HTMLExporter.template_name = "task_feedback"
c.GenerateFeedback.HTMLExporter.extra_template_basedirs = [str(Path(__file__).parent.resolve() / "templates")]
found = [formgrader / "templates", formgrader / "static" / "node_modules" / "bootstrap" / "dist" / "css"]
c.GenerateFeedback.HTMLExporter.extra_template_paths = [str(path) for path in found]
