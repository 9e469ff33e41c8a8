"""A judgement as one HTML page that needs no network."""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path

from keras_distill import _files
from keras_distill.judging.record import Judgement

__all__ = ["page"]

# Tables scroll by themselves, so that the page does not on a phone.
_STYLE = """
h1 { font-size: 1.5rem; line-height: 1.25; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; vertical-align: top; }
td { white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; min-width: 6rem;
  white-space: normal; }
img { max-width: 100%; height: auto; }
"""


def page(record: Judgement, path: str | os.PathLike[str] | None) -> str:
    """The page's text; the file at `path` is whole or not there.

    Raises:
      ModuleNotFoundError: matplotlib is missing, which the extra "demo" brings.
    """
    title = html.escape(f"{', '.join(record.models)}: {record.rows:,} examples")
    body = record.as_html().replace("<table>", '<div class="scroll"><table>')
    body = body.replace("</table>", "</table></div>")
    alternative = html.escape(f"{record.metrics[0]} of each model under each condition")
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{body}"
        f'<img alt="{alternative}" src="data:image/png;base64,{_picture(record)}">'
        "</body></html>\n"
    )
    if path is not None:
        _files.write(Path(path), text.encode())
    return text


def _picture(record: Judgement) -> str:
    buffer = io.BytesIO()
    record.plot().savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
