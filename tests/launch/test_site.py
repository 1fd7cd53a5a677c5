"""The website: no link is broken, nothing is asked of the network, and what a reader should not see is not there."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import bs4
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import lrtut
from lrtut import answers, cli, site
from lrtut.execution import read

ROOT = Path(__file__).parents[2]
BROWSER = os.environ.get("LRTUT_BROWSER") or shutil.which("chromium")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site of this checkout: the first lesson with outputs that were made here, all others without."""
    root = tmp_path_factory.mktemp("site") / "course"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "build", "dist", "data", "tests"))
    notebooks = [*cli.find_lessons(root), *cli.find_answers(root)]
    lesson = nbformat.read(notebooks[0], as_version=4)
    figure = lrtut.plot_paths({0.1: [1, 2]}, title="A <figure>").figure
    code = [cell for cell in lesson.cells if cell.cell_type == "code"]
    code[0].outputs = [new_output("display_data", data={"text/html": figure._repr_html_(), "text/plain": "figure"})]
    code[1].metadata["tags"] = ["check", "hide-input"]
    code[1].outputs = [new_output("stream", text="✓ 2 claims of this section hold here")]
    code[2].outputs = [new_output("display_data", data=lrtut.explore.parabola()._repr_mimebundle_()[0])]
    (root / "build" / "lessons").mkdir(parents=True)
    nbformat.write(lesson, root / "build" / "lessons" / notebooks[0].name)
    bare = site.build(root, notebooks, root / "build" / "lessons")
    assert bare == notebooks[1:]
    pages = {
        path: bs4.BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in root.glob("build/site/**/*.html")
    }
    return root / "build" / "site", pages


def test_links_lead_somewhere_and_nothing_is_fetched_from_the_network(built):
    folder, pages = built
    for path, page in pages.items():
        for tag in page.find_all(src=True) + page.find_all("link", href=True):
            address = urlsplit(tag.get("src") or tag["href"])
            assert address.scheme in ("", "data") and not address.netloc, (path.name, tag)
        if path.name == "genindex.html":
            continue
        for tag in page.find_all(["a", "img", "script", "link"]):
            address = urlsplit(tag.get("href") or tag.get("src") or "")
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.is_file() and target.is_relative_to(folder), (path.name, tag)
            if address.fragment and tag.name == "a":
                assert pages[target].find(id=unquote(address.fragment)), (path.name, tag)


WITH_EXERCISES = [path for path in cli.find_lessons(ROOT) if (ROOT / "exercises" / "source" / path.stem).exists()]


@pytest.mark.parametrize("path", WITH_EXERCISES, ids=lambda path: path.stem)
def test_three_clicks_lead_from_the_readme_to_a_lesson_its_exercise_and_its_solution(built, path):
    """On the site; and on GitHub and in JupyterLab, where the same links lead to the files."""
    folder, pages = built
    lesson = f"notebooks/{path.name}"
    exercise, solution = (f"exercises/{kind}/{path.stem}/{path.name}" for kind in ("release", "source"))
    for here, there in zip(("README.md", lesson, exercise), (lesson, exercise, solution), strict=True):
        link = os.path.relpath(ROOT / there, (ROOT / here).parent)
        assert f"]({link})" in (ROOT / here).read_text("utf-8"), (here, link)
        page = folder / ("index.html" if here == "README.md" else Path(here).with_suffix(".html"))
        html = str(Path(link).with_suffix(".html"))
        assert pages[page].select_one("article").find("a", href=html), (here, html)


def test_every_page_has_its_title_and_words_for_a_search_engine_and_no_raw_latex(built):
    folder, pages = built
    titles = [page.title.text for page in pages.values()]
    assert len(set(titles)) == len(titles)
    for path, page in pages.items():
        for tag in page.select("article p, article li"):
            for code in tag.select("code, pre, math"):
                code.extract()
            assert not re.search(r"\$.*\$|\\[a-z]+\{", tag.text), (path.name, tag.text)
        if path.name not in ("search.html", "genindex.html", "py-modindex.html"):
            words = page.find("meta", attrs={"name": "description"})["content"]
            assert len(words) > 40 and "\\" not in words, path.name
    assert pages[folder / "notebooks" / "01_what_the_learning_rate_does.html"].find("math", display="block")


def test_a_lesson_shows_its_figures_with_alt_text_and_its_checks_folded(built):
    folder, pages = built
    lesson = pages[folder / "notebooks" / "01_what_the_learning_rate_does.html"]
    assert "A <figure>" in lesson.select_one(".cell_output img")["alt"]
    check = lesson.select_one(".tag_check.tag_hide-input")
    assert check.select_one("details").select_one(".cell_input")
    assert check.select_one("summary").text.strip().startswith("Show the check")
    assert "✓ 2 claims" in check.select_one(":scope > .cell_output").text


def test_solutions_are_shown_and_hidden_tests_are_not(built):
    folder, pages = built
    sources = sorted(ROOT.glob("exercises/source/*/*.ipynb"))
    for path in sources:
        solution = pages[folder / path.relative_to(ROOT).with_suffix(".html")].select_one("article").text
        exercise = pages[folder / f"exercises/release/{path.stem}/{path.stem}.html"].select_one("article").text
        assert "YOUR CODE HERE" in exercise and "YOUR CODE HERE" not in solution
        assert "HIDDEN TESTS" not in solution and "SOLUTION" not in solution
    assert sources


def test_names_that_lrtut_exports_are_in_the_reference(built):
    folder, pages = built
    documented = {tag["id"] for tag in pages[folder / "docs" / "reference.html"].select("dt[id]")}
    things = [name for name in lrtut.__all__ if callable(getattr(lrtut, name))]
    assert [name for name in things if f"lrtut.{name}" not in documented] == []


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="no Chromium (Debian: apt-get install chromium)")
def test_on_a_phone_and_in_the_dark(built):
    folder, pages = built
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--disable-gpu", "--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for path in pages:
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
        page.goto((folder / "notebooks" / "01_what_the_learning_rate_does.html").as_uri())
        check = page.locator(".tag_check").first
        assert (
            check.get_by_text("✓ 2 claims").is_visible()
            and not check.locator("pre.code, .highlight").first.is_visible()
        )
        check.locator("summary").click()
        assert check.locator(".highlight").first.is_visible()
        chart = page.locator(".chart")
        chart.locator("svg").wait_for()
        before, rate = chart.locator("svg").inner_html(), chart.locator("input[type=range]").first
        rate.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.querySelector('.chart [aria-live]').textContent != ''")
        assert chart.locator("svg").inner_html() != before
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_each_answer_is_a_notebook_for_colab(built, tmp_path):
    folder, pages = built
    answers.write_notebooks(ROOT, cli.find_answers(ROOT), tmp_path)
    for path in cli.find_answers(ROOT):
        notebook = nbformat.read(tmp_path / f"{path.stem}.ipynb", as_version=4)
        nbformat.validate(notebook)
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        setup = [code.pop(0)] if code[0].startswith("# lrtut is the package") else []
        assert code == [cell.source for cell in read(path).cells if cell.cell_type == "code"]
        assert bool(setup) == any("import lrtut" in source for source in code), path.stem
        words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        assert not re.search(r"\]\((?!https://|#)", words), path.stem
        link = pages[folder / "docs" / "answers" / f"{path.stem}.html"].find("a", href=re.compile("colab"))
        assert link["href"].endswith(f"/blob/answers/{path.stem}.ipynb")


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="no Chromium (Debian: apt-get install chromium)")
def test_the_search_finds_answers_by_questions_and_messages(built):
    folder, _ = built
    playwright = pytest.importorskip("playwright.sync_api")
    searches = yaml.safe_load((ROOT / "tests" / "launch" / "searches.yaml").read_text(encoding="utf-8"))
    search = """query => {
        const found = Search._performSearch(...Search._parseQuery(query)).reverse().map(result => result[0]);
        return [...new Set(found)].slice(0, 3);
    }"""
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--disable-gpu", "--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{(folder / 'search.html').as_uri()}?q={quote('which momentum')}")
        page.locator("#search-results li a", has_text="01 · What the learning rate does").first.wait_for()
        found = {query: [Path(name).name for name in page.evaluate(search, query)] for query in searches}
        browser.close()
    right = {query: {*([answer] if isinstance(answer, str) else answer)} for query, answer in searches.items()}
    missed = {query: names for query, names in found.items() if not right[query] & {*names}}
    assert not missed


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A checkout of two lessons, the first of which fails, and an answer."""
    for folder in ("lrtut", "notebooks", "images", "exercises", "docs/answers"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("docs/conf.py", "docs/charts.py", "docs/charts.js", "pyproject.toml", "exercises/README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "exercises" / "README.md").write_text("# For teachers")
    (tmp_path / "lrtut" / "cli.py").touch()
    (tmp_path / "README.md").write_text("# A course\n\n[01](notebooks/01_a.ipynb)\n")
    contents = "```{toctree}\n:glob:\n\nnotebooks/*\ndocs/answers/*\nexercises/README\n```\n"
    (tmp_path / "docs" / "index.md").write_text(contents)
    header = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n"
    (tmp_path / "docs" / "answers" / "why.md").write_text(
        f"{header}# Why?\n\n```{{code-cell}} python\nprint(6 * 7)\n```\n"
    )
    for name, code in {"01_a": "raise ValueError('too steep')", "02_b": "print('fine')"}.items():
        cells = [new_markdown_cell(f"# {name}\n\nBack to the [README](../README.md)."), new_code_cell(code)]
        nbformat.write(
            new_notebook(cells=cells, metadata={"language_info": {"name": "python"}}),
            tmp_path / f"notebooks/{name}.ipynb",
        )
    shutil.copytree(ROOT / "docs" / "_static", tmp_path / "docs" / "_static")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LRTUT_DATA", "digits")
    return tmp_path


def test_run_executes_lessons_and_answers_and_builds_the_site_even_if_a_lesson_fails(tiny, capfd):
    def page(name):
        return (tiny / "build" / "site" / f"{name}.html").read_text("utf-8")

    assert cli.main(["run", "2"]) == 0
    said = capfd.readouterr().out
    assert "Not executed yet, so without outputs: 01_a, why" in said
    assert (tiny / "build" / "site" / "index.html").as_uri() in said
    assert cli.main(["run", "--jobs", "2"]) == 1
    rows = {line.split()[0]: line for line in capfd.readouterr().out.splitlines() if line.strip()}
    assert "cell 1: ValueError: too steep" in rows["01_a"] and rows["why"].endswith("ok")
    assert "too steep" in page("notebooks/01_a") and "fine" in page("notebooks/02_b")
    assert "42" in page("docs/answers/why") and 'href="../index.html"' in page("notebooks/01_a")


def test_a_link_to_nowhere_fails_the_build(tiny, capfd):
    (tiny / "README.md").write_text("# A course\n\n[gone](notebooks/07_gone.ipynb)\n")
    with pytest.raises(site.SiteError):
        site.build(tiny, cli.find_lessons(tiny) + cli.find_answers(tiny), tiny)
    assert "07_gone" in capfd.readouterr().err
