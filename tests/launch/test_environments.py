"""Installing lrtut where Colab's packages are changes none of them: asked of the resolver, nothing is installed."""

import re
import shutil
import subprocess

import pytest
from copies import ROOT

COLAB = ROOT / "tests" / "launch" / "environments" / "colab.txt"


def pins(text):
    return dict(re.findall(r"^([\w.-]+)==([\w.+]+)", text, re.M))


def resolve(*requirements):
    """The versions that uv would install for Colab's Python: name to version; AssertionError if they contradict."""
    if not shutil.which("uv"):
        pytest.skip("uv is the resolver")
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.13"]
    command += ["--python-platform", "linux", *map(str, requirements)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if re.search(r"[Ff]ailed to fetch|error sending request|dns error", done.stderr):
        pytest.skip("no package index within reach")
    assert done.returncode == 0, done.stderr
    return pins(done.stdout)


def test_lrtut_changes_nothing_that_colab_has(tmp_path):
    before = resolve(COLAB)
    assert before | pins(COLAB.read_text()) == before and len(before) > 50
    frozen = tmp_path / "frozen.txt"
    frozen.write_text("".join(f"{name}=={version}\n" for name, version in before.items()))
    after = resolve(frozen, "pyproject.toml")
    assert {name: after[name] for name in before} == before
