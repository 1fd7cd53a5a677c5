"""The notebooks on a machine with Colab's packages, and without a checkout or lrtut: `uv run nox -s setup_cell`.

Makes an environment of environments/colab.txt under build/ (5 GB, hard-linked from uv's cache where that is on the same
disk), kept for the next run. The setup cell gets the archive of a copy of this checkout, and no git.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from copies import ROOT, copy_checkout, git
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from lrtut import answers
from lrtut.cli import find_lessons
from lrtut.version import archive

LESSONS = find_lessons(ROOT)
PACKAGES = ROOT / "tests" / "launch" / "environments" / "colab.txt"
COLABS_PYTHON = "3.13"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Colab is Linux"),
]


def uv(*arguments):
    quiet = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT")}
    # Not in the project's folder: Colab does not know what pyproject.toml tells uv (its overrides).
    done = subprocess.run(["uv", *map(str, arguments)], env=quiet, cwd=ROOT.anchor, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def colabs_python():
    """An interpreter of Colab's version where this machine has one; else the one that runs the tests."""
    command = ["uv", "python", "find", "--no-python-downloads", COLABS_PYTHON]
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{COLABS_PYTHON}.*/bin/python")
    return found or str(max(pyenv, default=sys.executable))


@pytest.fixture(scope="module")
def environment():
    """Colab's packages, without lrtut; the path of its Python."""
    interpreter = colabs_python()
    folder = ROOT / "build" / "environments" / "colab"
    python, stamp = folder / "bin" / "python", folder / "made_of.txt"
    asked = f"{interpreter}\n{PACKAGES.read_text()}"
    # Made anew where something else is asked for, or where a failed test left other packages there.
    if not stamp.is_file() or stamp.read_text() != asked + "\n".join(sorted(freeze(python))):
        uv("venv", "--quiet", "--clear", "--python", interpreter, folder)
        uv("pip", "install", "--quiet", "--python", python, "--requirement", PACKAGES)
        stamp.write_text(asked + "\n".join(sorted(freeze(python))))
    return python


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """An archive of this checkout, laid out as GitHub lays out its own."""
    copy = copy_checkout(tmp_path_factory.mktemp("repository"))
    git(copy, "archive", "--prefix=lrtut-main/", "--output=main.zip", "HEAD")
    return copy / "main.zip"


@pytest.fixture
def colab(environment, packed, tmp_path):
    """Executes a notebook from the single file in an otherwise empty folder, on a machine like Colab's, without git."""
    uv("pip", "uninstall", "--quiet", "--python", environment, "lrtut")
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    # IPython runs %pip in SHELL; where that is not set it looks for sh, which this PATH leaves out.
    env |= {"LRTUT_DATA": "digits", "PATH": str(environment.parent), "SHELL": "/bin/sh"}
    env |= {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}

    def execute(document, packed=packed):
        setup = next(cell for cell in document.cells if cell.id == "setup")
        assert archive() in setup.source
        setup.source = setup.source.replace(archive(), packed.as_uri())
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        nbformat.write(document, folder / "lesson.ipynb")
        document = nbformat.read(folder / "lesson.ipynb", as_version=4)
        manager = KernelManager()
        argv = [str(environment), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        manager._kernel_spec = KernelSpec(argv=argv, display_name="Colab", language="python")
        try:
            resources = {"metadata": {"path": str(folder)}}
            NotebookClient(document, km=manager, timeout=300, resources=resources).execute(env=env)
        finally:
            manager.shutdown_kernel(now=True)
        return document

    return execute


def freeze(python):
    lines = uv("pip", "freeze", "--python", python).splitlines()
    return {line for line in lines if not line.startswith("lrtut")}


def setup_of(path):
    """The notebook cut down to its setup cell, and a cell that says what is there."""
    document = nbformat.read(path, as_version=4)
    say = nbformat.v4.new_code_cell("import sys\nprint(lrtut.__file__, sys.version_info[:2], torch.__version__)")
    document.cells = [document.cells[1], say]
    return document


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_from_its_single_file(colab, environment, path):
    before = freeze(environment)
    done = colab(nbformat.read(path, as_version=4))  # raises where a cell fails
    assert freeze(environment) == before and "torch==2.11.0" in before
    setup = done.cells[1]
    assert setup.id == "setup" and all(output.get("name") == "stdout" for output in setup.outputs)
    # Nothing but IPython's own line after every %pip.
    assert re.fullmatch(r"(\s*Note: you may need to restart the kernel to use updated packages\.)?\s*", text_of(setup))


def test_an_answer_from_its_single_file(colab, tmp_path):
    (page,) = ROOT.glob("docs/answers/finder_restores.md")
    answers.write_notebooks(ROOT, [page], tmp_path)
    assert "everything as before: True" in "".join(
        map(text_of, colab(nbformat.read(tmp_path / f"{page.stem}.ipynb", 4)).cells)
    )


NOWHERE = Path("/no/such/archive.zip")


def test_where_lrtut_is_nothing_is_installed(colab):
    colab(setup_of(LESSONS[0]))
    setup, said = colab(setup_of(LESSONS[-1]), NOWHERE).cells
    assert setup.outputs == [] and "site-packages/lrtut/__init__.py" in text_of(said)


def test_an_old_lrtut_is_replaced(colab, environment, tmp_path):
    (tmp_path / "lrtut.py").write_text("")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "lrtut"\nversion = "0.0.9"')
    uv("pip", "install", "--quiet", "--python", environment, tmp_path)
    assert "site-packages/lrtut/__init__.py" in text_of(colab(setup_of(LESSONS[0])).cells[-1])


def test_a_folder_called_lrtut_is_no_lrtut(colab):
    """As after `git clone` beside the notebook."""
    document = setup_of(LESSONS[0])
    document.cells.insert(0, nbformat.v4.new_code_cell("import os\nos.makedirs('lrtut/notebooks')"))
    assert "site-packages/lrtut/__init__.py" in text_of(colab(document).cells[-1])


def test_a_failed_install_says_what_to_do(colab):
    with pytest.raises(CellExecutionError) as error:
        colab(setup_of(LESSONS[0]), NOWHERE)
    last = re.sub(r"\x1b\[[\d;]*m", "", str(error.value))
    assert "No module named 'lrtut'" in last
    assert re.search(r"-> \d+ import lrtut *# If this fails: .* run this cell again", last)
