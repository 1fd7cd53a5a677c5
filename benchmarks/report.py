"""What the benchmarks share: their files are written whole or not at all, and their tables stand between marks."""

from __future__ import annotations

import json
import platform
import re
import time
from pathlib import Path

README = Path(__file__).with_name("README.md")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def write_readme(text: str, mark: str, readme: Path = README) -> None:
    """Put a text between the marks `<!-- mark -->` and `<!-- /mark -->` of benchmarks/README.md.

    Raises:
        SystemExit: the marks are not there.
    """
    page = readme.read_text(encoding="utf-8")
    marks = rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)"
    if not re.search(marks, page, re.S):
        raise SystemExit(f"{readme.parent.name}/{readme.name} has lost its marks <!-- {mark} --> … <!-- /{mark} -->")
    page = re.sub(marks, lambda found: f"{found[1]}{text}\n{found[2]}", page, flags=re.S)
    readme.write_text(page, encoding="utf-8")


def write_whole(path: Path, results: dict) -> None:
    """Write results as JSON in one rename, so that an interrupt leaves the last ones."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
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
