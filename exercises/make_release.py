"""Make exercises/release/ from exercises/source/, or a teacher's own variant of both elsewhere.

    uv run python exercises/make_release.py                                    exercises/release/, anew
    uv run python exercises/make_release.py --variant mine.toml FOLDER         FOLDER/source and FOLDER/release

Source and hidden tests are public, so hidden tests take their values from lines such as `SEED = 101  # variant`. A
variant file sets them: a name at its top for every assignment, a name in a table for one.

    SEED = 31415

    [02_step_decay]
    INITIAL_LR = 0.8
"""

import argparse
import ast
import logging
import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import SaveCells
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
LESSONS = HERE.parent / "notebooks"
VARIANT_LINE = re.compile(r"^(?P<indent>\s*)(?P<name>[A-Z]\w*) = (?P<value>[^#\n]+?)(?P<rest>  #.*\bvariant)$", re.M)


def sources() -> dict[str, nbformat.NotebookNode]:
    """The source notebooks by name, with the setup cell that the lessons have."""
    paths = sorted(HERE.glob("source/*/*.ipynb"))
    setup = next(cell.source for cell in nbformat.read(min(LESSONS.glob("01_*.ipynb")), 4).cells if cell.id == "setup")
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    for notebook in notebooks.values():
        next(cell for cell in notebook.cells if cell.id == "setup").source = setup
    return notebooks


def write(notebooks: dict[str, nbformat.NotebookNode], folder: Path) -> None:
    """Write each into `folder`/source/NAME/, and what nbgrader makes of it into `folder`/release/NAME/."""
    config = Config()
    config.CourseDirectory.root = str(folder.resolve())
    # No gradebook: it is the teacher's. SaveCells wants one all the same.
    config.GenerateAssignment.no_database = True
    steps = GenerateAssignment.preprocessors.default()
    config.GenerateAssignment.preprocessors = [step for step in steps if step is not SaveCells]
    for name, notebook in notebooks.items():
        path = folder / "source" / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
        config.CourseDirectory.assignment_id = name
        GenerateAssignment(coursedir=CourseDirectory(config=config), config=config, force=True).start()


def apply_variant(notebooks: dict[str, nbformat.NotebookNode], values: dict) -> None:
    """Set the `# variant` lines of the sources, in place.

    Raises:
        ValueError: a name or an assignment that is not there, or a value of another type than the one it replaces.
    """
    tables = {stem: table for stem, table in values.items() if isinstance(table, dict)}
    common = {name: value for name, value in values.items() if name not in tables}
    lines = {stem: "\n".join(cell.source for cell in notebook.cells) for stem, notebook in notebooks.items()}
    there = {(stem, match["name"]) for stem, text in lines.items() for match in VARIANT_LINE.finditer(text)}
    unknown = [name for name in common if name not in {name for _, name in there}]
    unknown += [f"[{stem}] {name}" for stem, table in tables.items() for name in table if (stem, name) not in there]
    if unknown:
        raise ValueError(f"no line ends in `# variant` for {', '.join(unknown)}; look into exercises/source/.")
    for stem, notebook in notebooks.items():
        chosen = common | tables.get(stem, {})
        for cell in notebook.cells:
            cell.source = VARIANT_LINE.sub(lambda match, chosen=chosen: _set(match, chosen), cell.source)


def _set(match: re.Match, chosen: dict) -> str:
    name, old = match["name"], ast.literal_eval(match["value"])
    if name not in chosen:
        return match[0]
    new = chosen[name]
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        new = float(new)
    if type(new) is not type(old):
        raise ValueError(f"{name} = {new!r}: it replaces {old!r}, so give a {type(old).__name__}.")
    return f"{match['indent']}{name} = {new!r}{match['rest']}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the exercises that are handed out from their source.")
    parser.add_argument("--variant", nargs=2, type=Path, metavar=("FILE", "FOLDER"), help="own values; where to put it")
    variant, folder = parser.parse_args(argv).variant or (None, HERE)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # what nbgrader has to say
    if variant and folder.resolve() == HERE:
        parser.error(f"{folder} holds the public exercises, which a variant never overwrites; give another folder.")
    notebooks = sources()
    try:
        apply_variant(notebooks, tomllib.loads(variant.read_text(encoding="utf-8")) if variant else {})
    except (ValueError, OSError) as error:
        sys.exit(f"make_release: {variant}: {error}")
    write(notebooks, folder)
    print(f"{len(notebooks)} assignments in {folder / 'release'}")


if __name__ == "__main__":
    main()
