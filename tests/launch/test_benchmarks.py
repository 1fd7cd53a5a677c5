"""The tables of benchmarks/README.md, and what lesson 05 quotes from them, are what the results say."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
TABLES = {  # the module, its function, its results
    "training": ("training", "report", "training"),
    "finders": ("finders", "report", "finders"),
    "one cycle": ("one_cycle", "table", "one_cycle"),
    "overhead": ("finder_overhead", "report", "finder_overhead"),
    "grading": ("grading", "report", "grading"),
    "gpu": ("gpu", "table", "gpu"),
}


def load(module, monkeypatch):
    """By its file, under a name of its own: exercises/grading is called as benchmarks/grading.py is."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{module}", ROOT / "benchmarks" / f"{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, loaded)
    spec.loader.exec_module(loaded)
    return loaded


def made(mark, monkeypatch):
    module, function, results = TABLES[mark]
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    kept = json.loads((ROOT / "benchmarks" / "results" / f"{results}.json").read_text(encoding="utf-8"))
    try:
        return getattr(load(module, monkeypatch), function)(kept.get("tasks", kept))
    except SystemExit as error:  # what guessing would lose is counted on the data
        pytest.skip(str(error))


def test_every_table_is_held_to_its_results():
    assert set(re.findall(r"<!-- (\w[\w ]*) -->", PAGE)) == set(TABLES)


@pytest.mark.parametrize("mark", TABLES)
def test_the_table_is_what_the_results_say(mark, monkeypatch):
    (shown,) = re.findall(rf"<!-- {mark} -->\n(.*?)\n<!-- /{mark} -->", PAGE, re.S)
    assert shown == made(mark, monkeypatch)


def test_lesson_05_quotes_the_peak_of_one_cycle_as_it_was_measured(monkeypatch):
    rows = [line.strip("| ").split(" | ") for line in made("one cycle", monkeypatch).splitlines()[2:]]
    measured = {row[0]: [f"{float(figure):.2f}" for figure in row[1:]] for row in rows}
    (notebook,) = (ROOT / "notebooks").glob("05_*.ipynb")
    prose = "\n".join(cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "markdown")
    (quoted,) = re.findall(
        r"the mean regret was (\S+) and the worst (\S+) for a constant rate at the suggestion, (\S+) and (\S+) for one at "
        r"3\.3 times that, and (\S+) and (\S+) for one cycle with that peak",
        prose,
    )
    assert list(quoted) == [*measured["1.0"][:2], *measured["3.3"]]
