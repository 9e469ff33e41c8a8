"""A report as Markdown: the page's sentences and tables, without its pictures."""

import re
from collections.abc import Iterator

from keras_distill._records import Table
from keras_distill.pipeline.reports.record import RunReport
from keras_distill.pipeline.reports.sections import Section, sections

__all__ = ["markdown"]

_SPECIAL = re.compile(r"([\\`*_\[\]|#~$])")


def markdown(report: RunReport) -> str:
    """The text; what a run brings is shown as it is, whatever it means in Markdown or HTML."""
    lines = [f"# {_plain(report.title)}", ""]
    if report.description:
        lines += [_plain(report.description), ""]
    lines += [f"- {_plain(sentence)}" for sentence in report.words()]
    for section in sections(report):
        lines += ["", *_section(section)]
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {_plain(section.title)}"
    for words in section.words:
        yield from ("", _plain(words))
    for title, text in section.preformatted.items():
        yield from ("", f"{_plain(title)}:", "")
        yield from (f"    {line}".rstrip() for line in text.splitlines())
    for title, table in section.tables.items():
        if title != section.title:
            yield from ("", f"### {_plain(title)}")
        yield from ("", *_table(table))


def _table(table: Table) -> Iterator[str]:
    yield _row(table.columns)
    yield f"| {' | '.join('---:' if name in table.numbers else '---' for name in table.columns)} |"
    for row in table.rows:
        yield _row(row)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(words: str) -> str:
    escaped = _SPECIAL.sub(r"\\\1", " ".join(words.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
