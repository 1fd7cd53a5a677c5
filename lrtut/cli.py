"""`lrtut list`, `lrtut run`, `lrtut lab`."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from lrtut.version import __version__, repository

NOTEBOOK_SIDE = "uv sync (or, with pip 25.1 or newer: pip install --group dev)"


class UserError(Exception):
    """Something that the user can fix: printed without a traceback, exit status 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `lrtut`: returns 0, 1 if a notebook failed, 2 if the call cannot be carried out.

    As other Unix tools, 130 after Ctrl-C, and 141 where the reader of the output has gone (`lrtut list | head -1`).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a file or pipe on Windows may not know Greek letters
    try:
        try:
            return _main(argv)
        finally:
            if sys.stdout:  # None where it is closed
                sys.stdout.flush()
    except OSError as error:  # a full disk, a folder that cannot be written
        broken = isinstance(error, BrokenPipeError)
        if not broken:
            print(f"lrtut: {error}", file=sys.stderr, flush=True)
        for stream in filter(None, (sys.stdout, sys.stderr)):  # else Python complains as it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141 if broken else 2


def _main(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="lrtut", description="A course on the learning rate in PyTorch.")
    parser.add_argument("--version", action="version", version=f"lrtut {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the lessons")
    run = commands.add_parser("run", help="execute lessons on fresh kernels, and build the website in build/site/")
    run.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons, as in 01 05; all by default")
    run.add_argument("--jobs", "-j", type=int, default=1, metavar="N", help="execute N at once (default 1)")
    run.add_argument(
        "--strict",
        action="store_true",
        help="let a warning, a word on stderr or more than 1.3 GB of memory fail a lesson (CI does)",
    )
    commands.add_parser("lab", help="open JupyterLab on the lessons; further options go to jupyter lab")
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "lab":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if arguments.command == "list":
            return list_lessons()
        if arguments.command == "run":
            return run_lessons(arguments.lessons, arguments.jobs, arguments.strict)
        return open_lab(rest)
    except UserError as error:
        print(f"lrtut {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nlrtut {arguments.command}: interrupted.", file=sys.stderr)
        return 130


def list_lessons() -> int:
    """Print each lesson's number, title and length."""
    with notebook_side():
        import nbformat
    for path in find_lessons(find_checkout()):
        head = nbformat.read(path, as_version=4).cells[0].source
        title = re.search(r"^# (?:\d\d · )?(.+)$", head, re.M)
        minutes = re.search(r"\*\*Time:\*\* ([^\n]+?)\.?$", head, re.M)
        learn = re.findall(r"^- (.+)$", head, re.M)
        print(f"{path.stem[:2]}  {title[1] if title else path.stem}" + (f"  ({minutes[1]})" if minutes else ""))
        for line in learn:
            print(f"      - {line}")
    return 0


def run_lessons(numbers: Sequence[str], jobs: int, strict: bool = False) -> int:
    """Execute lessons, print the table, build the website; return 1 if a lesson or the website failed."""
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: give a whole number of at least 1.")
    root = find_checkout()
    lessons, pages, folder = find_lessons(root), find_answers(root), root / "build" / "lessons"
    chosen = choose(lessons, numbers)
    with notebook_side():
        import furo  # noqa: F401
        import myst_nb  # noqa: F401

        from lrtut import answers, execution, site
    from lrtut.data import DataError

    if not numbers:
        chosen += site.stale(pages, folder)
    try:
        outcomes = execution.execute_all(chosen, folder, jobs, strict=strict)
    except DataError as error:
        raise UserError(str(error)) from None
    print(execution.table(outcomes), flush=True)
    failed = [outcome.name for outcome in outcomes if outcome.error]
    answers.write_notebooks(root, pages, root / "build" / "answers")
    try:
        bare = site.build(root, [*lessons, *pages], folder)
    except site.SiteError as error:
        print(f"lrtut run: {error}", file=sys.stderr)
        return 1
    finally:
        for path in pages:
            if path.stem in failed:  # so that it is executed again
                (folder / f"{path.stem}.ipynb").unlink()
    if bare:
        print(f"\nNot executed yet, so without outputs: {', '.join(path.stem for path in bare)}")
    print(f"\nThe website is in {root / 'build' / 'site'}")
    print(f"Open in a browser: {(root / 'build' / 'site' / 'index.html').as_uri()}")
    return 1 if failed else 0


def open_lab(options: Sequence[str]) -> int:
    """Start JupyterLab on the first lesson, until it is stopped."""
    root = find_checkout()
    first = find_lessons(root)[0].relative_to(root).as_posix()
    ours = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{first}", *lab_options()]
    given = {option.split("=")[0] for option in options}  # JupyterLab refuses an option that comes twice
    ours = [option for option in ours if option.split("=")[0] not in given]
    command = [sys.executable, "-m", "jupyterlab", *ours, *options]
    with notebook_side():
        import jupyterlab  # noqa: F401
    labs: list[subprocess.Popen] = []
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set() or [lab.terminate() for lab in labs])
    try:
        labs.append(lab := subprocess.Popen(command))
        if ended.is_set():  # while it was being started
            lab.terminate()
        while True:
            # A terminal sends Ctrl-C to JupyterLab as well, which then asks, or shuts its kernels down and ends.
            with contextlib.suppress(KeyboardInterrupt):
                return lab.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def notebook_side() -> Iterator[None]:
    """Say of an import that fails in this block what to install.

    Raises:
        UserError: a module is missing.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(f"{error.name} is missing; install the notebook side: {NOTEBOOK_SIDE}") from None


def lab_options() -> list[str]:
    """What JupyterLab must be told as root and in a container; each option is announced."""
    options = []
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        print("lrtut lab: you are root, so JupyterLab is started with --allow-root (it refuses otherwise).")
        options.append("--allow-root")
    if in_container():
        print(
            "lrtut lab: in a container, so no browser is opened and JupyterLab listens on all of the container's "
            "addresses; publish its port (docker run -p 8888:8888) and open the link with the token below."
        )
        options += ["--no-browser", "--ip=0.0.0.0"]
    return options


def in_container() -> bool:
    """True in a Docker or Podman container."""
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def find_checkout() -> Path:
    """The checkout around the working folder, else the one that lrtut was installed from.

    Raises:
        UserError: there is none; says where to get the notebooks.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (folder / "notebooks").is_dir() and (folder / "lrtut" / "cli.py").is_file():
            return folder
    raise UserError(
        f"no lessons here: the notebooks are in the repository, not in the package. Get them with\n"
        f"  git clone {repository()}\nand call lrtut in that folder."
    )


def find_lessons(root: Path) -> list[Path]:
    """The lessons' notebooks in order: notebooks/01_….ipynb to NN_….ipynb."""
    return sorted(path for path in (root / "notebooks").glob("*.ipynb") if re.match(r"\d\d_", path.name))


def find_answers(root: Path) -> list[Path]:
    """The pages of docs/answers/ that have code to execute."""
    pages = sorted((root / "docs" / "answers").glob("*.md"))
    return [path for path in pages if path.read_text(encoding="utf-8").startswith("---\nfile_format: mystnb")]


def choose(lessons: Sequence[Path], numbers: Sequence[str]) -> list[Path]:
    """The lessons with these numbers (`1` means `01`), in the course's order; all for none.

    Raises:
        UserError: a number that no lesson has.
    """
    known = {path.name[:2]: path for path in lessons}
    wanted = {number.zfill(2) for number in numbers}
    unknown = sorted(wanted - set(known))
    if unknown:
        raise UserError(f"no lesson {', '.join(unknown)}: there are {', '.join(known)}.")
    return [path for number, path in known.items() if not wanted or number in wanted]


if __name__ == "__main__":
    sys.exit(main())
