"""Every command besides `uv run lrtut run` and `uv run pytest`: `uv run nox --list`, `uv run nox -s NAME -- …`."""

import nox

nox.options.default_venv_backend = "none"  # `uv run` has the environment; only Colab's set gets one of its own
nox.options.sessions = []


def uv_run(session, *command, **options):
    return session.run("uv", "run", *command, external=True, **options)


@nox.session
def new(session):
    """Make a new lesson: -- "Title of the lesson"."""
    uv_run(session, "python", "scripts/new_lesson.py", *session.posargs)


@nox.session
def release(session):
    """Make exercises/release/ from exercises/source/."""
    uv_run(session, "python", "exercises/make_release.py", *session.posargs)


@nox.session
def images(session):
    """Draw the README's pictures, on MNIST, and look at the figures of all lessons."""
    uv_run(session, "lrtut", "run")
    uv_run(session, "python", "images/make_images.py")
    uv_run(session, "pytest", "-n0", "-m", "slow", "tests/package/test_plotting.py")


@nox.session
def fork(session):
    """Point every badge, link and setup cell to a fork: -- OWNER/NAME [--branch BRANCH]."""
    uv_run(session, "python", "scripts/fork.py", *session.posargs)


@nox.session
def oldest(session):
    """Run all tests on the oldest supported packages."""
    uv_run(session, "--python=3.11", "--resolution=lowest-direct", "--isolated", "pytest", *session.posargs)


@nox.session
def newest(session):
    """Run all tests on the newest packages."""
    uv_run(session, "--upgrade", "--isolated", "pytest", *session.posargs)


@nox.session(venv_backend="uv", python="3.13")
def colab(session):
    """Run all tests on the packages that Colab has."""
    session.install("-r", "tests/launch/environments/colab.txt", "-e", ".", "--group", "test")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def setup_cell(session):
    """Run each lesson from its single file, where only Colab's packages are: [-- -k 01_]."""
    uv_run(session, "pytest", "-n0", "-s", "-m", "slow", "tests/launch/test_colab.py", *session.posargs)


@nox.session
def binder(session):
    """Render what Binder would build, without docker."""
    uv_run(session, "--group=binder", "pytest", "-n0", "tests/launch/test_binder.py", *session.posargs)


@nox.session
def who_steps(session):
    """What docs/answers/who_steps.md says of other libraries, in their versions of today."""
    libraries = ["pytorch-lightning", "transformers", "accelerate", "timm", "fastai", "pytorch-ignite"]
    isolated = [f"--with={name}" for name in libraries]
    uv_run(session, *isolated, "pytest", "-n0", "-m", "slow", "-rs", "tests/launch/test_who_steps.py", *session.posargs)


@nox.session
def browser(session):
    """Run every lesson in Chromium; screenshots go to build/browser/."""
    uv_run(session, "--group=browser", "pytest", "-n0", "-m", "browser", "-rs", *session.posargs)


@nox.session
def gpu(session):
    """Run the tests that need a CUDA device."""
    uv_run(session, "pytest", "-n0", "-m", "gpu", "-rs", "tests/package", *session.posargs)


@nox.session
def cluster(session):
    """Sweep on Dask: two worker processes, one that is killed, one that joins late."""
    uv_run(session, "--group=cluster", "pytest", "-n0", "-m", "slow", "tests/package/test_cluster.py", *session.posargs)


@nox.session
def classroom(session):
    """Run the slow tests of the exercises: each answer, and `grade.py` on every assignment's solutions."""
    uv_run(session, "pytest", "--dist=worksteal", "-m", "slow", "tests/classroom", *session.posargs)


@nox.session
def planted(session):
    """Plant known mistakes in the lessons, and see that a check catches each: [-- 02 03]."""
    uv_run(session, "python", "tests/lessons/planted.py", *session.posargs)


@nox.session
def figures(session):
    """Record the key figures of the lessons on the data that LRTUT_DATA names: [-- 02 03]."""
    uv_run(session, "python", "tests/lessons/watch.py", *session.posargs)


@nox.session
def coverage(session):
    """Show which lines and branches of lrtut the unit tests reach."""
    uv_run(session, "pytest", "tests/package", "--cov", *session.posargs)


@nox.session
def mutants(session):
    """Plant small faults in lrtut, and see that a unit test catches each: [-- "lrtut.sweep*"]."""
    one_thread = {"OMP_NUM_THREADS": "1", "LRTUT_DATA": "digits"}
    uv_run(session, "--group=mutation", "mutmut", "run", *session.posargs, env=one_thread)
    found = uv_run(session, "--group=mutation", "mutmut", "results", silent=True)
    print(*(line for line in found.splitlines() if "not checked" not in line), sep="\n")


@nox.session
def benchmarks(session):
    """Run a benchmark and make the tables: -- training, finders, modern, one_cycle, overhead, grading, sweeps, gpu."""
    name, *options = session.posargs or session.error("which one? nox -s benchmarks -- training")
    uv_run(session, "--group=finders", "--group=cluster", "python", f"benchmarks/{name}.py", *options)
    tables(session)


@nox.session
def tables(session):
    """Make the tables of benchmarks/README.md from benchmarks/results/."""
    uv_run(session, "python", "benchmarks/report.py")
