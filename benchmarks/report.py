"""What the benchmarks share; called by itself, it makes every table of README.md from results/.

Results are JSON lines: what a measurement was made on, then one record a line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# Modules with a table().
TABLES = ("training", "finders", "modern", "one_cycle", "overhead", "grading", "gpu", "sweeps")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def load(name: str) -> tuple[dict, dict[str, dict]]:
    """What results/<name>.jsonl was made on, and its records by their name; both empty where there is no file."""
    path = HERE / "results" / f"{name}.jsonl"
    if not path.exists():
        return {}, {}
    made_on, *records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return made_on, {record.pop("name"): record for record in records}


def save(name: str, made_on: dict, records: dict[str, dict]) -> None:
    """Write results/<name>.jsonl in one rename, so that a kill leaves the file as it was. Six digits are kept."""
    path = HERE / "results" / f"{name}.jsonl"
    lines = [made_on, *({"name": name} | record for name, record in records.items())]
    short = [json.loads(json.dumps(line), parse_float=lambda number: float(f"{float(number):.6g}")) for line in lines]
    beside = path.with_suffix(".part")
    beside.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in short), encoding="utf-8")
    beside.replace(path)


def machine() -> dict[str, str]:
    """What a measurement was made on."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": f"{cpu}, {torch.backends.cpu.get_cpu_capability()}",
        "system": platform.system(),
        "date": time.strftime("%Y-%m-%d"),
    }


def measured_on(machine: dict) -> str:
    return "Measured on " + ", ".join(f"{key} {value}" for key, value in machine.items()) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tables of benchmarks/README.md from benchmarks/results/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a table is not up to date")
    check = parser.parse_args().check
    readme = HERE / "README.md"
    page = before = readme.read_text(encoding="utf-8")
    for name in TABLES:
        head, rest = page.split(f"<!-- {name} -->\n")
        tail = rest.split(f"<!-- /{name} -->")[1]
        page = f"{head}<!-- {name} -->\n{importlib.import_module(name).table()}\n<!-- /{name} -->{tail}"
    if check:
        sys.exit("benchmarks/README.md is not what the results say: uv run nox -s tables" if page != before else 0)
    readme.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
