"""scripts/mutants.py: what it plants, and that its list of reasons is up to date."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REASONS = tomllib.loads((ROOT / "tests" / "mutation_survivors.toml").read_text(encoding="utf-8"))

SOURCE = '''"""Two + two."""
import warnings


def f(a: int | None, *, b: int = 3) -> int | None:
    """Three + three."""
    if a is None:
        raise ValueError(f"a is {a + 1}")
    warnings.warn("a" + "b", UserWarning)
    a.update(b)
    return b - a
'''


@pytest.fixture
def mutants(monkeypatch):
    pytest.importorskip("cosmic_ray", reason="uv sync --group mutation")
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "scripts" / "mutants.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutants", script)  # its dataclass looks itself up there
    spec.loader.exec_module(script)
    return script.mutants_of(SOURCE)


def test_operators_constants_conditions_and_statements_are_mutated_and_words_are_not(mutants):
    pairs = {(mutant.was, "".join(mutant.became.split())) for mutant in mutants}
    assert {
        ("return b - a", "returnb+a"),
        ("if a is None:", "ifaisnotNone:"),
        ("a.update(b)", "pass"),
        ('raise ValueError(f"a is {a + 1}")', "pass"),
    } <= pairs
    assert {was for was, _ in pairs} == {
        "def f(a: int | None, *, b: int = 3) -> int | None:",
        "if a is None:",
        'raise ValueError(f"a is {a + 1}")',
        'warnings.warn("a" + "b", UserWarning)',
        "a.update(b)",
        "return b - a",
    }
    of_signature = {became for was, became in pairs if was.startswith("def")}
    assert of_signature == {f"deff(a:int|None,*,b:int={n})->int|None:" for n in (2, 4)}
    assert {became for was, became in pairs if was.startswith(("raise", "warnings"))} == {"pass"}


def test_each_mutant_is_its_own_and_changes_its_line_alone(mutants):
    assert len({mutant.source for mutant in mutants}) == len(mutants) > 15
    lines = SOURCE.splitlines()
    for mutant in mutants:
        changed = [i + 1 for i, (a, b) in enumerate(zip(lines, mutant.source.splitlines(), strict=True)) if a != b]
        assert changed == [mutant.line]


@pytest.mark.parametrize("module", REASONS)
def test_every_listed_survivor_is_of_a_line_that_stands_in_its_module_and_has_a_reason(module):
    lines = [line.strip() for line in (ROOT / "lrtut" / f"{module}.py").read_text(encoding="utf-8").splitlines()]
    for entry in REASONS[module]:
        assert set(entry) == {"was", "became", "reason"} and entry["became"] and len(entry["reason"]) > 20
        for line in entry["was"].splitlines():
            assert line in lines, f"{module}.py has no line {line!r} any more"
