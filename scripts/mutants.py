"""Plant small faults in lrtut, one at a time, and see which of them the unit tests catch.

    uv run --group mutation python scripts/mutants.py [MODULE …] [--sample N] [--survivors]

The faults are those of Cosmic Ray's operators (`+` becomes `-`, `<` becomes `<=`, 3 becomes 4, a loop runs no time …), and
one more, a statement left out. The running is our own: Cosmic Ray starts a process a mutant, which spends seconds on
importing torch; mutmut forks, but leaves decorated functions out, and with them every context manager. Here each mutant
is a fork of a process that has imported torch, in a copy of the checkout, and is shown to the tests that reach the
changed line, the quickest first. Not mutated: docstrings, type annotations, and the arguments of an exception or a
warning (their wording).

Prints the survivors and the score, and keeps all in build/mutants/. tests/mutation_survivors.toml has the reason for
each survivor; exit status 1 if one has none, or a score is below the goal.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOAL = 0.90
LEFT_OUT = [
    "tests/package/test_sweep.py::test_same_to_the_bit_whatever_the_executor"
]  # its processes import torch anew
MEMORY = 6 << 30  # bytes of data a mutant may take
# Each module, and the tests that are its own.
TESTS = {
    "schedules": ["test_schedules.py"],
    "range_test": ["test_range_test.py", "test_models_that_go_wrong.py"],
    "rules": ["test_range_test.py"],
    "group_rates": ["test_range_test.py"],
    "snapshot": ["test_snapshot.py", "test_range_test.py"],
    "training": ["test_training.py", "test_models_that_go_wrong.py"],
    "sweep": ["test_sweep.py"],
    "data": ["test_data.py"],
    "forward": ["test_models_that_go_wrong.py", "test_training.py", "test_range_test.py"],
    "checks": ["test_models_that_go_wrong.py", "test_data.py", "test_range_test.py"],
}
# Imported once, before the forks.
WARM = (
    "torch torch.optim.swa_utils torch.utils.data matplotlib.pyplot tqdm.auto ipywidgets sklearn.datasets loky psutil "
    "IPython.display nbclient nbconvert nbmake.pytest_items hypothesis.strategies hypothesis.extra.numpy pytest pytest_cov.plugin"
).split()


@dataclass(frozen=True)
class Mutant:
    """One fault: the operator, the line it stands in, that line before and after, and the whole mutated source."""

    operator: str
    line: int
    was: str
    became: str
    source: str


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module's source that differs in what it computes, in the order of its lines."""
    plain = _meaning(source)
    seen, found = {plain}, []
    for operator, mutated in [*_by_cosmic_ray(source), *_statements_left_out(source)]:
        try:
            meaning = _meaning(mutated)
        except SyntaxError:
            continue
        if meaning in seen:
            continue
        seen.add(meaning)
        line, was, became = _difference(source, mutated)
        found.append(Mutant(operator, line, was, became, mutated))
    return sorted(found, key=lambda mutant: mutant.line)


def _by_cosmic_ray(source: str):
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast(source)
    for name in operator_names():
        short = name.rpartition("/")[2]
        if short.startswith("Variable"):  # need to be told which
            continue
        operator = get_operator(name)()
        count = sum(1 for node in ast_nodes(tree) for _ in operator.mutation_positions(node))
        for i in range(count):
            yield short, mutate_code(source, operator, i)


def _statements_left_out(source: str):
    """A call whose value nobody takes, or an assignment to an attribute or an item, becomes `pass`."""
    lines = source.encode().splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        stores = isinstance(node, ast.Assign | ast.AugAssign) and isinstance(target, ast.Attribute | ast.Subscript)
        if call or stores or isinstance(node, ast.Raise):
            start, end = node.lineno - 1, node.end_lineno - 1
            text = lines[start][: node.col_offset] + b"pass" + lines[end][node.end_col_offset :]
            yield "LeaveOutStatement", b"".join([*lines[:start], text, *lines[end + 1 :]]).decode()


class _Wordless(ast.NodeTransformer):
    """Takes out what is not mutated."""

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_arguments(self, node):  # Cosmic Ray takes the * and the / between parameters for operators
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.defaults = [*node.defaults, *(default for default in node.kw_defaults if default is not None)]
        node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_Raise(self, node):
        if isinstance(node.exc, ast.Call):
            node.exc.args = []
        return self.generic_visit(node)

    def visit_Call(self, node):
        if ast.unparse(node.func) == "warnings.warn":
            node.args[:1] = []
        return self.generic_visit(node)


def _meaning(source: str) -> str:
    return ast.dump(_Wordless().visit(ast.parse(source)))


def _difference(before: str, after: str) -> tuple[int, str, str]:
    a, b = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    _, start, stop, first, last = next(code for code in matcher.get_opcodes() if code[0] != "equal")
    return start + 1, "\n".join(s.strip() for s in a[start:stop]), "\n".join(s.strip() for s in b[first:last])


class Picked:
    """A pytest plugin: run only these tests, in this order; note how long each took."""

    def __init__(self, order: list[str] | None = None):
        self.order, self.seconds = order, {}

    def pytest_collection_modifyitems(self, config, items):
        if self.order is not None:
            place = {name: i for i, name in enumerate(self.order)}
            items[:] = sorted((i for i in items if i.nodeid in place), key=lambda item: place[item.nodeid])

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


class Place:
    """A copy of the checkout to put mutants in, and the child process that tests one there."""

    def __init__(self, folder: Path):
        self.folder = folder
        files = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in files.stdout.splitlines():
            if (ROOT / name).is_file() and not name.endswith(".ipynb"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def put(self, module: str, source: str) -> None:
        (self.folder / "lrtut" / f"{module}.py").write_text(source, encoding="utf-8")

    def fork(self, arguments: list[str], order: list[str] | None) -> int:
        """Start pytest in a child process of a group of its own, and return its id."""
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            os.chdir(self.folder)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ |= {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "PWD": str(self.folder)}
            sys.path.insert(0, str(self.folder))
            status = self._test(arguments, order)
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _test(self, arguments: list[str], order: list[str] | None) -> int:
        import hypothesis
        import pytest

        sys.dont_write_bytecode = order is not None  # a mutant may have the time and size of another
        hypothesis.settings.register_profile("mutants", max_examples=20, derandomize=True, database=None, deadline=None)
        hypothesis.settings.load_profile("mutants")
        picked = Picked(order)
        options = "-x -q -n 0 --tb=line -p no:nbmake -p no:anyio -p no:cacheprovider -o addopts= --hypothesis-profile=mutants".split()
        left_out = [f"--deselect={name}" for name in LEFT_OUT]
        status = pytest.main([*options, "-m", "not slow", *left_out, *arguments], plugins=[picked])
        if order is None:
            Path("seconds.json").write_text(json.dumps(picked.seconds))
        return int(status)


def wait(pid: int, timeout: float) -> int | None:
    """The exit status of a child, or None if it is still running after `timeout` seconds; then it is ended.

    The seconds are counted by looks, so that a machine that is suspended, or a run that is stopped and goes on later,
    takes no mutant for one that hangs.
    """
    tick = 0.02
    for _ in range(math.ceil(timeout / tick)):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            end_group(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(tick)
    end_group(pid)
    os.waitpid(pid, 0)
    return None


def end_group(pid: int) -> None:
    """End what a child has left running."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def who_reaches(place: Place, module: str) -> tuple[dict[int, list[str]], dict[str, float]]:
    """For each line of the unchanged module the tests that run it, and each test's seconds."""
    import coverage

    data = place.folder / ".coverage"
    data.unlink(missing_ok=True)
    files = [f"tests/{name}" for name in TESTS[module]]
    options = ["--cov=lrtut", "--cov-context=test", "--cov-report=", "--no-cov-on-fail", "--cov-fail-under=0"]
    status = wait(place.fork([*options, *files], None), 1200)
    if status != 0:
        raise SystemExit(f"the unchanged {module} fails its tests:\n{(place.folder / 'log.txt').read_text()[-3000:]}")
    found = coverage.CoverageData(str(data))
    found.read()
    path = str(place.folder / "lrtut" / f"{module}.py")
    reached = {
        line: sorted({context.partition("|")[0] for context in contexts if context})
        for line, contexts in found.contexts_by_lineno(path).items()
        if "" not in contexts or any(contexts)
    }
    return reached, json.loads((place.folder / "seconds.json").read_text())


def run(module: str, place: Place, sample: int | None, seed: int, only: set[tuple[str, str]] | None) -> Iterator[dict]:
    """Test a module's mutants one after the other: a record for each."""
    path = ROOT / "lrtut" / f"{module}.py"
    source = path.read_text(encoding="utf-8")
    reached, seconds = who_reaches(place, module)
    todo = mutants_of(source)
    total = len(todo)
    if only is not None:
        todo = [mutant for mutant in todo if (mutant.was, mutant.became) in only]
    elif sample is not None and sample < total:
        todo = sorted(random.Random(f"{module} {seed}").sample(todo, sample), key=lambda mutant: mutant.line)
    print(
        f"{module}: {len(todo)} of {total} mutants, {len(seconds)} tests that take {sum(seconds.values()):.0f} s",
        flush=True,
    )
    imported = _lines_run_at_import(source)
    for mutant in todo:
        lines = range(mutant.line, mutant.line + mutant.was.count("\n") + 1)
        chosen = {test for line in lines for test in reached.get(line, [])}
        if not chosen or imported.intersection(lines):
            chosen = set(seconds)
        order = sorted(chosen, key=lambda test: seconds.get(test, 0.0))
        began = time.monotonic()
        place.put(module, mutant.source)
        pid = place.fork([f"tests/{name}" for name in TESTS[module]], order)
        status = wait(pid, 20 + 5 * sum(seconds.get(test, 0.0) for test in chosen))
        outcome = {None: "timeout", 0: "survived"}.get(status, "killed")
        record = {name: getattr(mutant, name) for name in ("operator", "line", "was", "became")}
        record |= {"outcome": outcome, "tests": len(order), "seconds": round(time.monotonic() - began, 2)}
        if outcome == "survived":
            place_of = f"{module}.py:{mutant.line} {mutant.operator}"
            print(f"  survived: {place_of}\n    - {mutant.was}\n    + {mutant.became}", flush=True)
        yield record
    place.put(module, source)


def _lines_run_at_import(source: str) -> set[int]:
    """Lines outside every function: their tests are all of them. So are those of a function's default values."""
    tree = ast.parse(source)
    inside = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.Lambda)
        for line in range((node.body[0] if isinstance(node.body, list) else node.body).lineno, node.end_lineno + 1)
    }
    return set(range(1, len(source.splitlines()) + 1)) - inside


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}; all by default")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants a module, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--survivors", action="store_true", help="only those that survived the last time")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.modules) - set(TESTS):
        parser.error(f"no module {', '.join(sorted(unknown))}: give some of {', '.join(TESTS)}.")
    os.environ |= {"LRTUT_DATA": "digits", "MPLBACKEND": "agg"}
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    for name in WARM:
        __import__(name)
    gc.collect()
    gc.freeze()  # pytest collects garbage a few times: half of a mutant's time, if all this were looked through
    kept = ROOT / "build" / "mutants"
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lrtut-mutants-") as folder:
        place = Place(Path(folder).resolve())
        for module in arguments.modules or TESTS:
            record = kept / f"{module}.json"
            before = json.loads(record.read_text()) if arguments.survivors and record.exists() else []
            only = {(r["was"], r["became"]) for r in before if r["outcome"] == "survived"}
            records = [r for r in before if r["outcome"] != "survived"]
            for new in run(module, place, arguments.sample, arguments.seed, only if before else None):
                records.append(new)
                record.write_text(json.dumps(sorted(records, key=lambda r: r["line"]), indent=1))
    return report({m: json.loads((kept / f"{m}.json").read_text()) for m in arguments.modules or TESTS})


def report(results: dict[str, list[dict]]) -> int:
    """Print the table; 0 if every score reaches the goal and every survivor has a reason, else 1."""
    reasons = tomllib.loads((ROOT / "tests" / "mutation_survivors.toml").read_text(encoding="utf-8"))
    known = {
        (module, entry["was"], became): entry["reason"]
        for module, entries in reasons.items()
        for entry in entries
        for became in entry["became"]
    }
    fine = True
    print(f"\n{'module':<12} mutants  killed  survived  no reason  score")
    for module, records in results.items():
        survived = [r for r in records if r["outcome"] == "survived"]
        silent = [r for r in survived if (module, r["was"], r["became"]) not in known]
        killed = len(records) - len(survived)
        score = killed / max(len(records), 1)
        fine &= score >= GOAL and not silent
        print(f"{module:<12} {len(records):>7}  {killed:>6}  {len(survived):>8}  {len(silent):>9}  {score:6.1%}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
