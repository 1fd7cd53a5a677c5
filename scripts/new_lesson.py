"""Make a new lesson: `uv run nox -s new -- "Title of the lesson"`.

It has the setup cell of the others, one section that runs and passes the tests, and one planted mistake: replace words,
code and mistake. The lesson before links to it, and the README's table has its row.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).parents[1]
FOLDED = {"tags": ["check", "hide-input"], "jupyter": {"source_hidden": True}, "cellView": "form"}
HEAD = "After this lesson you can\n\n- do this;\n- do that;\n- say why.\n\n**Time:** 10 minutes to read."
QUESTION = "## The question\n\n**Predict before you run.** Does `mlp` learn anything in one epoch at the rate 0.1?"
RUN = """data = lrtut.load_mnist(train_size=2560)
model = lrtut.mlp(seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
history = lrtut.train(model, optimizer, data, epochs=1, seed=0)"""
CHECK = """# @title Check: what the network learned in one epoch
# "the loss ends below 2.3, the loss of guessing"
assert history.loss[-1] < 2.3 and round(np.log(10), 1) == 2.3"""
MISTAKE = '- {name: hardly any rate, cell: first-run, old: "lr=0.1", new: "lr=1e-5"}\n'
REMEMBER = "## Remember\n\n- Keep this.\n- It follows.\n- Here it ends.\n\n"
REMEMBER += "## Exercises\n\n1. Try this.\n\n## Sources\n\n- Author, A. (year). *Title*."


def main(title: str) -> None:
    last = max((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    number = f"{int(last.name[:2]) + 1:02}"
    path = last.with_name(f"{number}_{re.sub('[^a-z0-9]+', '_', title.lower()).strip('_')}.ipynb")
    notebook = nbformat.read(last, as_version=4)
    head, setup, *_, tail = notebook.cells
    badges = [line.replace(last.name, path.name) for line in head.source.splitlines() if line.startswith("[![")]
    before, following = tail.source.split("**Next:** ")
    tail.source = f"{before}**Next:** [{number} · {title}]({path.name})"
    nbformat.write(notebook, last)
    notebook.cells = [
        new_markdown_cell("\n".join([f"# {number} · {title}\n", *badges, f"\n{HEAD}"]), id="title"),
        setup,
        new_markdown_cell(QUESTION, id="first-question"),
        new_code_cell(RUN, id="first-run"),
        new_code_cell('ax = lrtut.plot_loss(history, title="An epoch at the rate 0.1")', id="first-figure"),
        new_markdown_cell("It does: the loss ends below 2.3, the loss of guessing.", id="first-says"),
        new_code_cell(CHECK, id="first-check", metadata=FOLDED),
        new_markdown_cell(f"{REMEMBER}\n\n**Next:** {following}", id="remember"),
    ]
    nbformat.write(notebook, path)
    (ROOT / "tests" / "lessons" / "planted" / f"{path.stem}.yaml").write_text(MISTAKE, encoding="utf-8")
    readme = ROOT / "README.md"
    row = re.search(rf".*\(notebooks/{last.name}\).*\n", page := readme.read_text(encoding="utf-8"))[0]
    new = f"| {number} | [{title}](notebooks/{path.name}) |{' |' * (row.count('|') - 3)}\n"
    readme.write_text(page.replace(row, row + new), encoding="utf-8")
    print(f"notebooks/{path.name}, and its row in README.md")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.search("[A-Za-z]", sys.argv[1]):
        sys.exit('usage: nox -s new -- "Title of the lesson"')
    main(sys.argv[1])
