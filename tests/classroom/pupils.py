"""What students hand in, good and bad: for each the file and what must become of it."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import nbformat
from sample import NAME, STEP_DECAY, answer


@dataclass
class Pupil:
    """`contents` as `sample.hand_in` takes them; then the verdict, the points of the two tests, a part of a remark."""

    contents: object
    verdict: str = "graded"
    points: tuple[float, float] = (2, 3)
    remark: str = ""
    file: str = f"{NAME}.ipynb"
    needs: str = ""  # a key of sandbox.PROTECTIONS without which this cannot be stopped


def everyone(released, root: Path, port: int) -> dict[str, Pupil]:
    """All pupils by name, for a course at `root` and somebody listening at `port` on this machine."""

    def good(**answers):
        return answer(deepcopy(released), **answers)

    def doing(lines, result=STEP_DECAY):
        return good(decay=f"{lines}\n{result}")

    right, cheat = good(), good(decay="return 7")
    seen = f'__import__("os").listdir({str(root / "source")!r}) or open({str(root / "gradebook.db")!r}, "rb").read()'
    call = f"socket.create_connection(('127.0.0.1', {port}), 2)"
    server = "any('grading.server' in p.cmdline() for p in psutil.process_iter() if p.pid > 1)"
    return {
        "good": Pupil(right),
        "untouched": Pupil(deepcopy(released), points=(0, 0)),
        "wrong": Pupil(good(decay="return base * 0.1 ** epoch"), points=(0, 3)),
        "noisy": Pupil(doing("import warnings; warnings.warn('look')")),
        # Files that other programs have changed
        "colab": Pupil(colab(right)),
        "bare": Pupil(without_metadata(right), "repaired", remark="group-test had lost"),
        "renamed": Pupil(right, "repaired", remark="it was taken for", file=f"Copy of {NAME}.ipynb"),
        # Test cells
        "deleted": Pupil(without(right, "decay-test", "setup"), "repaired", remark="decay-test was missing"),
        "copied": Pupil(twice(right, "decay", "decay-test"), "repaired", remark="decay-test was there 2 times"),
        "tampered": Pupil(changed(cheat, source="pass"), "repaired", (0, 3), "decay-test had been changed"),
        "ungraded": Pupil(with_meta(cheat, "decay-test", grade=False), "repaired", (0, 3), "metadata of the cell"),
        "skipped": Pupil(tagged(cheat, "decay-test", "skip-execution"), points=(0, 3)),
        "moved": Pupil(first(right, "decay-test"), "repaired", (0, 3), "decay-test stands at another place"),
        # Programs that go wrong; those that wait do so for longer than any limit, however busy the machine is
        "loop": Pupil(doing("while True: pass"), "stopped", (0, 3), "decay-test was interrupted"),
        "stubborn": Pupil(
            doing("import time\nwhile True:\n    try: time.sleep(1)\n    except BaseException: pass"),
            "stopped",
            (0, 0),
            "did not stop when it was interrupted",
        ),
        "memory": Pupil(
            doing("big = b'x' * 1_000_000_000; import time; time.sleep(9999)"), "stopped", (0, 0), "MB of memory"
        ),
        "sys_exit": Pupil(doing("import sys; sys.exit()"), points=(0, 3)),
        "os_exit": Pupil(doing("import os; os._exit(0)"), "stopped", (0, 0), "the kernel ended by itself"),
        "printer": Pupil(doing("print('x' * 100_000_000)"), remark="decay-test printed more than"),
        # It doubles 40 times and then sleeps, so that it harms no machine, whatever the grader does.
        "forks": Pupil(
            doing("import os\nr, w = os.pipe()\nos.write(w, b'x' * 40)\nwhile os.read(r, 1): os.fork()"),
            "stopped",
            (0, 0),
            "stopped: the submission",
        ),
        "leaves_child": Pupil(
            doing("import subprocess; subprocess.Popen(['sleep', '98765.4'], start_new_session=True)")
        ),
        # Programs that look where they should not: they answer rightly only if they find nothing
        "spy": Pupil(doing(f"try: found = {seen}\nexcept OSError: found = 0\nif found: return -1"), needs="files"),
        "caller": Pupil(doing(f"import socket\ntry: {call}; return -1\nexcept OSError: pass"), needs="network"),
        "writer": Pupil(
            doing(f"try: open({str(root / 'written')!r}, 'w'); return -1\nexcept OSError: pass"), needs="read-only"
        ),
        "watcher": Pupil(doing(f"import psutil\nif {server}: return -1"), needs="processes"),
        # Files that are no notebook
        "not_json": Pupil('{"cells": [', "unreadable", (0, 0), "it is not JSON"),
        "binary": Pupil(bytes(range(256)), "unreadable", (0, 0), "not text in UTF-8"),
        "huge": Pupil(b" " * 21_000_000, "unreadable", (0, 0), "21 MB, 20 are allowed"),
        "odd_cells": Pupil(
            '{"cells": [1, {}, {"cell_type": "code", "source": ["1", 2]}]}', "foreign", (0, 0), "none of"
        ),
        "no_notebook": Pupil(None, "missing", (0, 0), "no 01_sample.ipynb"),
    }


def colab(notebook):
    """As Google Colab writes it: format 4.0 without cell ids, its own metadata, cells added for installing."""
    document = json.loads(nbformat.writes(notebook))
    document["nbformat_minor"] = 0
    document["metadata"] = {
        "colab": {"provenance": [], "toc_visible": True},
        "kernelspec": {"name": "python3-colab", "display_name": "Python 3 (Colab)"},
        "accelerator": "GPU",
    }
    extra = [
        {"cell_type": "code", "source": "%pip install -q lrtut", "metadata": {}, "outputs": [], "execution_count": 1},
        {"cell_type": "code", "source": "from google.colab import drive", "metadata": {}, "outputs": []},
        {"cell_type": "markdown", "source": "My notes", "metadata": {}},
    ]
    for number, cell in enumerate(document["cells"]):
        cell.pop("id", None)
        cell["metadata"]["id"] = f"Xy{number}"
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["old\n"]}]
            cell["metadata"]["outputId"] = "77-88"
    document["cells"] = [*extra[:2], *document["cells"], extra[2]]
    return json.dumps(document)


def without_metadata(notebook):
    copy = json.loads(nbformat.writes(notebook))
    for cell in copy["cells"]:
        cell["metadata"] = {}
        del cell["id"]
    return json.dumps(copy)


def without(notebook, *names):
    copy = deepcopy(notebook)
    copy.cells = [cell for cell in copy.cells if cell.id not in names]
    return copy


def twice(notebook, *names):
    copy = deepcopy(notebook)
    copy.cells = [c for cell in copy.cells for c in [cell, *([deepcopy(cell)] if cell.id in names else [])]]
    return json.dumps(copy)


def changed(notebook, name="decay-test", **changes):
    copy = deepcopy(notebook)
    next(cell for cell in copy.cells if cell.id == name).update(changes)
    return copy


def with_meta(notebook, name, **changes):
    copy = deepcopy(notebook)
    next(cell for cell in copy.cells if cell.id == name).metadata.nbgrader.update(changes)
    return copy


def tagged(notebook, name, tag):
    copy = deepcopy(notebook)
    next(cell for cell in copy.cells if cell.id == name).metadata["tags"] = [tag]
    return copy


def first(notebook, name):
    copy = deepcopy(notebook)
    copy.cells.sort(key=lambda cell: cell.id != name)
    return copy
