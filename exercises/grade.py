"""Grade an assignment with limits on what students' code may do. How and why: exercises/README.md.

uv run --group classroom python exercises/grade.py 01_what_the_learning_rate_does
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from grading.kernels import GradingError
from grading.limits import Limits
from grading.run import grade, table


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if every submission has a verdict, 1 if the grader failed on one, 2 if nothing could be done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assignment", help="its folder's name in submitted/STUDENT/")
    parser.add_argument("--student", action="append", default=[], help="only this one (may be given several times)")
    parser.add_argument("--workers", type=int, default=2, help="submissions at the same time (default 2)")
    parser.add_argument("--again", action="store_true", help="grade those too that have been graded")
    parser.add_argument("--course", type=Path, default=Path(__file__).parent, help="the folder of nbgrader_config.py")
    for limit in fields(Limits):
        name = f"--{limit.name.replace('_', '-')}"
        parser.add_argument(name, type=type(limit.default), default=limit.default, help=f"default {limit.default}")
    options = parser.parse_args(arguments)
    try:
        limits = Limits(**{limit.name: getattr(options, limit.name) for limit in fields(Limits)})
        summary = grade(
            options.course,
            options.assignment,
            students=options.student,
            workers=options.workers,
            limits=limits,
            again=options.again,
        )
    except (GradingError, ValueError) as error:
        print(f"grade.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What was graded is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    print(table(summary))
    return any(result.verdict == "failed" for result in summary.results.values())


if __name__ == "__main__":
    sys.exit(main())
