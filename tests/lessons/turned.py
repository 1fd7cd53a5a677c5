"""An assertion recorded instead of raised, and beside it the same with one comparison turned round.

`<` becomes its opposite, a call such as `np.allclose` or `any` is negated. An assertion that still holds proves nothing.
"""

from __future__ import annotations

import ast
import warnings

RECORD = "__record__"  # the name by which a check's code calls the recorder
YES_OR_NO = {"isclose", "allclose", "array_equal", "equal", "all", "any", "startswith", "endswith", "issubset"}


class Recorder:
    """What each assertion of one cell came to: `held` by line, `turned` by line and comparison; True if it ever failed."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.held, self.turned, self.error = {}, {}, None

    def __call__(self, line, test, variants):
        try:
            holds = bool(test())
        except Exception as error:
            holds, self.error = False, f"line {line}: {type(error).__name__}: {error}"
        self.held[line] = self.held.get(line, True) and holds
        for what, variant in variants:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    fails = not variant()
                except Exception:
                    fails = True
            before = self.turned.setdefault(line, {}).get(what, False)
            self.turned[line][what] = before or fails

    @staticmethod
    def opposite(value):
        """Not `value`; for an array or a tensor, element by element (so that NaN < 1, which is false, becomes true)."""
        if hasattr(value, "shape") and getattr(value, "ndim", 0):
            return ~value
        return not value


class Watcher(ast.NodeTransformer):
    """Turns `assert test` into a call of the recorder with the test and its variants."""

    def __init__(self, turn):
        self.turn, self.lines = turn, []

    def visit_Assert(self, node):
        self.lines.append(node.lineno)
        variants = []
        text = ast.unparse(node.test)
        for i, (what, _) in enumerate(comparisons(ast.parse(text, mode="eval"))) if self.turn else []:
            test = ast.parse(text, mode="eval")
            turned = comparisons(test)[i][1]
            pair = [ast.Constant(f"{i + 1}: {what}"), function(Replacer(turned, opposite(turned)).visit(test).body)]
            variants.append(ast.Tuple(pair, ast.Load()))
        arguments = [ast.Constant(node.lineno), function(node.test), ast.List(variants, ast.Load())]
        call = ast.Call(ast.Name(RECORD, ast.Load()), arguments, [])
        return ast.copy_location(ast.Expr(call), node)


class Replacer(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else super().generic_visit(node)


def comparisons(tree):
    """What can be turned round in an ast.Expression: `(as text, node)`. Splits a < b < c in two on the way."""
    found = []
    split(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) or (isinstance(node, ast.Call) and called(node) in YES_OR_NO):
            found.append((ast.unparse(node), node))
    return found


def split(tree):
    """Make a < b < c, anywhere below, the conjunction of a < b and b < c, so that each can be turned round alone."""
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            for i, item in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(item, ast.Compare) and len(item.ops) > 1:
                    sides = [item.left, *item.comparators]
                    pairs = [
                        ast.Compare(sides[k], [op], [ast.parse(ast.unparse(sides[k + 1]), mode="eval").body])
                        for k, op in enumerate(item.ops)
                    ]
                    new = ast.BoolOp(ast.And(), pairs)
                    if isinstance(value, list):
                        value[i] = new
                    else:
                        setattr(node, name, new)


def called(node):
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def helpers(tree):
    """The comparisons of a cell that stand outside its assertions."""
    inside = {id(n) for a in ast.walk(tree) if isinstance(a, ast.Assert) for n in ast.walk(a)}
    return [n for n in ast.walk(tree) if isinstance(n, ast.Compare) and id(n) not in inside]


def opposite(node):
    return ast.Call(ast.Attribute(ast.Name(RECORD, ast.Load()), "opposite", ast.Load()), [node], [])


def function(body):
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    return ast.Lambda(nothing, body)
