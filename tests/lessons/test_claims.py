"""Every claim of the prose has a check; every check can fail; every figure has a description; the numbers have not changed."""

import json
import re

import key_figures
import nbformat
import pytest
from claims import claims
from filelock import FileLock
from lessons import ROOT, Lesson, run_apart

from lrtut.cli import find_lessons

LESSONS = find_lessons(ROOT)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


@pytest.fixture
def ran(path, tmp_path_factory):
    """What one run of the lesson on the digits came to; made once for all tests, whichever worker is first."""
    file = tmp_path_factory.getbasetemp().parent / f"{path.stem}.json"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            file.write_text(json.dumps(run_apart(path)), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


@each_lesson
def test_every_claim_has_a_check(path):
    found = claims(nbformat.read(path, as_version=4))
    assert found.problems == []
    assert len(found.backed) >= 20


@each_lesson
def test_a_number_changed_in_the_prose_is_noticed(path):
    notebook = nbformat.read(path, as_version=4)
    changed = 0
    for claim in claims(notebook).backed:
        cell = next(c for c in notebook.cells if c.id == claim.cell)
        original = cell.source
        for start, end in claim.triggers:
            if claim.text[start].isdigit():
                before = re.search(spaced(claim.text[:start]) + r"(?=" + spaced(claim.text[start:]) + ")", original)
                cell.source = original[: before.end()] + "7654321" + original[before.end() + end - start :]
                assert claims(notebook).problems, f"{claim}: {claim.text[start:end]}"
                changed += 1
        cell.source = original
    assert changed >= 5
    print(f"{path.stem}: {changed} numbers changed")


def spaced(text):
    """A pattern for a sentence as it stands in the source, where lines may end at any space."""
    return r"\s+".join(map(re.escape, text.split(" ")))


@each_lesson
def test_every_assertion_holds(path, ran):
    assert ran["error"] is None
    assert [(c["cell"], c["red"], c["error"]) for c in ran["checks"] if c["red"] or c["error"]] == []


@each_lesson
def test_a_comparison_turned_round_turns_its_claim_red_and_no_other(path, ran):
    found = claims(nbformat.read(path, as_version=4))
    turned = 0
    for check in ran["checks"]:
        for assertion in check["asserts"]:
            place = f"{check['cell']}, line {assertion['line']}"
            assert assertion["turned"], f"{place}: nothing is compared"
            for what, red in assertion["turned"].items():
                assert red, f"{place}: still holds with the opposite of {what}"
                turned += 1
            # Only this assertion saw the opposite, so what turns red is what it backs: one sentence, said once or again.
            red = {s for s in found.quotes[check["cell"], assertion["line"]] if s.cell != "remember"}
            assert len(red) <= 1, place
        for helper in check["helpers"]:
            if helper["what"] == "as it is":
                assert helper["red"] == [], f"{check['cell']}: does not hold a second time"
                continue
            red = {s for line in helper["red"] for s in found.quotes[check["cell"], line] if s.cell != "remember"}
            assert len(red) == 1, f"{check['cell']}, line {helper['line']}: {helper['what']} decides {len(red)} claims"
            turned += 1
    print(f"{path.stem}: {len(found.backed)} claims, {turned} comparisons turned round")  # pytest -rP


@each_lesson
def test_the_key_figures_are_what_they_were(path, ran):
    assert len(ran["figures"]) >= 4
    assert key_figures.compare(path, ran) == [], "python tests/lessons/key_figures.py says more; see CONTRIBUTING.md"


@each_lesson
def test_records_of_several_kinds_agree_within_the_stated_tolerances(path):
    records = key_figures.records(path)
    assert {"digits", "MNIST"} == {r["made_on"]["data"] for r in records}
    for data in ("digits", "MNIST"):
        first, *others = (r for r in records if r["made_on"]["data"] == data)
        assert others, "one kind only"
        for other in others:
            assert key_figures.differences(path, first, other) == []


@each_lesson
def test_each_figure_is_described_by_more_than_its_title(path, ran):
    assert sum(len(texts) for texts in ran["alt"].values()) >= 3
    for cell, texts in ran["alt"].items():
        for text in texts:
            panels = text.split("Panel ")[1:] or [text]
            for panel in panels:
                chart = (
                    "x axis: " in panel and "no label" not in panel and re.search(r": from \S+ to \S+, lowest", panel)
                )
                assert chart or len(panel.split("Picture: ")[-1]) > 40, f"{cell}: {panel}"


# The tests above, tested: on a lesson that claims too much.


def notebook(prose, check, **metadata):
    text = nbformat.v4.new_markdown_cell(prose, id="two-says", metadata=metadata)
    code = nbformat.v4.new_code_cell(check, id="two-check", metadata={"tags": ["check"]})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = [1, 2]", id="run"), text, code])


@pytest.mark.parametrize(
    ("prose", "check", "problem"),
    [
        ("2 is larger than 1.", "assert x[1] > x[0]", "quotes no sentence"),
        ("2 is larger than 1.", '# "2 is larger"\nassert x[1] > x[0]', "no check for 1 in"),
        ("2 is larger than 1.", '# "2 is smaller than 1"\nassert x[1] > x[0]', "is in no sentence"),
        (
            "2 is larger than 1. 1 is less.",
            '# "2 is larger than 1"\nassert x[1] > x[0]',
            "no check for 1 in: 1 is less.",
        ),
        ("It diverges.", "# Premise: there are two\nassert len(x) == 2", "no check for diverges"),
        ("2 is 2. 2 is 2.", '# "2 is 2"\nassert x[1] == 2', "more than one sentence"),
        ("2 is 2. 1 is 1.", '# "2 is 2" "1 is 1"\nassert x == [1, 2]', "one assertion for two claims"),
    ],
)
def test_a_claim_without_its_check_is_found(prose, check, problem):
    problems = claims(notebook(prose, check)).problems
    assert any(problem in p for p in problems), problems


@pytest.mark.parametrize(
    ("prose", "check"),
    [
        ("2 is larger than 1.", '# Check: said first.\n# "2 is larger than 1"\nassert x[1] > x[0]'),
        ("The second, 2, is not the first, and larger than 1.", '# "2, is … larger than\n# 1"\nassert x[1] > x[0]'),
        ("Lesson 03 was in 2015. Is it `x[1]`, 2?", "# Premise: there are two\nassert len(x) == 2"),
        ("- 2 is 2;\n- and `2 is 1`.", '# "2 is 2"\nassert x[1] == 2'),
    ],
)
def test_a_claim_with_its_check_is_none_to_mend(prose, check):
    assert claims(notebook(prose, check)).problems == []


def test_a_sentence_that_is_no_claim_says_why():
    prose, check = "2 is even.", "# Premise: there are two\nassert len(x) == 2"
    assert claims(notebook(prose, check, no_claim={"2 is even.": "a definition"})).problems == []
    assert "no reason" in claims(notebook(prose, check, no_claim={"2 is even.": ""})).problems[0]
    assert "is in no sentence" in claims(notebook(prose, check, no_claim={"3 is odd.": "a definition"})).problems[0]


def run_check(tmp_path, check):
    path = tmp_path / "two.ipynb"
    nbformat.write(notebook("2 is 2.", check), path)
    return Lesson(path).run()["checks"][0]


@pytest.mark.parametrize(
    ("assertion", "vacuous"),
    [
        ("x[1] > x[0]", []),
        ("0 < x[0] < x[1]", []),
        ("x[1] > x[0] or x[0] == 1", ["1: x[1] > x[0]", "2: x[0] == 1"]),
        ("all(v > 5 for v in x if v > 9)", ["2: v > 5"]),
        ("not any(v > 5 for v in [float('nan')])", []),
    ],
)
def test_a_comparison_that_decides_nothing_is_found(tmp_path, assertion, vacuous):
    check = run_check(tmp_path, f'# "2 is 2"\nassert {assertion}')
    (only,) = check["asserts"]
    assert check["red"] == [] and sorted(what for what, red in only["turned"].items() if not red) == vacuous


def test_every_assertion_is_seen_on_its_own(tmp_path):
    check = run_check(
        tmp_path, "assert x[1] < x[0]\nassert x == [1, 2]\nfor v in x[5:]:\n    assert v > 0\nassert x[7] > 0"
    )
    assert check["red"] == [1, 4, 5] and "IndexError" in check["error"]  # a loop that never ran has held nothing


def test_a_comparison_outside_an_assertion_is_turned_round_too(tmp_path):
    check = run_check(tmp_path, "large = [v for v in x if v > 1]\nsame = x == x\nassert large == [2]")
    red = {helper["what"]: helper["red"] for helper in check["helpers"]}
    assert red == {"as it is": [], "v > 1": [3], "x == x": []}


def test_a_changed_figure_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(key_figures, "EXPECTED", tmp_path)
    path = LESSONS[0]
    name, within = next((n, w) for n, w in key_figures.tolerances(path).items() if 0.01 < w < 0.5)
    kind = {"data": "digits", "cpu": "AVX2", "model": "Maker 1 2", "torch": "2.15.0", "platform": "Linux x86_64"}
    assert "no record on digits" in key_figures.compare(path, {"made_on": kind, "figures": {name: 1.0}})[0]
    key_figures.record(path, {"made_on": kind, "figures": {name: 1.0}})
    assert key_figures.compare(path, {"made_on": kind, "figures": {name: 1.0}}) == []
    (line,) = key_figures.compare(path, {"made_on": kind, "figures": {name: 1.0 + 1e-15}})
    assert f"{path.stem}, {name}: was 1.0, is 1.00000000000000" in line and "to the bit" in line
    other = kind | {"cpu": "AVX512"}
    for another in (other, kind | {"model": "Maker 1 3"}):
        assert key_figures.compare(path, {"made_on": another, "figures": {name: 1 + within / 2}}) == []
        assert "within" in key_figures.compare(path, {"made_on": another, "figures": {name: 1 + 2 * within}})[0]
    assert "is not there" in key_figures.compare(path, {"made_on": other, "figures": {}})[0]
