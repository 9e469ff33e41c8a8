"""The site: every public name has an entry, every link from a message leads to a heading."""

import importlib
import inspect
import re
import runpy
import subprocess
import sys
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


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the site's extra, docs, is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api" / "functional.html").read_text(encoding="utf-8")
    assert 'id="keras_distill.functional.soft_target_kl"' in page
    assert "1.8485" in page  # its doctest, as code
    # Nothing of a page is fetched from elsewhere.
    for path in tmp_path.rglob("*.html"):
        found = re.findall(
            r"(?:<script[^>]*src|<link[^>]*href)=\"?(https?:[^\" >]+)", path.read_text()
        )
        assert not found, path
