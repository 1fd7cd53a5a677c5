"""The line under a folded check: "✓ 6 claims of this section hold here", or the sentences that did not hold.

A check is a cell that begins with `# @title Check:`. In it a comment that quotes the prose stands above the assertions
that back it. A claim is a quote; it holds if each of its assertions ran and held. `import lrtut` in a notebook has
every assertion tried, so that none hides another: a claim that fails is named, and stops nobody. With
LRTUT_CLAIMS=strict in the environment, as in tests and in `lrtut run`, it is an error.

Other cells and other errors are left alone, and nothing is kept from one cell for the next.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import sys
from collections.abc import Iterator

TITLE = "# @title Check:"


class Checks(ast.NodeTransformer):
    """What IPython calls before it runs a cell, with the cell's syntax tree, and after it ran."""

    def __init__(self) -> None:
        self.source = ""  # of the check that is running
        self.claims: dict[int, str] = {}  # of each assertion, by its line
        self.held: dict[int, bool] = {}  # those that ran

    def before(self, info) -> None:
        self.source = info.raw_cell if info.raw_cell.startswith(TITLE) else ""
        self.claims, self.held = {}, {}

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        """`assert …` becomes `with counted(line): assert …`."""
        if not self.source:
            return node
        self.claims[node.lineno] = quote_above(self.source, node.lineno) or f"`assert {ast.unparse(node.test)}`"
        counted = ast.parse(f"with __import__('lrtut.claims').claims.CHECKS.counted({node.lineno}): pass").body[0]
        counted.body = [node]
        return ast.copy_location(counted, node)

    @contextlib.contextmanager
    def counted(self, line: int) -> Iterator[None]:
        try:
            yield
            self.held.setdefault(line, True)
        except AssertionError:
            self.held[line] = False
            # A function that a check defines may assert in a later cell, which is no check.
            if line not in self.claims or os.environ.get("LRTUT_CLAIMS") == "strict":
                raise

    def after(self, result) -> None:
        claims = dict.fromkeys(self.claims.values())
        failed = {self.claims[line] for line, held in self.held.items() if not held and line in self.claims}
        missed = {claim for line, claim in self.claims.items() if line not in self.held} - failed
        self.source = ""
        lines = [f"✗ did not hold here: «{claim}»" for claim in claims if claim in failed]
        if not result.error_in_exec:  # which has said already where the check ended
            lines += [f"✗ was not checked here: «{claim}»" for claim in claims if claim in missed]
            holding = sum(not claim.startswith("`assert ") for claim in claims.keys() - failed - missed)
            some = f"{holding} claims of this section hold" if holding > 1 else "1 claim of this section holds"
            lines += [f"✓ {some} here"] * (holding > 0)
        if lines:
            from IPython.display import display

            # Markdown: a quote may hold a formula. Its lines end in two blanks, so that they stay lines.
            display({"text/plain": "\n".join(lines), "text/markdown": "  \n".join(lines)}, raw=True)


CHECKS = Checks()


def quote_above(source: str, line: int) -> str:
    """The first quote of the nearest comment above `line` that begins with one; "" if there is none."""
    above = "\n".join(source.splitlines()[: line - 1])
    quotes = re.findall(r'^ *# (?:"([^"]+)"|Premise: )', above, re.M)  # "" for a premise
    return re.sub(r"\s+(# )?", " ", quotes[-1]) if quotes else ""


def register() -> None:
    """Have the checks of this notebook counted; nothing outside IPython."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or any(type(one).__name__ == "Checks" for one in shell.ast_transformers):
        return
    shell.events.register("pre_run_cell", CHECKS.before)
    shell.ast_transformers.append(CHECKS)
    shell.events.register("post_run_cell", CHECKS.after)
