"""The site: every public name has an entry, every link from a message leads to a heading."""

import functools
import http.server
import importlib
import inspect
import json
import re
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify

import keras_distill as kd
from keras_distill._pages import PAGES

ROOT = Path(__file__).parent.parent
SITE = runpy.run_path(str(ROOT / "scripts" / "site_pages.py"))


def exports(module):
    """What a user reaches as `module.name`: read from the module itself, not from its source."""
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(found).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "").startswith("keras_distill")
        ]
    return {n for n in names if not inspect.ismodule(getattr(found, n))}


@pytest.mark.parametrize("module", SITE["MODULES"])
def test_every_public_name_has_its_entry(module):
    entries = set(re.findall(r"^::: (\S+)$", SITE["api_page"](module), re.M))
    assert {f"{module}.{name}" for name in exports(module)} <= entries


def test_every_public_module_has_its_page():
    flat = {f"keras_distill.{n}" for n in kd.__all__ if inspect.ismodule(getattr(kd, n))}
    pages = {"keras_distill.training.callbacks" if n.endswith("callbacks") else n for n in flat}
    assert pages <= set(SITE["MODULES"])
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in SITE["generated"]():
        if not page.startswith("source/"):
            assert re.search(rf"[ :]{re.escape(page)}$", menu, re.M), page


def headings(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {slugify(h.replace("`", ""), "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("link", PAGES.values())
def test_what_a_message_links_to_is_there(link):
    page, _, heading = link.partition("#")
    assert heading in headings(ROOT / "docs" / page)


def test_every_topic_of_a_message_is_told_and_used():
    told = (ROOT / "docs" / "guides" / "errors.md").read_text(encoding="utf-8")
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "keras_distill").rglob("*.py"))
    for topic, link in PAGES.items():
        assert link.rpartition("/")[2].removeprefix("errors.md") in told, link
        assert re.search(rf"\{{see\(['\"]{topic}['\"]\)", source), topic


def notebook(folder, code, *outputs):
    folder.mkdir(parents=True, exist_ok=True)
    cell = {"cell_type": "code", "source": [code], "outputs": list(outputs)}
    (folder / "01.ipynb").write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    return folder / "01.ipynb"


def test_a_notebooks_outputs_are_shown_while_they_are_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(SITE["notebook_page"].__globals__, "ROOT", tmp_path)
    path = notebook(tmp_path / "notebooks", "print(6 * 7)")
    assert "42" not in SITE["notebook_page"](path)
    said = {"output_type": "stream", "name": "stdout", "text": ["42\n"]}
    notebook(tmp_path / "docs" / "notebooks", "print(6 * 7)", said)
    assert "```text\n42\n```" in SITE["notebook_page"](path)
    notebook(tmp_path / "notebooks", "print(6 * 8)")
    assert "42" not in SITE["notebook_page"](path)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as CI builds it."""
    pytest.importorskip("mkdocs", reason="the site's extra, docs, is not installed")
    folder = tmp_path_factory.mktemp("site")
    # Without -q, under which mkdocs counts no warning.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_an_entry_has_its_anchor_and_its_example(site):
    page = (site / "api" / "functional.html").read_text(encoding="utf-8")
    assert 'id="keras_distill.functional.soft_target_kl"' in page
    assert re.search(r"<code>(?:(?!</code>).)*1\.8485", page, re.S)  # its doctest, as code
    # One name a line, though the docstring has two in a line.
    edge = (site / "api" / "edge.html").read_text(encoding="utf-8")
    assert re.search(r"bytes,\s*bytes_at_8</span></code>", edge)


@pytest.mark.slow
def test_nothing_of_a_page_is_fetched_from_elsewhere(site):
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        assert not re.findall(r"(?:<script[^>]*src|<link[^>]*href)=\"?https?:[^\" >]+", html), path


# One of each kind: home, a guide with a wide table, long pages, an entry, a notebook, code.
SAMPLES = ["index", "guides/precision", "edge", "benchmarks", "api/edge", "notebooks/03_edge"]
SAMPLES += ["migrate/keras_io", "glossary", "changelog", "source/benchmarks/gains.py"]


@pytest.fixture(scope="module")
def address(site):
    """The site served on this machine: from a disk, browsers start no search."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.slow
def test_no_page_scrolls_sideways_on_a_phone_and_the_search_finds(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked, broken = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    for name in SAMPLES:
        page.goto(f"{address}{name}.html")
        assert page.evaluate("document.scrollingElement.scrollWidth") == 390, name
    page.set_viewport_size({"width": 1280, "height": 844})
    page.goto(f"{address}index.html")
    page.fill("input.md-search__input", "temperature")
    page.wait_for_selector(".md-search-result__item")
    assert not broken
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
