"""A report as one page that needs no network and no script."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from keras_distill._extras import install_hint
from keras_distill.pipeline.reports.record import RunReport
from keras_distill.pipeline.reports.sections import Section, cards, sections

__all__ = ["html"]

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_TONES = {"better": "good", "worse": "bad", "NO": "bad", "NOT VERIFIED": "bad"}


def html(report: RunReport) -> str:
    """The page's text; all that a run brings is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["tone"] = _tone
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    shown = list(sections(report))
    drawn = {name: _drawn(report, name) for one in shown for name in one.pictures} if _can() else {}
    hint = "" if _can() else f"Pictures need matplotlib: {install_hint('demo')}"
    anchors = {one.title: f"part{number}" for number, one in enumerate(shown, 1)}
    return template.render(
        report=report,
        cards=cards(report),
        sections=shown,
        drawn=drawn,
        hint=hint,
        anchors=anchors,
        foldable=_foldable,
    )


def _can() -> bool:
    return find_spec("matplotlib") is not None


def _drawn(report: RunReport, name: str) -> Any:
    from markupsafe import Markup

    from keras_distill.pipeline.reports import pictures

    # matplotlib has escaped the words in it.
    return Markup(
        pictures.curves(report.curves) if name == "curves" else pictures.against(report, name)
    )


def _foldable(section: Section, number: int) -> bool:
    """Whether a table lies behind its title: all but a section's first."""
    return number > 1 and len(section.tables) > 1


def _tone(cell: str) -> str:
    """The class of a cell that says how good something is."""
    return next((name for word, name in _TONES.items() if word in cell.split(", ")[-1:]), "")
