"""A copy of this checkout, as git sees it, for tests that clone it or rewrite it."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def git(folder, *arguments):
    """What git prints; raises where git fails."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def copy_checkout(target):
    """A new repository of one commit on `main` in the folder `target`: what git tracks or would track here."""
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():  # a deleted file is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    git(target, "init", "--quiet", "--initial-branch=main")
    git(target, "config", "core.autocrlf", "false")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--no-verify", "--message=a copy")
    return target
