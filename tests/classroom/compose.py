"""Answers to the exercises, right and wrong (answers/*.yaml), and submissions composed of them.

An answer is code, or replacements {old: new} in the source's solution.
"""

import ast
from itertools import zip_longest
from pathlib import Path

import yaml

ANSWERS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "answers").glob("*.yaml"))
}


def compositions(assignment, source):
    """Yield {task: (answer's name, code, is it right?)}: the k-th holds the k-th answer of each task that has one."""
    solutions = {cell.id.removesuffix("-answer"): cell.source for cell in source.cells}
    for kind in ("wrong", "right"):
        per_task = [
            [(task, (name, _code(answer, solutions[task]), kind == "right")) for name, answer in answers[kind].items()]
            for task, answers in ANSWERS[assignment].items()
        ]
        for together in zip_longest(*per_task):
            yield dict(filter(None, together))


def _code(answer, code):
    if isinstance(answer, str):
        return answer
    for old, new in answer.items():
        assert old in code, f"the solution has no {old!r}"
        code = code.replace(old, new)
    return code


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
