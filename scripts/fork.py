"""Make every badge, link and setup cell point to a fork: `uv run nox -s fork -- OWNER/NAME [--branch BRANCH]`.

Rewrites the address, which pyproject.toml gives, in all files that git tracks. Look at it with `git diff`; commit it.
"""

import argparse
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPOSITORY = re.compile(
    r"(?:https://github\.com/|git@github\.com:)?([A-Za-z0-9](?:-?[A-Za-z0-9])*/(?!\.+$)[\w.-]+?)(?:\.git)?/?", re.ASCII
)
BRANCH = re.compile(r"\w[\w.-]*", re.ASCII)  # a slash would be read as a part of the path in a badge's link


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s fork --", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("repository", metavar="OWNER/NAME", help="the fork, or its address on GitHub")
    parser.add_argument("--branch", help="the branch that readers get (default: as it is)")
    arguments = parser.parse_args()
    fork = REPOSITORY.fullmatch(arguments.repository)
    if not fork:
        parser.error(f"{arguments.repository!r} is not a repository on GitHub. Give OWNER/NAME, as in ada/rates.")
    if arguments.branch is not None and not BRANCH.fullmatch(arguments.branch):
        parser.error(f"--branch {arguments.branch!r}: a badge's link takes letters, digits, '.', '_' and '-' only.")
    changed = rewrite(fork[1], arguments.branch)
    print(f"{len(changed)} files now point to https://github.com/{fork[1]}:", *changed, sep="\n  ")
    print("Next: uv sync, uv run pytest, git diff, git commit.")


def rewrite(slug: str, branch: str | None) -> list[str]:
    """Put `slug` and `branch` in place of the old ones in every file that git tracks; returns the changed files."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    old, old_branch = urls["Repository"].removeprefix("https://github.com/"), urls["Notebooks"].split("/")[-2]
    # The old address, and a branch where one follows: in a page of GitHub or Colab, a link of Binder, or an archive.
    ending = rf"(/(?:blob|tree|raw|archive)/|/(?={re.escape(old_branch)}\?)){re.escape(old_branch)}(?![\w-])"
    pattern = re.compile(rf"((?:github(?:\.com)?|gh)[/:]){re.escape(old)}(?![\w-])(?:{ending})?".encode())

    def new(found: re.Match) -> bytes:
        ref = found[2] + (branch or old_branch).encode() if found[2] else b""
        return found[1] + slug.encode() + ref

    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    changed = []
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            before = (ROOT / name).read_bytes()  # bytes: line ends, and files that are not text, stay as they are
            after = pattern.sub(new, before)
            if after != before:
                (ROOT / name).write_bytes(after)
                changed.append(name)
    return changed


if __name__ == "__main__":
    main()
