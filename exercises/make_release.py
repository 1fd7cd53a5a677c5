"""Make exercises/release/ from exercises/source/, or a teacher's own variant of both elsewhere.

    uv run python exercises/make_release.py                                    exercises/release/, anew
    uv run python exercises/make_release.py --variant mine.toml FOLDER         FOLDER/source and FOLDER/release

Source and hidden tests are public, so hidden tests take their values from lines such as `SEED = 101  # variant`. A
variant file sets them: a name at its top for every assignment, a name in a table for one.

    SEED = 31415

    [02_step_decay]
    INITIAL_LR = 0.8
"""

from __future__ import annotations

import argparse
import ast
import logging
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

import nbformat
from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import SaveCells
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
LESSONS = HERE.parent / "notebooks"
VARIANT_LINE = re.compile(
    r"^(?P<indent>\s*)(?P<name>[A-Z][A-Z0-9_]*) = (?P<value>[^#\n]+?)(?P<rest>  #.*\bvariant)$", re.M
)


def sources() -> dict[str, nbformat.NotebookNode]:
    """The source notebooks by name, with the setup cell that the lessons have."""
    paths = sorted(HERE.glob("source/*/*.ipynb"))
    setup = next(cell.source for cell in nbformat.read(min(LESSONS.glob("01_*.ipynb")), 4).cells if cell.id == "setup")
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    for notebook in notebooks.values():
        next(cell for cell in notebook.cells if cell.id == "setup").source = setup
    return notebooks


def write(notebooks: dict[str, nbformat.NotebookNode], folder: Path) -> None:
    """Write each as `folder/NAME/NAME.ipynb`; a file that would not change is left alone."""
    for name, notebook in notebooks.items():
        path = folder / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = nbformat.writes(notebook) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")


def released(notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, nbformat.NotebookNode]:
    """What nbgrader's generate_assignment makes of the sources, without a gradebook and without outputs."""
    with tempfile.TemporaryDirectory() as folder:
        write(notebooks, Path(folder) / "source")
        config = Config()
        config.CourseDirectory.root = folder
        config.GenerateAssignment.no_database = True
        steps = [step for step in GenerateAssignment.preprocessors.default() if step is not SaveCells]
        config.GenerateAssignment.preprocessors = steps  # SaveCells wants the gradebook even then
        made = {}
        for name in notebooks:
            config.CourseDirectory.assignment_id = name
            GenerateAssignment(coursedir=CourseDirectory(config=config), config=config).start()
            made[name] = nbformat.read(Path(folder) / "release" / name / f"{name}.ipynb", as_version=4)
            for cell in made[name].cells:
                cell.metadata.pop("execution", None)
        return made


def apply_variant(notebooks: dict[str, nbformat.NotebookNode], values: dict) -> None:
    """Set the `# variant` lines of the sources, in place.

    Raises:
        ValueError: a name or an assignment that is not there, or a value of another type than the one it replaces.
    """
    everywhere = {name: value for name, value in values.items() if not isinstance(value, dict)}
    unknown = [name for name, value in values.items() if isinstance(value, dict) and name not in notebooks]
    if unknown:
        raise ValueError(f"there is no assignment {', '.join(unknown)}: there are {', '.join(notebooks)}.")
    used: set[str] = set()
    for stem, notebook in notebooks.items():
        own = values.get(stem, {})
        found = {m["name"] for cell in notebook.cells for m in VARIANT_LINE.finditer(cell.source)}
        if set(own) - found:
            raise ValueError(f"{stem} has no {', '.join(sorted(set(own) - found))}: it has {', '.join(sorted(found))}.")
        chosen = everywhere | own
        used |= found & set(everywhere)
        for cell in notebook.cells:
            cell.source = VARIANT_LINE.sub(lambda match, chosen=chosen: _set(match, chosen), cell.source)
    if set(everywhere) - used:
        raise ValueError(f"no assignment has {', '.join(sorted(set(everywhere) - used))}.")


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


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 if the variant cannot be made."""
    parser = argparse.ArgumentParser(description="Make the exercises that are handed out from their source.")
    parser.add_argument(
        "--variant", nargs=2, type=Path, metavar=("FILE", "FOLDER"), help="own values, and where to put it"
    )
    variant, folder = parser.parse_args(argv).variant or (None, HERE)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # what nbgrader has to say
    if variant and folder.resolve() == HERE:
        parser.error(f"{folder} holds the public exercises, which a variant never overwrites; give another folder.")
    notebooks = sources()
    try:
        if variant:
            apply_variant(notebooks, tomllib.loads(variant.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        print(f"make_release: {variant}: {error}", file=sys.stderr)
        return 2
    release = released(notebooks)
    for kind, made in {"source": notebooks, "release": release}.items():
        for old in (folder / kind).glob("*"):
            if kind == "release" and old.is_dir() and old.name not in made:
                shutil.rmtree(old)
        write(made, folder / kind)
    print(f"{len(release)} assignments in {folder / 'release'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
