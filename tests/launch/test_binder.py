"""What mybinder.org makes of binder/: rendered with repo2docker's own code, without docker and without a network."""

import logging
import re
import tomllib

import pytest
from copies import ROOT

BINDER = ROOT / "binder"
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def pins(text):
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.M))


def test_the_requirements_are_the_packages_of_lrtut_at_the_checked_versions():
    text = (BINDER / "requirements.txt").read_text(encoding="utf-8")
    asked, checked = pins(text), pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert set(asked) == {re.match(r"[\w-]+", requirement)[0] for requirement in needed}
    for name, version in asked.items():
        cpu = "+cpu" if name in ("torch", "torchvision") else ""
        assert version == checked[name].split("+")[0] + cpu, name
    assert f"\n{CPU_INDEX}\n" in text


def test_binder_installs_the_small_build_with_pip_and_the_package_without_dependencies(monkeypatch):
    repo2docker = pytest.importorskip("repo2docker", reason="repo2docker is not here: uv run nox -s binder")
    monkeypatch.chdir(ROOT)  # where it looks for its files
    logging.getLogger("repo2docker").setLevel(logging.ERROR)
    app = repo2docker.Repo2Docker()
    buildpack = next(b for b in (kind(base_image=app.base_image) for kind in app.buildpacks) if b.detect())
    buildpack.platform = "linux/amd64"
    text = buildpack.render(build_args={"NB_USER": "jovyan", "NB_UID": "1000"})
    assert type(buildpack).__name__ == "PythonBuildPack" and buildpack.binder_dir == "binder"
    assert f"conda/environment.py-{buildpack.python_version}-linux-64.lock" in buildpack.get_build_script_files()

    requirements = text.index('pip install --no-cache-dir -r "binder/requirements.txt"')
    repository, after = text.index("COPY --chown=1000:1000 src/ ${REPO_DIR}/"), text.index("RUN ./binder/postBuild")
    assert requirements < repository < after  # a new lesson does not install torch anew
    installs = re.findall(r"^RUN .*pip install.*$|^.*env update.*$", text, re.M)
    assert len(installs) == 1, "environment.yml and pyproject.toml are not for Binder"

    script = (BINDER / "postBuild").read_text()
    assert re.findall(r"pip install (.+)", script) == ["--no-cache-dir --no-deps --editable ."]
