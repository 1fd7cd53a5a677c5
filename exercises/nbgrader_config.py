"""The course for nbgrader: run its commands in this folder. See README.md."""

from pathlib import Path

c = get_config()  # noqa: F821 - nbgrader defines it

c.CourseDirectory.course_id = "lrtut"
c.CourseDirectory.root = str(Path(__file__).parent.resolve())
# A warning on stderr is no error: without this, nbgrader gives no marks to a test during which one appears.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s).*"
# nbclient runs no cell with this tag, and a test without an output has full marks: no student shall set it.
c.Execute.skip_cells_with_tag = "not even this one"
