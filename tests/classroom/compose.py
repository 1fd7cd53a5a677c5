"""Answers to the exercises, right and wrong (tests/classroom/answers/*.yaml), and submissions composed of them."""

import ast
from pathlib import Path

import yaml

ANSWERS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "answers").glob("*.yaml"))
}


def compositions(assignment):
    """{name: {task: (answer's name, code, is it right?)}}: the k-th holds the k-th answer of every task that has so many."""
    made = {}
    for kind in ("wrong", "right"):
        for k in range(max(len(answers[kind]) for answers in ANSWERS[assignment].values())):
            made[f"{kind}-{k}"] = {
                task: (*list(answers[kind].items())[k], kind == "right")
                for task, answers in ANSWERS[assignment].items()
                if k < len(answers[kind])
            }
    return made


def forgetful(source):
    """{task: (answer's name, code, False)}: the solutions of this source notebook, without a single `return`."""
    made = {}
    for cell in source.cells:
        task = cell.id.removesuffix("-answer")
        if cell.cell_type == "code" and task != cell.id:
            code = ast.unparse(_NoReturn().visit(ast.parse(cell.source)))
            if code != ast.unparse(ast.parse(cell.source)):
                made[task] = ("the return forgotten", code, False)
    return made


class _NoReturn(ast.NodeTransformer):
    def visit_Return(self, node):
        return ast.copy_location(ast.Expr(node.value), node)
