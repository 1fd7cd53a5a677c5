"""The tables of benchmarks/README.md, and what lesson 05 quotes from them, are what benchmarks/results/ says."""

import re
import subprocess
import sys

import nbformat
from copies import ROOT


def test_the_tables_are_what_the_results_say():
    command = [sys.executable, "benchmarks/report.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lesson_05_quotes_the_peak_of_one_cycle_as_it_was_measured():
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = page.split("<!-- one_cycle -->")[1].split("<!-- /one_cycle -->")[0]
    rows = {row[0]: row[1:] for row in re.findall(r"\| ([\d.]+)" + r" \| ([\d.]+)" * 4, table)}
    (path,) = (ROOT / "notebooks").glob("05_*.ipynb")
    prose = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    quoted = re.findall(r"\| ([\d.]+) × .*?\| ([\d.]+), ([\d.]+) \| ([\d.]+), ([\d.]+) \|", prose)
    assert len(quoted) == len(rows) > 3
    for factor, *numbers in quoted:
        measured = [float(n) for n in rows[factor if "." in factor else f"{factor}.0"]]
        assert [float(n) for n in numbers] == measured, factor
