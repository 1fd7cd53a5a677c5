"""The key figures of each lesson, recorded in tests/lessons/expected/, and what has changed since.

A check's metadata name them, `figures`: {name: {"is": expression, "within": share by which another kind may differ}}.

    python tests/lessons/key_figures.py                    compares a run of every lesson with the records
    python tests/lessons/key_figures.py --record           records it anew: a commit of its own, which explains each change
    python tests/lessons/key_figures.py --every-cpu        either, once for each CPU capability of torch

Runs on LRTUT_DATA, or on the digits.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import nbformat
from lessons import ISA, ROOT, run_apart

from lrtut.cli import find_lessons

EXPECTED = Path(__file__).parent / "expected"


def tolerances(path):
    """For each figure of a notebook, the share by which a run of another kind may differ from the record."""
    cells = nbformat.read(path, as_version=4).cells
    return {name: figure["within"] for c in cells for name, figure in c.metadata.get("figures", {}).items()}


def records(path):
    file = EXPECTED / f"{path.stem}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def compare(path, found):
    """What differs from the record of the nearest kind: lines "lesson, figure: was, is"; [] if nothing does."""
    kind = found["made_on"]
    known = [r for r in records(path) if r["made_on"]["data"] == kind["data"]]
    if not known:
        return [f"{path.stem}: no record on {kind['data']}; python tests/lessons/key_figures.py --record makes one"]
    nearest = max(known, key=lambda r: [r["made_on"] == kind, *(r["made_on"].get(k) == kind[k] for k in kind)])
    return differences(path, nearest, found)


def differences(path, record, found):
    """Where `found` differs from `record`: to the bit where both are of one kind, else by more than `within`."""
    same, within = record["made_on"] == found["made_on"], tolerances(path)
    was, now = record["figures"], found["figures"]
    lines = []
    for name in {**was, **now}:
        old, new = was.get(name, "not there"), now.get(name, "not there")
        if old == new or (not same and near(old, new, within.get(name, 0))):
            continue
        bound = "to the bit" if same else f"within {within.get(name, 0):.3g}"
        lines.append(f"{path.stem}, {name}: was {old}, is {new} ({bound}; recorded on {text(record['made_on'])})")
    return lines


def near(old, new, within):
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(near(a, b, within) for a, b in zip(old, new, strict=True))
    numbers = all(isinstance(v, int | float) for v in (old, new))
    return old == new or (numbers and abs(old - new) <= within * max(abs(old), abs(new)))


def text(kind):
    return ", ".join(kind.values())


def record(path, found):
    """Put a run's figures in the place of those of the same kind; the names of the figures that changed."""
    others = [r for r in records(path) if r["made_on"] != found["made_on"]]
    entry = {"made_on": found["made_on"], "figures": found["figures"]}
    EXPECTED.mkdir(exist_ok=True)
    ordered = sorted([*others, entry], key=lambda r: list(r["made_on"].values()))
    file = EXPECTED / f"{path.stem}.json"
    file.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="two-digit numbers; all without any")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--every-cpu", action="store_true")
    options = parser.parse_args()
    changed = 0
    for path in find_lessons(ROOT):
        if options.lessons and path.name[:2] not in options.lessons:
            continue
        for capability in ISA if options.every_cpu else [None]:
            found = run_apart(path, data=os.environ.get("LRTUT_DATA") or "digits", capability=capability, turn=False)
            red = [f"{c['cell']} lines {c['red']}" for c in found["checks"] if c["red"]]
            if found["error"] or red:
                sys.exit(f"{path.stem} on {text(found['made_on'])}: {found['error'] or 'checks fail: ' + str(red)}")
            lines = compare(path, found)
            if options.record:
                record(path, found)
            changed += len(lines)
            print(
                f"{path.stem}: {len(found['figures'])} figures on {text(found['made_on'])}",
                *lines,
                sep="\n  ",
                flush=True,
            )
    sys.exit(bool(changed) and not options.record)


if __name__ == "__main__":
    main()
