"""What a reader is told works: the README's commands, its badges, conda's packages, an import that costs little."""

import re
import subprocess
import sys
import tomllib

import yaml
from copies import ROOT

from lrtut.version import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def bounds(requirements):
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", r).groups() for r in requirements)


def test_conda_asks_for_what_pip_asks_for():
    *packages, pip = yaml.safe_load(text("environment.yml"))["dependencies"]
    itself, *others = pip["pip"]
    conda = bounds(package.replace("pytorch", "torch") for package in packages + others if package != "pip")
    groups = [requirement for group in PROJECT["dependency-groups"].values() for requirement in group]
    asked = PROJECT["project"]["dependencies"] + [r for r in groups if isinstance(r, str) and "[" not in r]
    asked.append("python" + PROJECT["project"]["requires-python"])
    assert conda == {name: bound for name, bound in bounds(asked).items() if name in conda}
    assert {"torch", "torchvision", "matplotlib", "jupyterlab"} <= conda.keys() and itself == "-e ."


def test_the_readmes_commands_are_ci_s():
    commands = re.search(r"```\n(uv run .+?)\n```", text("README.md"), re.S)[1].split("\n")
    script = text(".ci/run")
    assert len(commands) >= 2 and all(re.search(rf"\b{re.escape(command)}\b", script) for command in commands)
    assert yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["test"]["steps"][-1]["run"] == ".ci/run"


def test_badges_and_links_of_the_readme_open_files_of_this_repository():
    repository = PROJECT["project"]["urls"]["Repository"]
    slug, branch = repository.split("github.com/")[1], PROJECT["project"]["urls"]["Notebooks"].split("/")[-2]
    readme = text("README.md")
    opened = re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/([\w.-]+)/([^)\s]+)", readme)
    opened += re.findall(r"mybinder\.org/v2/gh/([\w.-]+/[\w.-]+)/([\w.-]+)\?urlpath=lab/tree/([^)\s]+)", readme)
    assert len(opened) >= 2
    assert all((owner, ref) == (slug, branch) and (ROOT / name).exists() for owner, ref, name in opened), opened
    assert f"repository-code: {repository}\n" in text("CITATION.cff")
    assert f"\nversion: {__version__}\n" in text("CITATION.cff")


def test_import_brings_in_nothing_heavy():
    heavy = "('torchvision', 'sklearn', 'ipywidgets', 'nbclient', 'altair', 'pooch', 'torch._dynamo')"
    code = f"import sys, lrtut\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
