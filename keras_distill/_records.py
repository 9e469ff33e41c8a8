"""Frozen records: one text for `print`, one table for a notebook, one JSON."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

__all__ = ["NOT_IN_JSON", "Record", "Table", "pairs"]

NOT_IN_JSON = {"json": False}
_RULED = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True)
class Table:
    """Cells in words, to be shown as text or as HTML.

    Attributes:
      columns: headings; empty for a list of names and values.
      rows: a tuple of cells each.
      numbers: headings of columns that hold numbers, which are written flush right.
      title: above it.
      width: characters that a line of the text may take; longer cells go on below.
      ruled: a line below the headings.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...] = ()
    title: str = ""
    width: int = 160
    ruled: bool = True

    def as_text(self) -> str:
        """Plain text; values without headings are not folded."""
        if not self.columns:
            widest = max((len(name) for name, _ in self.rows), default=0)
            return "\n".join(f"{name:<{widest}}  {value}".rstrip() for name, value in self.rows)
        look: dict[str, Any] = {"box": _RULED}
        if not self.ruled:
            look = {"box": None, "padding": (0, 2, 0, 0)}
        table = RichTable(show_edge=False, **look)
        for column in self.columns:
            table.add_column(column, justify=self._side(column), overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        text = _plain_text(table, self.width)
        return f"{self.title}\n{text}" if self.title else text

    def as_html(self) -> str:
        """A `<table>`; every cell is escaped."""
        title = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        heading = f"<thead>{self._html_row('th', self.columns)}</thead>" if self.columns else ""
        body = "".join(self._html_row("td", row) for row in self.rows)
        return f"<table>{title}{heading}<tbody>{body}</tbody></table>"

    def _html_row(self, tag: str, cells: tuple[str, ...]) -> str:
        written = (
            f'<{tag} style="text-align: {self._side(column)}">{html.escape(cell)}</{tag}>'
            for cell, column in zip(cells, self.columns or ("", ""), strict=True)
        )
        return f"<tr>{''.join(written)}</tr>"

    def _side(self, column: str) -> Literal["left", "right"]:
        return "right" if column in self.numbers else "left"


def pairs(rows: Mapping[str, Any]) -> Table:
    """Names and values as a table without headings."""
    return Table((), tuple((name, str(value)) for name, value in rows.items()))


class Record:
    """What a frozen dataclass gains that says in `parts` how it reads.

    `print` shows plain text, a notebook's last expression the same as HTML tables, `to_json` writes
    the fields. A field with `metadata=NOT_IN_JSON` is left out of that, the properties named in
    `derived` are added.
    """

    derived: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # IPython asks class by class, and stops where a dataclass has its own __repr__.
        cls._repr_pretty_ = Record._repr_pretty_  # type: ignore[method-assign]

    def parts(self) -> Iterator[str | Table]:
        """What is shown, in order: sentences and tables."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        yield pairs({field.name: getattr(self, field.name) for field in fields})

    def __str__(self) -> str:
        return "\n".join(
            part if isinstance(part, str) else part.as_text() for part in self.parts()
        ).rstrip()

    def as_html(self) -> str:
        """The parts as paragraphs and tables, escaped."""
        return "".join(
            part.as_html() if isinstance(part, Table) else _paragraph(part) for part in self.parts()
        )

    def _repr_html_(self) -> str:
        """What Jupyter and Colab show."""
        return self.as_html()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows where there is no HTML."""
        printer.text(str(self))

    def to_json(self) -> str:
        """The record as a JSON object; null for a number that is not finite."""
        return json.dumps(_jsonable(self), allow_nan=False, default=str)


def _paragraph(words: str) -> str:
    return f"<p>{html.escape(words.strip()).replace(chr(10), '<br>')}</p>" if words.strip() else ""


def _plain_text(table: RichTable, width: int) -> str:
    # Of its own accord rich writes HTML in a notebook, and escape codes in a terminal.
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=False,
        force_jupyter=False,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _jsonable(value: Any) -> Any:
    """`value` in JSON's types; what has none is left to `str`."""
    if dataclasses.is_dataclass(value):
        kept = [field for field in dataclasses.fields(value) if field.metadata != NOT_IN_JSON]
        names = [field.name for field in kept]
        names += value.derived if isinstance(value, Record) else ()
        return {name: _jsonable(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _jsonable(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
