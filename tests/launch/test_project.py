"""The project's files say the same thing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from lrtut.cli import find_lessons
from lrtut.version import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PROJECT["project"]["urls"]["Repository"]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def bounds(requirements):
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", r).groups() for r in requirements)


def every_bound():
    groups = PROJECT["dependency-groups"]
    plain = [r for group in groups.values() for r in group if isinstance(r, str)]
    return bounds(PROJECT["project"]["dependencies"] + plain)


def test_conda_asks_for_what_pip_asks_for():
    environment = yaml.safe_load(text("environment.yml"))
    assert environment["channels"] == ["conda-forge"]
    asked = [d for d in environment["dependencies"] if isinstance(d, str) and ">=" in d]
    names = {"pytorch": "torch"}
    conda = {names.get(name, name): version for name, version in bounds(asked).items()}
    assert conda.pop("python") == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert {"torch", "torchvision", "matplotlib", "jupyterlab", "nbmake"} <= set(conda)
    assert conda == {name: version for name, version in every_bound().items() if name in conda}
    assert {"pip": ["-e ."]} in environment["dependencies"]


def test_constraints_are_versions_only_and_meet_the_bounds():
    lines = text("constraints.txt").splitlines()
    pins = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)(?:\+\w+)?", line).groups() for line in lines)

    def number(version):
        return [int(part) for part in re.findall(r"\d+", version)]

    for name, bound in every_bound().items():
        assert number(pins[name]) >= number(bound), name


def test_the_readmes_commands_are_ci_s():
    commands = re.search(r"```\n(uv run .+?)```", text("README.md"), re.S)[1].split("\n")
    assert commands[:2] == ["uv run lrtut run", "uv run pytest"]
    script = text(".ci/run").splitlines()
    assert "uv run pytest" in script and any(line.endswith("uv run lrtut run --strict") for line in script)
    # CI has the browser's group, and sets the variable that makes a missing browser a failure.
    assert any(line.startswith("uv sync") and "--group browser" in line for line in script)
    assert "  export LRTUT_BROWSER" in script
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["test"]
    assert workflow["steps"][-1]["run"] == ".ci/run"
    assert workflow["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert {o.split("-")[0] for o in workflow["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}


def test_the_readme_shows_a_figure_first_and_names_every_lesson():
    readme = text("README.md")
    assert readme.index("![") < readme.index("```")
    for alt, target in re.findall(r"!\[([^\]]*)\]\((?!https://)([^)]+)\)", readme):
        assert len(alt) > 80 and (ROOT / target).exists()
    for path in find_lessons(ROOT):
        assert f"| {path.name[:2]} |" in readme and f"(notebooks/{path.name})" in readme
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", readme):
        assert (ROOT / target).exists(), target


def test_the_address_is_one():
    assert f"repository-code: {REPOSITORY}\n" in text("CITATION.cff")
    assert f"\nversion: {__version__}\n" in text("CITATION.cff")


ORDER = "version misuse data models training schedules catalogue sweep alttext plotting finder explore claims execution"
ORDER = [*ORDER.split(), "site", "cli"]  # a module imports only from those before it


@pytest.mark.parametrize("path", sorted((ROOT / "lrtut").rglob("[!_]*.py")), ids=lambda path: path.stem)
def test_modules_import_one_way(path):
    source = path.read_text(encoding="utf-8")
    name, *_ = path.relative_to(ROOT / "lrtut").with_suffix("").parts
    imported = re.findall(r"from lrtut(?:\.(\w+)[\w.]*)? import (\w+)", source)
    assert {module or imported_name for module, imported_name in imported} - {name} <= {*ORDER[: ORDER.index(name)]}


def test_each_benchmarks_table_has_its_place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from report import write_readme, write_whole

    sources = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")}
    marks = [mark for source in sources.values() for mark in re.findall(r'write_readme\(.+, "(.+)"\)', source)]
    assert sorted(marks) == ["finders", "gpu", "grading", "one cycle", "overhead", "training"]
    page = tmp_path / "README.md"
    page.write_text(text("benchmarks/README.md"), encoding="utf-8")
    for mark in marks:
        write_readme(rf"\1 {mark}", mark, page)
        assert f"<!-- {mark} -->\n\\1 {mark}\n<!-- /{mark} -->" in page.read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="has lost its marks <!-- speed -->"):
        write_readme("", "speed", page)
    write_whole(tmp_path / "a.json", {"a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n "a": 1\n}\n' and not (tmp_path / "a.part").exists()


def test_import_brings_in_nothing_heavy():
    code = (
        "import sys, lrtut\n"
        "print([m for m in ('torchvision', 'pooch', 'sklearn', 'ipywidgets', 'nbclient', 'torch._dynamo') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
