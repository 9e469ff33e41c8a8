"""A report for those who were not there: one page, and Markdown."""

import dataclasses
import importlib.util
import re
import sys
from html.parser import HTMLParser

import pytest

from keras_distill.pipeline.reports.markdown import markdown
from keras_distill.pipeline.reports.page import html
from keras_distill.pipeline.reports.sections import sections

VOID = {"meta", "link", "br", "img"}


class Reader(HTMLParser):
    """Open elements, addresses, and the cells of tables."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.addresses, self.rows, self.text = [], set(), [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [
            v for k, v in attributes if k.split(":")[-1] in ("src", "href", "action")
        ]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, words):
        self.text.append(words)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += words


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def page(report):
    return html(report)


def test_the_page_is_whole_and_asks_nobody(page):
    found = read(page)
    assert "script" not in found.tags
    assert {one[0] for one in found.addresses if not one.startswith("data:")} == {"#"}
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    anchors = {one[1:] for one in found.addresses if one.startswith("#")}
    assert all(f'id="{anchor}"' in page for anchor in anchors)


def test_what_a_run_brings_is_escaped_and_shown(page, report):
    found = read(page)
    name = report.twin
    assert "<script" not in page
    # As a row, as a class, in sentences' place, in the pictures.
    assert [name] == [row[0] for row in found.rows if row[0] == name][:1]
    assert sum(row[0] == name for row in found.rows) >= 2
    assert report.description in found.text
    assert any(words.startswith("<script>alert('x')") and "…" in words for words in found.text)


def cells(report):
    """Every table's rows, as the page and Markdown should have them."""
    for section in sections(report):
        for table in section.tables.values():
            yield from ([list(table.columns)] + [list(row) for row in table.rows])


def test_the_page_has_every_row_of_every_table(page, report):
    assert read(page).rows == list(cells(report))


def test_the_rows_have_the_records_numbers(report):
    table = list(cells(report))
    for row in report.rows:
        found = next(one for one in table if one[0] == row.name)
        assert f"{100 * row.value:.1f} %" in found
        assert f"{row.bytes:,}" in found


def test_markdown_has_the_same_rows(report):
    text = markdown(report)
    found = []
    for line in text.splitlines():
        if line.startswith("| ") and not re.fullmatch(r"\| [-:| ]+ \|", line):
            words = re.split(r"(?<!\\) \| ", line[2:-2])
            words = [re.sub(r"\\(.)", r"\1", one) for one in words]
            for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
                words = [one.replace(entity, sign) for one in words]
            found.append(words)
    assert found == list(cells(report))
    assert "<script" not in text


def test_without_matplotlib_the_page_says_so(report, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "keras_distill.pipeline.reports.page.find_spec",
        lambda name: None if name == "matplotlib" else there(name),
    )
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = read(html(report))
    assert "svg" not in found.tags
    assert any("Pictures need matplotlib" in words for words in found.text)


def test_the_same_report_is_the_same_page(page, report):
    assert html(report) == page


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_network_or_a_sideways_scroll(report, browser, width, tmp_path):
    report.to_html(tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 844})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.evaluate("document.scrollingElement.scrollWidth") == width
    assert page.evaluate("document.querySelectorAll('svg').length") == 3
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("value", [0.5, None])
def test_one_file_alone_that_nothing_is_known_of(report, value):
    file = dataclasses.replace(
        report.rows[-1], value=value, low=value, high=value, from_teacher=None, from_twin=None
    )
    alone = dataclasses.replace(
        report, rows=(file,), data={}, teacher=None, twin=None, curves={}, layers=(), classes=()
    )
    found = read(html(alone))
    figure = next(row[1] for row in found.rows if row[0] == file.name)
    assert figure == ("50.0 %" if value else "-")
    assert markdown(alone)
