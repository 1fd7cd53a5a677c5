"""What a run of a lesson is asked, besides that no cell fails.

Every assertion of its checks ran; every figure has an alt text; the key figures are what they were. figures/<lesson>.yaml
holds these: the cell after which to read it, the expression, the share by which it may differ, and its value on each data
set. This records the values anew, on the data that LRTUT_DATA names:

    uv run python tests/lessons/watch.py [01 05 …]
"""

import itertools
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import yaml
from lessons import LESSONS, code_cells, is_check, read
from nbclient import NotebookClient

FIGURES = Path(__file__).parent / "figures"
REPORT = """
import json
if torch.cuda.is_available():
    _figures = {}  # the recorded values are a CPU's
print(json.dumps({"ran": list(_ran), "figures": _figures}, default=lambda value: value.tolist()))
"""


def recorded(name):
    """The key figures of a lesson: {name: {cell, is, within, digits, MNIST}}."""
    file = FIGURES / f"{name}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}


def data_set():
    return "digits" if os.environ["LRTUT_DATA"] == "digits" else "MNIST"


def watched(path):
    """A lesson that notes which assertions ran and reports the key figures; any other notebook as it is."""
    notebook, figures = read(path), recorded(path.stem)
    if not any(is_check(cell) for cell in code_cells(notebook)):
        return notebook
    code_cells(notebook)[0].source += "\n_ran, _figures = set(), {}"
    for cell in code_cells(notebook):
        if is_check(cell):
            cell.source = with_notes(cell)
        for name, figure in figures.items():
            if figure["cell"] == cell.id:
                cell.source += f"\n_figures[{name!r}] = {figure['is']}"
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    return notebook


def with_notes(cell):
    """The source of a check in which each assertion is noted, on its own line, just before it runs."""
    number = itertools.count(1)
    note = lambda found: f'{found[1]}_ran.add("{cell.id}, assertion {next(number)}"); assert'  # noqa: E731
    return re.sub(r"^(\s*)assert\b", note, cell.source, flags=re.M)


def problems(notebook, name):
    """What is wrong with a watched notebook that ran without an error, as pairs of a cell's index and a sentence."""
    found = []
    for i, cell in enumerate(notebook.cells):
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if "image/png" in data or re.search(r'<img(?! alt="[^"]{20})', data.get("text/html", "")):
                found.append((i, "a figure has no alt text"))
    if notebook.cells[-1].source != REPORT:
        return found
    seen = json.loads(notebook.cells[-1].outputs[0].text)
    figures, place = recorded(name), {cell.id: i for i, cell in enumerate(notebook.cells)}
    for i, cell in enumerate(notebook.cells):
        noted = re.findall(r'_ran\.add\("(.+?)"\); assert', cell.source)
        found += [(i, f"{assertion} never ran") for assertion in noted if assertion not in seen["ran"]]
    for key, now in seen["figures"].items():
        was, within = figures[key][data_set()], figures[key]["within"]
        if not near(now, was, within):
            found.append((place[figures[key]["cell"]], f"key figure, {key}: was {was}, is {now} (within {within:g})"))
    return found


def near(now, was, within):
    """Is each number within that share of what it was?"""
    if isinstance(was, list):
        return len(now) == len(was) and all(near(a, b, within) for a, b in zip(now, was, strict=True))
    return abs(now - was) <= within * abs(was) + 1e-12


def run(path):
    """What a lesson reports when it runs: the assertions that `ran`, and the key `figures`."""
    notebook = watched(path)
    quiet = ["--IPKernelApp.log_level=ERROR"]
    NotebookClient(notebook, kernel_name="python3", extra_arguments=quiet).execute()
    return json.loads(notebook.cells[-1].outputs[0].text)


def main():
    from lrtut.data import find_data
    from lrtut.execution import kernel_environment

    os.environ |= kernel_environment(find_data()[0]) | {"CUDA_VISIBLE_DEVICES": ""}
    for path in LESSONS:
        if path.name[:2] in (sys.argv[1:] or path.name):
            figures = recorded(path.stem)
            for name, value in run(path)["figures"].items():
                value = json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.10g}"))
                print(f"{path.stem}, {name}: was {figures[name].get(data_set())}, is {value}")
                figures[name][data_set()] = value
            text = yaml.dump(figures, sort_keys=False, allow_unicode=True, width=115, default_flow_style=None)
            (FIGURES / f"{path.stem}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
