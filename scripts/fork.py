"""Make every badge, link and setup cell point to another repository: `python scripts/fork.py OWNER/NAME [--branch BRANCH]`.

For a fork on GitHub (Colab and Binder open notebooks from there). Rewrites the address, which stands once in
pyproject.toml, in all files that git tracks; nothing else changes. Look at it with `git diff`, and commit it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

OWNER_NAME = re.compile(r"(?:https://github\.com/|git@github\.com:)?([\w.-]+)/([\w.-]+?)(?:\.git)?/?", re.ASCII)
BRANCH = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)  # a slash would be read as a part of the path in a badge's link


def main(argv: list[str] | None = None) -> int:
    """The command: returns 0, or 2 where the address is none or this is no clone of the course."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0].partition(":")[0] + ".")
    parser.add_argument(
        "repository", metavar="OWNER/NAME", help="the fork, as OWNER/NAME or https://github.com/OWNER/NAME"
    )
    parser.add_argument("--branch", help="the branch that readers get (default: as it is)")
    arguments = parser.parse_args(argv)
    try:
        slug = parse_address(arguments.repository)
        branch = None if arguments.branch is None else parse_branch(arguments.branch)
        changed = rewrite(Path.cwd(), slug, branch)
    except ValueError as error:
        print(f"fork.py: {error}", file=sys.stderr)
        return 2
    print(f"{len(changed)} files now point to https://github.com/{slug}:", *changed, sep="\n  ")
    print("Next: uv sync, uv run pytest, git diff, git commit.")
    return 0


def parse_address(text: str) -> str:
    """`OWNER/NAME` of a repository on GitHub.

    Raises:
        ValueError: `text` is neither OWNER/NAME nor the address of a repository on GitHub.
    """
    found = OWNER_NAME.fullmatch(text)
    if (
        not found
        or not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){0,38}", found[1])
        or set(found[2]) <= {"."}
    ):
        raise ValueError(
            f"{text!r} is no repository on GitHub. Give OWNER/NAME, as in ada/learning-rates, or "
            f"https://github.com/OWNER/NAME: Colab and Binder open the notebooks from there."
        )
    return f"{found[1]}/{found[2]}"


def parse_branch(text: str) -> str:
    """`text`, if it can stand in a badge's link.

    Raises:
        ValueError: it cannot.
    """
    if not BRANCH.fullmatch(text):
        raise ValueError(
            f"--branch {text!r}: letters, digits, '.', '_' and '-' can stand in a badge's link, no others."
        )
    return text


def rewrite(root: Path, slug: str, branch: str | None = None) -> list[str]:
    """Put `slug` and `branch` in place of the old ones in the files under `root` that git tracks; the files' names.

    Raises:
        ValueError: `root` is not the root of a clone of the course.
    """
    try:
        urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
        old, old_branch = urls["Repository"].removeprefix("https://github.com/"), urls["Notebooks"].split("/")[-2]
        listed = subprocess.run(
            ["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        raise ValueError(
            f"{root} is not the root of a clone of the course ({type(error).__name__}). Go there."
        ) from None
    # The old address, and a branch where one follows: in a page of GitHub or Colab, a link of Binder, or a call of pip.
    ending = rf"(/(?:blob|tree|raw)/|/(?={re.escape(old_branch)}\?)|@){re.escape(old_branch)}(?![\w-])"
    pattern = re.compile(rf"((?:github(?:\.com)?|gh)[/:]){re.escape(old)}(?![\w-])(?:{ending})?".encode())

    def new(found: re.Match) -> bytes:
        ref = found[2] + (branch or old_branch).encode() if found[2] else b""
        return found[1] + slug.encode() + ref

    changed = []
    for name in filter(None, listed.split("\0")):
        if not (root / name).is_file():
            continue
        before = (root / name).read_bytes()  # bytes: line ends, and files that are no text, stay as they are
        after = pattern.sub(new, before)
        if after != before:
            (root / name).write_bytes(after)
            changed.append(name)
    return changed


if __name__ == "__main__":
    sys.exit(main())
