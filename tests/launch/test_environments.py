"""Installing lrtut where Colab's packages are changes none of them: asked of the resolver, nothing is installed."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
COLAB = ROOT / "tests" / "launch" / "environments" / "colab.txt"
COLABS_PYTHON = "3.13"


def pins(text):
    return dict(re.findall(r"^([\w.-]+)==([\w.+]+)", text, re.M))


def resolve(*requirements):
    """The versions that uv would install for Colab's Python: name to version; AssertionError if they contradict."""
    if not shutil.which("uv"):
        pytest.skip("uv is the resolver")
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", COLABS_PYTHON]
    command += ["--python-platform", "linux", *map(str, requirements)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if re.search(r"[Ff]ailed to fetch|error sending request|dns error", done.stderr):
        pytest.skip(f"no package index within reach: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return pins(done.stdout)


def test_ci_runs_the_sets_by_the_documented_commands():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    rows = {row["set"]: row for row in jobs["versions"]["strategy"]["matrix"]["include"]}
    assert rows.keys() == {"oldest", "colab"} and rows["colab"]["python"] == COLABS_PYTHON
    documented = (ROOT / "CONTRIBUTING.md").read_text()
    for row in rows.values():
        assert f"| `{row['command']}` |" in documented
    assert jobs["versions"]["steps"][-1]["run"] == "${{ matrix.command }}"


def test_bounds_admit_what_colab_has():
    asked = [Requirement(r) for r in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    has = pins(COLAB.read_text())
    assert {"torch", "torchvision", "numpy", "matplotlib", "ipywidgets", "tqdm"} <= has.keys() & {r.name for r in asked}
    for requirement in asked:
        if requirement.name in has:
            assert requirement.specifier.contains(has[requirement.name]), requirement


def test_lrtut_changes_nothing_that_colab_has(tmp_path):
    before = resolve(COLAB)
    assert before | pins(COLAB.read_text()) == before and len(before) > 50
    frozen = tmp_path / "frozen.txt"
    frozen.write_text("".join(f"{name}=={version}\n" for name, version in before.items()))
    after = resolve(frozen, "pyproject.toml")
    assert {name: after[name] for name in before} == before

    # Were the project to ask for more than Colab has, the same question would be answered with a contradiction.
    greedy = tmp_path / "pyproject.toml"
    greedy.write_text((ROOT / "pyproject.toml").read_text().replace('"numpy>=', '"numpy>2.1.3", "numpy>='))
    with pytest.raises(AssertionError, match="numpy"):
        resolve(frozen, greedy)
