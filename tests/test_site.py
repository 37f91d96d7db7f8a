"""The documentation as a site: built without network, read in a real browser on a phone, a laptop and a screen."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.browser import BROWSER, Page

ROOT = Path(__file__).parent.parent
WIDTHS = (390, 1366, 1920)
MEASURE = """
document.fonts.ready.then(() => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve))))
  .then(() => {
    const article = document.querySelector("article").getBoundingClientRect();
    // On a phone code and tables reach the screen's edges.
    const [left, right] = innerWidth < 700 ? [0, innerWidth] : [article.left, article.right];
    const text = part => part.textContent.trim().slice(0, 60);
    const named = (found) => [...found].map(part => `${part.tagName} ${text(part)}`);
    const all = (parts) => [...document.querySelectorAll(parts.split(", ").map(part => `article ${part}`).join(", "))];
    const parts = "pre, pre span, table, th, td, td span, td code, p, li, img, h1, h2, h3, .katex-html .base";
    const cut = all(parts).filter(part => {
      if (part.closest(".katex") && !part.matches(".base")) return false;
      const box = part.getBoundingClientRect();
      const row = part.closest("table") || document.body;
      const edge = Math.min(right, row.getBoundingClientRect().right);
      return box.width && (text(part) || part.tagName === "IMG") && (box.right > edge + 1 || box.left < left - 1);
    });
    const scrolled = all("pre > code, .md-typeset__scrollwrap").filter(part => part.scrollWidth > part.clientWidth + 1);
    const drawn = part => part.querySelector(".katex") && !part.querySelector(".katex-error");
    const undrawn = all(".arithmatex").filter(part => !drawn(part));
    const page = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
    return JSON.stringify([...page, ...named(cut), ...named(scrolled), ...named(undrawn)]);
  })
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("there is no Chromium here")
    page = Page("about:blank", tmp_path_factory.mktemp("browser"))
    yield page
    page.close()


def places(site):
    return sorted(path.parent.relative_to(site).as_posix() for path in site.rglob("index.html"))


def lasting(browser):
    """Return what is cut and stays so: after a change of width a page takes a moment to lay itself out again."""
    for _ in range(30):
        if not (found := json.loads(browser.run(MEASURE))):
            break
        time.sleep(0.1)
    return found


def test_nothing_is_cut_on_any_page_at_any_width_and_nothing_is_asked_of_the_network(site, address, browser):
    """Fails if a line of code, a table or a formula is wider than its column, or a formula is not drawn."""
    assert len(places(site)) > 30
    wrong = {}
    for place in places(site):
        browser.visit(f"{address}{place}/".replace("/./", "/"))
        for width in WIDTHS:
            browser.resize(width)
            if found := lasting(browser):
                wrong[place, width] = found
        asked = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
        if foreign := [a["request"]["url"] for a in asked if not a["request"]["url"].startswith((address, "data:"))]:
            wrong[place] = foreign
        failed = [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        if failed:
            wrong[place, "log"] = failed
    assert not wrong, "\n".join(f"{where}: {found[:4]}" for where, found in wrong.items())


@pytest.mark.parametrize(
    ("words", "page"), [("hyperparameter", "train/"), ("learning rate", "train/"), ("csv", "own_data/")]
)
def test_the_words_that_people_search_for_are_found(site, words, page):
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    found = [
        entry["location"] for entry in index if re.search(rf"\b{words}", f"{entry['title']} {entry['text']}", re.I)
    ]
    assert any(location.startswith(page) for location in found)


def test_every_page_of_an_algorithm_says_first_when_to_use_it_and_how_to_tune_it(site):
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    for path in sorted((ROOT / "algos").glob("[a-z]*")):
        name = path.stem
        if not (ROOT / "docs" / f"{name}.md").exists():
            assert name in ("tabular", "__init__", "__pycache__")
            continue
        titles = [entry["title"] for entry in index if entry["location"].startswith(f"{name}/#")]
        assert titles[:2] == ["When to use it", "How to tune it"], name
        (advice,) = re.findall(r"## How to tune it\n(.*?)\n## ", (ROOT / "docs" / f"{name}.md").read_text(), re.DOTALL)
        assert len(re.findall(r"^\* ", advice, re.MULTILINE)) == 4, name
