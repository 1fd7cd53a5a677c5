"""A folded check says how many claims hold, or which do not, and the notebook goes on."""

import nbclient
from nbformat.v4 import new_code_cell, new_notebook

CHECK = """\
# @title Check: four claims by six assertions, and one assertion that backs no claim
def larger(a, b):
    # "A function may ask"
    assert a > b
# "$x_1$ is
# larger" "the second is larger"
assert x[1] > x[0]
assert x[1] >= x[0]
for value in x:
    # "each is positive"
    assert value > 0, value
larger(2, 1)
# "their sum is three"
assert sum(x) == 3
# Premise: there are two
assert len(x) == 2"""
FALSE = CHECK.replace("x[1] >=", "x[1] <").replace("value > 0", "value > 1").replace("len(x) == 2", "len(x) == 5")
UNCHECKED = CHECK.replace("for value in x:", "for value in x[2:]:").replace("larger(2, 1)", "pass")
EARLY = CHECK.replace("x[1] >=", "x[1] <").replace("for value in x", "for value in never_defined")

SAYS = {
    CHECK: "✓ 4 claims of this section hold here",
    FALSE: "✗ did not hold here: «$x_1$ is larger»\n✗ did not hold here: «each is positive»\n"
    "✗ did not hold here: «`assert len(x) == 5`»\n✓ 2 claims of this section hold here",
    UNCHECKED: "✗ was not checked here: «A function may ask»\n✗ was not checked here: «each is positive»\n"
    "✓ 2 claims of this section hold here",
    EARLY: "NameError: name 'never_defined' is not defined\n✗ did not hold here: «$x_1$ is larger»",
    "# A cell like any other\nassert sum(x) == 4, 'not four'": "AssertionError: not four",
    "larger(1, 2)  # which asserts": "AssertionError: ",
    "sum(x)": "3",
}


def test_a_reader_sees_every_claim_that_does_not_hold_and_goes_on(monkeypatch):
    monkeypatch.delenv("LRTUT_CLAIMS")
    notebook = new_notebook(cells=list(map(new_code_cell, ["import lrtut\nx = [1, 2]", *SAYS])))
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
    for cell, says in zip(notebook.cells[1:], SAYS.values(), strict=True):
        texts = [f"{o.ename}: {o.evalue}" if o.output_type == "error" else o.data["text/plain"] for o in cell.outputs]
        assert "\n".join(texts) == says
