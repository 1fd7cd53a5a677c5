"""The classic mistakes with a learning rate, planted in copies of the lessons one at a time: is a check red each time?

python tests/lessons/planted.py            all of them, on the digits, as a table
python tests/lessons/planted.py 02 03      those of some lessons
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lessons import ROOT, Lesson, deterministic, in_a_process
from nbformat import NotebookNode

from lrtut.cli import find_lessons

SHUFFLED = """
import dataclasses
data = dataclasses.replace(data, y_train=data.y_train[torch.randperm(len(data.y_train))])
"""
LEFT_OUT = "scheduler step left out"
PER_BATCH = "stepped per batch instead of per epoch"
TOO_EARLY = "scheduler before the optimizer"
INVERTED = "gamma inverted"
IGNORED = "gamma ignored"
TEN_TIMES = "rate ten times too large"
OTHER = "another optimizer's scheduler"
WRONG_GROUP = "wrong param group"
LABELS = "labels shuffled"


@dataclass(frozen=True)
class Mistake:
    """In `cell` of lesson `lesson`, `old` (which stands there exactly once) becomes `new`."""

    lesson: str
    name: str
    cell: str
    old: str
    new: str

    def __str__(self):
        return f"{self.lesson} {self.name}, in {self.cell}"


def shuffled(lesson, cell, load):
    return Mistake(lesson, LABELS, cell, load, load + SHUFFLED)


STEP_02 = '        rates_step.append(optimizer.param_groups[0]["lr"])\n    scheduler.step()'
STEP_03 = "    train(model, optimizer, epoch, log_interval)\n    scheduler.step()"
STEP_04 = "        optimizer.step()\n    scheduler.step()"
BATCH_LOOP = "    for x, y in batches:\n"

MISTAKES = [
    Mistake("01", TEN_TIMES, "quadratic-run", "SGD([w], lr=lr", "SGD([w], lr=10 * lr"),
    Mistake("01", TEN_TIMES, "valley-run", "lr=lr)", "lr=10 * lr)"),
    Mistake("01", TEN_TIMES, "loop-run", "lr=0.1)", "lr=1.0)"),
    Mistake("01", TEN_TIMES, "sweep-run", "lr=lr)", "lr=10 * lr)"),
    Mistake("01", "rate ignored", "sweep-run", "lr=lr)", "lr=0.1)"),
    Mistake("01", "rate not raised while it trains", "growth-run", '["lr"] = lr\n', '["lr"] = 1e-4\n'),
    Mistake("01", WRONG_GROUP, "growth-run", 'param_groups[0]["lr"] = lr', 'add_param_group({"params": [], "lr": lr})'),
    shuffled("01", "mnist-data", "data = lrtut.load_mnist(train_size=2560)\n"),
    Mistake("02", LEFT_OUT, "by-hand-run", '["lr"] *= 0.3', '["lr"] *= 1.0'),
    Mistake(
        "02", PER_BATCH, "by-hand-run", "    if epoch % 3 == 0:\n    ", "        if len(rates) % 3 == 0:\n        "
    ),
    Mistake("02", INVERTED, "by-hand-run", "*= 0.3", "/= 0.3"),
    Mistake("02", TEN_TIMES, "baseline-run", "LR = 10, 64, 0.1", "LR = 10, 64, 1.0"),
    shuffled("02", "baseline-run", "data = lrtut.load_mnist(train_size=2560)\n"),
    Mistake("02", LEFT_OUT, "steplr-plan", "        scheduler.step()\n", ""),
    Mistake("02", INVERTED, "steplr-plan", "step_size=3, gamma=0.3", "step_size=3, gamma=1 / 0.3"),
    Mistake("02", IGNORED, "steplr-plan", "step_size=3, gamma=0.3", "step_size=3"),
    Mistake("02", LEFT_OUT, "train-run", STEP_02, STEP_02.replace("    scheduler.step()", "")),
    Mistake("02", PER_BATCH, "train-run", STEP_02, STEP_02.replace("    scheduler", "        scheduler")),
    Mistake("02", TOO_EARLY, "train-run", BATCH_LOOP, "    scheduler.step()\n" + BATCH_LOOP),
    Mistake("02", OTHER, "train-run", "StepLR(optimizer,", "StepLR(fresh(seed=0)[1],"),
    Mistake("02", IGNORED, "train-run", ", gamma=0.3", ""),
    Mistake("02", LEFT_OUT, "train-figure", "scheduler=scheduler, ", ""),
    Mistake("02", PER_BATCH, "train-figure", "scheduler=scheduler, ", 'scheduler=scheduler, scheduler_step="batch", '),
    Mistake("02", LEFT_OUT, "compare-define", "make_scheduler(optimizer))", "None)"),
    Mistake(
        "02", PER_BATCH, "compare-define", "_scheduler(optimizer))", '_scheduler(optimizer), scheduler_step="batch")'
    ),
    Mistake("02", TEN_TIMES, "compare-define", "lr=lr,", "lr=10 * lr,"),
    Mistake("02", IGNORED, "early-run", "gamma=0.05", "gamma=1.0"),
    Mistake("03", TEN_TIMES, "adam-run", "lr=0.001)", "lr=0.01)"),
    shuffled("03", "adam-run", "data = lrtut.load_mnist(train_size=2560)\n"),
    Mistake("03", LEFT_OUT, "program-run", STEP_03, STEP_03.replace("    scheduler.step()", "")),
    Mistake(
        "03",
        PER_BATCH,
        "program-run",
        "        optimizer.step()\n",
        "        optimizer.step()\n        scheduler.step()\n",
    ),
    Mistake("03", TOO_EARLY, "program-run", STEP_03, "    scheduler.step()\n" + STEP_03.rsplit("\n", 1)[0]),
    Mistake("03", INVERTED, "program-run", "gamma=0.1", "gamma=1 / 0.1"),
    Mistake("03", IGNORED, "program-run", "gamma=0.1", "gamma=1.0"),
    Mistake("03", TEN_TIMES, "program-run", "lr=0.001", "lr=0.01"),
    Mistake(
        "03", OTHER, "program-run", "ExponentialLR(optimizer,", "ExponentialLR(torch.optim.Adam(model.parameters()),"
    ),
    Mistake("03", LEFT_OUT, "frozen-run", "scheduler=scheduler, ", ""),
    Mistake("03", INVERTED, "frozen-run", "ExponentialLR(optimizer, gamma)", "ExponentialLR(optimizer, 1 / gamma)"),
    Mistake("03", "gamma per epoch used per batch", "per-batch-run", "0.5 ** (1 / steps)", "0.5"),
    Mistake("03", LEFT_OUT, "compare-run", "scheduler=scheduler, ", ""),
    Mistake("03", PER_BATCH, "compare-run", "scheduler=scheduler, ", 'scheduler=scheduler, scheduler_step="batch", '),
    Mistake("03", INVERTED, "compare-run", "ExponentialLR(optimizer, gamma)", "ExponentialLR(optimizer, 1 / gamma)"),
    Mistake("03", IGNORED, "compare-run", "ExponentialLR(optimizer, gamma)", "ExponentialLR(optimizer, 1.0)"),
    Mistake("03", TEN_TIMES, "compare-run", "lr=start)", "lr=10 * start)"),
    Mistake("04", LEFT_OUT, "record-run", STEP_04, STEP_04.replace("    scheduler.step()", "").rstrip()),
    Mistake("04", PER_BATCH, "record-run", STEP_04, STEP_04.replace("    scheduler", "        scheduler")),
    Mistake("04", TOO_EARLY, "record-run", BATCH_LOOP, "    scheduler.step()\n" + BATCH_LOOP),
    Mistake("04", INVERTED, "record-run", "gamma=0.5", "gamma=1 / 0.5"),
    Mistake("04", IGNORED, "record-run", "gamma=0.5", "gamma=1.0"),
    Mistake("04", TEN_TIMES, "record-run", "lr=0.1,", "lr=1.0,"),
    Mistake("04", TOO_EARLY, "first-run", "            if not scheduler_first:", "            if scheduler_first:"),
    Mistake("04", WRONG_GROUP, "groups-run", '"lr": 0.02}, {"params": head', '"lr": 0.2}, {"params": head'),
    Mistake("04", LEFT_OUT, "groups-run", "scheduler=scheduler, ", ""),
    Mistake("04", IGNORED, "groups-run", "gamma=0.7", "gamma=1.0"),
    Mistake("04", WRONG_GROUP, "functions-run", "lambda t: 1.0, lambda t: 0.9**t", "lambda t: 0.9**t, lambda t: 1.0"),
    Mistake("04", WRONG_GROUP, "late-run", "rates[1] for rates", "rates[0] for rates"),
    Mistake("04", LEFT_OUT, "late-define", "scheduler.step()\n", "None\n"),
    Mistake("04", LEFT_OUT, "checkpoint-run", "scheduler=scheduler, ", ""),
    Mistake("05", "rate not raised while it trains", "hand-run", '["lr"] = lr  #', '["lr"] = 1e-6  #'),
    Mistake(
        "05",
        "rate raised per epoch instead of per batch",
        "hand-run",
        '["lr"] = lr',
        '["lr"] = lrs[len(losses) // 20 * 20]',
    ),
    Mistake("05", TEN_TIMES, "hand-run", '["lr"] = lr', '["lr"] = 10 * lr'),
    shuffled("05", "hand-run", "data = lrtut.load_mnist(train_size=2560)\n"),
    Mistake("05", TEN_TIMES, "proof-run", "untrained(seed, lr)", "untrained(seed, 10 * lr)"),
    Mistake("05", "rate ignored", "proof-run", "untrained(seed, lr)", "untrained(seed)"),
    Mistake("05", LEFT_OUT, "recipe-run", "scheduler=scheduler, ", ""),
    Mistake("05", TEN_TIMES, "recipe-run", "max_lr=max_lr", "max_lr=10 * max_lr"),
    Mistake("05", OTHER, "restore-run", "lr_range_test(model, optimizer, b", "lr_range_test(model, untrained()[1], b"),
]


def plant(mistake, cell):
    """The cell with the mistake in it."""
    if cell.source.count(mistake.old) != 1:
        raise ValueError(f"{mistake}: {mistake.old!r} stands there {cell.source.count(mistake.old)} times, not once")
    return NotebookNode(cell | {"source": cell.source.replace(mistake.old, mistake.new)})


def run_lesson(number):
    """For each mistake of a lesson, in the order of MISTAKES, the check that is red first; None if none is.

    The lesson runs once. At the cell of a mistake the process forks: the child goes on with the mistake, up to the
    first red check, the parent without it. An error outside the checks catches nothing.
    """
    lesson = Lesson(next(p for p in find_lessons(ROOT) if p.name.startswith(number)))
    here = [m for m in MISTAKES if m.lesson == number]
    red = {}
    with deterministic():
        for i, cell in enumerate(lesson.cells):
            for mistake in (m for m in here if m.cell == cell.id):
                red[mistake] = in_a_child(lesson, [plant(mistake, cell), *lesson.cells[i + 1 :]])
            found = {"checks": [], "figures": {}, "alt": {}}
            lesson.run_cell(cell, found, turn=False)
            assert not any(check["red"] for check in found["checks"]), f"{cell.id} is red without any mistake"
    return [red[m] for m in here]


def in_a_child(lesson, cells):
    """The first check that is red if the lesson goes on with `cells`, found in a copy of this process."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            lesson.cells = cells
            found = lesson.run(turn=False, until_red=True)
            first = next((check["cell"] for check in found["checks"] if check["red"]), "")
            os.write(writer, first.encode())
        finally:
            os._exit(0)  # the child must not go on as the parent does
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        first = answer.read()
    os.wait()
    return first or None


def results(numbers):
    """Yield `(mistake, check)` for the mistakes of some lessons, two lessons at once, each in a process of its own."""
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda number: in_a_process(__file__, "--lesson", number), numbers)
        for number, red in zip(numbers, runs, strict=True):
            yield from zip((m for m in MISTAKES if m.lesson == number), red, strict=True)


def main():
    if sys.argv[1:2] == ["--lesson"]:
        print(json.dumps(run_lesson(sys.argv[2])))
        return
    planted = missed = 0
    for mistake, check in results(sys.argv[1:] or sorted({m.lesson for m in MISTAKES})):
        print(f"{mistake.lesson}  {mistake.name:42} {mistake.cell:15} {check or 'NOT CAUGHT'}", flush=True)
        planted, missed = planted + 1, missed + (check is None)
    print(f"{planted} mistakes planted, {planted - missed} caught")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
