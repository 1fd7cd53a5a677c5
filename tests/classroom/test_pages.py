"""What students display is not executed where a teacher looks at it: the Formgrader and the feedback, in Chromium."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from jupyter_server.serverapp import list_running_servers
from nbformat.v4 import new_markdown_cell
from nbgrader.api import Gradebook
from sample import EXERCISES, NAME, answer, command, hand_in, released

BROWSER = os.environ.get("LRTUT_BROWSER") or shutil.which("chromium")
MISSING = not BROWSER or not importlib.util.find_spec("playwright")

RUN = "window.pwned = 1; fetch('/formgrader/api/grades', {method: 'POST'})"
HTML = f"""<script>{RUN}</script><img src=x onerror="{RUN}"><svg onload="{RUN}"><script>{RUN}</script></svg>
<iframe srcdoc="<script>parent.pwned = 1</script>"></iframe><details open ontoggle="{RUN}">x</details>
<form action="/formgrader/api/grades" method="post"><button class="btn full-credit">Full credit</button></form>
<a href="javascript:{RUN}">a</a><a href="&#106;avascript:{RUN}">b</a><a href=" java&#10;script:{RUN}">c</a>
<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror={RUN}&gt;"></table></math>
<style>#notebook {{ display: none }}</style><noscript><p title="</noscript><img src=x onerror={RUN}>"></noscript>"""
MARKDOWN = f"""**bold** [a](javascript:window.pwned=1) [b](&#106;avascript:window.pwned=1) <javascript:window.pwned=1>
[c] ![x](x"onerror="window.pwned=1) `a < b`\n\n[c]: javascript:window.pwned=1\n\n```html\n<script>{RUN}</script>\n```

{HTML}"""
DATA = {
    "text/html": HTML,
    "text/markdown": MARKDOWN,
    "text/latex": rf"$\href{{javascript:{RUN}}}{{x}}$ {HTML}",
    "text/plain": HTML,
    "image/svg+xml": f'<svg xmlns="http://www.w3.org/2000/svg" onload="{RUN}"><script>{RUN}</script></svg>',
    "application/javascript": RUN,
    "image/png": f'x" onerror="{RUN}',
}
METADATA = {
    "image/png": {"width": "1 onerror=window.pwned=1", "alt": '"><script>window.pwned=1</script>'},
    "text/html": {"isolated": True},
}
SHOW = f"""\
from IPython.display import display
for kind, data in {DATA!r}.items():
    display({{kind: data}}, raw=True)
    display({{kind: data}}, raw=True, metadata={METADATA!r})
print({HTML!r})
raise ValueError({HTML!r} + 'long' * 200)"""


@pytest.fixture
def server(root, tmp_path):
    """The address of a Jupyter server in a course to which eve has handed in all of this."""
    notebook = answer(released(root), decay=SHOW, why=MARKDOWN)
    notebook.cells.insert(3, new_markdown_cell(MARKDOWN))
    hand_in(root, "eve", notebook, beside := f"<img src=x onerror={RUN[:16]}>.ipynb".replace("/", ""))
    hand_in(root, "eve", "", f"{beside}.txt")
    subprocess.run([sys.executable, EXERCISES / "grade.py", NAME, "--course", root, "--trust-students"], check=True)
    command(root, "generate_feedback", "--force", NAME)
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    line = [sys.executable, "-m", "jupyter", "server", "--no-browser", "--port=0", "--allow-root"]
    process = subprocess.Popen([*line, "--IdentityProvider.token=t"], cwd=root, env=os.environ | own)
    try:
        while not (found := next(list_running_servers(tmp_path / "runtime"), None)):
            assert process.poll() is None
            time.sleep(0.2)
        yield f"http://127.0.0.1:{found['port']}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.browser
@pytest.mark.skipif(MISSING and "LRTUT_BROWSER" not in os.environ, reason="needs Chromium: uv run nox -s browser")
def test_nothing_of_a_student_is_executed(root, server):
    from playwright.sync_api import sync_playwright

    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        number = gradebook.find_submission_notebook(NAME, NAME, "eve").id
    shown = f"{server}/formgrader/submissions/{number}/?token=t"
    feedback = (root / "feedback" / "eve" / NAME / f"{NAME}.html").as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--disable-gpu"])
        for address in (shown, feedback):
            page, sent = browser.new_page(viewport={"width": 390, "height": 800}), []
            page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
            page.on("request", lambda request, sent=sent: sent.append(request.method))
            page.goto(address)
            assert page.locator("#notebook").first.is_visible() and page.locator("#notebook strong").count() >= 4
            links = page.locator("#notebook a")
            for i in range(links.count()):
                links.nth(i).evaluate("link => link.click()")
            page.wait_for_timeout(500)
            assert page.evaluate("window.pwned") is None and "POST" not in sent, address
            tags = ", ".join(f"#notebook {tag}" for tag in ("script", "iframe", "form", "style", "svg", "[onerror]"))
            assert page.locator(tags).count() == 0
            if address == feedback:
                assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()


@pytest.mark.parametrize("platform", ["Moodle", "Canvas", "Google Classroom"])
def test_the_pages_pattern_collects_an_archive(root, platform):
    page = (EXERCISES / "README.md").read_text(encoding="utf-8")
    example = re.search(rf"# {platform}.*: (.*)02_step_decay(.*)\n.*named_regexp='(.*)'", page)
    zipped = root / "zipped" / f"{example[1]}{NAME}{example[2]}"
    zipped.parent.mkdir(parents=True)
    shutil.copy(root / "release" / NAME / f"{NAME}.ipynb", zipped)
    shutil.make_archive(str(root / "downloaded" / NAME / "archive" / "all"), "zip", root / "zipped")
    command(root, "zip_collect", NAME, f"--FileNameCollectorPlugin.named_regexp={example[3]}")
    student = "schmidtanna" if platform == "Canvas" else "Anna Schmidt"
    assert [*root.glob("submitted/*/*/*.*")] == [root / "submitted" / student / NAME / f"{NAME}.ipynb"]
