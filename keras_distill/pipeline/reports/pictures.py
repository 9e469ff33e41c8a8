"""A report's pictures as SVG that takes its colours from the page around it."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from keras_distill.pipeline.reports.record import Row, RunReport
from keras_distill.pipeline.reports.words import bytes_in_words, figure, milliseconds

__all__ = ["against", "curves"]

# Drawn in colours that nothing else has, and written as the page's.
_TEXT, _QUIET, _LINE = "#010203", "#040506", "#070809"
_OF_THE_PAGE = {_TEXT: "currentColor", _QUIET: "var(--quiet)", _LINE: "var(--line)"}
# Told apart by who sees no red or green, on white and on black: Okabe and Ito, 2008.
_COLOURS = ("#0a7abf", "#e08a00", "#0a9a73", "#cc6fa0", "#d55e00", "#4aa3d8", "#8a8f98")
_WIDTH, _LONGEST = 4.8, 26
# Inches from one label to the next.
_LINE_HEIGHT = 0.31
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_distill",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "grid.color": _LINE,
}


def against(report: RunReport, cost: str) -> str:
    """The metric over a cost: a point a row with its interval, and the Pareto front.

    Args:
      report: see there.
      cost: "bytes" or "litert_p50_ms".
    """
    rows = [r for r in report.rows if r.value is not None and getattr(r, cost) is not None]
    scale = 100 if report.share else 1
    front = report.front(cost)
    with _axes(rows) as (axes, written):
        axes.set_xscale("log")
        axes.step(
            [getattr(row, cost) for row in front],
            [scale * (row.value or 0.0) for row in front],
            where="post",
            color=_QUIET,
            linestyle="--",
            linewidth=1,
            zorder=1,
        )
        colours = _colours([row.line for row in report.rows])
        for row in rows:
            _point(axes, row, getattr(row, cost), scale, colours[row.line], row in front)
        if prices := [getattr(row, cost) for row in rows]:
            axes.set_xlim(min(prices) / 1.5, max(prices) * 1.5)
        axes.margins(y=0.12)
        heading = "bytes of the file" if cost == "bytes" else "ms for one example in LiteRT"
        axes.set(xlabel=heading, ylabel=f"{report.metric}{', %' if report.share else ''}")
        _plain_ticks(axes, bytes_in_words if cost == "bytes" else milliseconds)
        names = [
            f"{_short(r.name)}\n{figure(r.value, report.share)}, {_cost(r, cost)}" for r in rows
        ]
        points = [(getattr(row, cost), scale * (row.value or 0.0)) for row in rows]
        _label(axes, names, points, [colours[row.line] for row in rows])
    return written[0]


def curves(histories: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """Each training by epoch, in the figure that all of them have."""
    key = _common(histories)
    shares = "accuracy" in key
    with _axes(histories) as (axes, written):
        points, colours = [], _colours(list(histories))
        for name, history in histories.items():
            values = [
                float("nan") if value is None else 100 * value if shares else value
                for value in history.get(key, ())
            ]
            axes.plot(range(1, len(values) + 1), values, color=colours[name], marker=".")
            points.append((len(values), values[-1]) if values else (1, float("nan")))
        words = key.removeprefix("val_").replace("_", " ")
        words = f"validation {words}" if key.startswith("val_") else words
        axes.set(xlabel="epoch", ylabel=f"{words}{', %' if shares else ''}")
        axes.locator_params(axis="x", integer=True)
        shown = [i for i, (_, y) in enumerate(points) if y == y]
        names = list(histories)
        _label(
            axes,
            [f"{_short(names[i])}\n{points[i][1]:.4g}{' %' if shares else ''}" for i in shown],
            [points[i] for i in shown],
            [colours[names[i]] for i in shown],
        )
    return written[0]


def _common(histories: Mapping[str, Mapping[str, Any]]) -> str:
    """The figure that every training has: of the validation, and no loss, where there is one."""
    of_each = [set(history) for history in histories.values()]
    common = [key for key in next(iter(histories.values())) if all(key in one for one in of_each)]

    def rank(key: str) -> tuple[bool, bool, bool]:
        return (not key.startswith("val_"), "loss" in key, "accuracy" not in key)

    usable = [key for key in common if "learning_rate" not in key]
    return min(usable or list(next(iter(histories.values()))), key=rank)


def _point(axes: Any, row: Row, x: float, scale: float, colour: str, best: bool) -> None:
    value = scale * (row.value or 0.0)
    low, high = (value if one is None else scale * one for one in (row.low, row.high))
    axes.errorbar(
        x,
        value,
        yerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
        fmt="s" if row.is_file else "o",
        color=colour,
        markersize=7,
        markerfacecolor=colour if best else "none",
        linewidth=1,
        capsize=2,
        zorder=3,
    )


@contextmanager
def _axes(lines: Any) -> Iterator[tuple[Any, list[str]]]:
    """Axes with room for labels at the right, and a list that holds them as SVG in the end."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    height = max(3.4, _LINE_HEIGHT * len(lines) + 0.8)
    written: list[str] = []
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, height))
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_axes((0.13, 0.55 / height, 0.47, 1 - 0.7 / height))
        axes.grid(linewidth=0.6)
        axes.set_axisbelow(True)
        yield axes, written
        buffer = io.StringIO()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(buffer, metadata=nothing)
    written.append(_inline(buffer.getvalue()))


def _inline(svg: str) -> str:
    """The element alone, without addresses, sized and coloured by the page."""
    svg = svg[svg.index("<svg") :]
    head, _, rest = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    for drawn, name in _OF_THE_PAGE.items():
        rest = rest.replace(drawn, name)
    return f'<svg {box.group()} aria-hidden="true">{rest}'.strip()


def _label(axes: Any, names: list[str], points: list[tuple], colours: list[str]) -> None:
    """Names in a column at the right, in the points' order, each with a line to its point."""
    if not names:
        return
    height = axes.get_position().height * axes.figure.get_size_inches()[1]
    step = min(_LINE_HEIGHT / height, 1 / len(names))
    places = [
        float(axes.transAxes.inverted().transform(axes.transData.transform(p))[1]) for p in points
    ]
    order = sorted(range(len(names)), key=lambda i: (places[i], points[i]))
    heights: list[float] = []
    for i in order:
        heights.append(max(places[i], heights[-1] + step) if heights else max(places[i], step / 2))
    # Pushed beyond the top they come down again, those below them too.
    top = 1 - step / 2
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], top)
        top = heights[place] - step
    for i, at in zip(order, heights, strict=True):
        axes.annotate(
            names[i],
            xy=points[i],
            xytext=(1.07, at),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            linespacing=1.05,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colours[i],
                "linewidth": 0.5,
                "alpha": 0.7,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def _plain_ticks(axes: Any, words: Any) -> None:
    """Ticks of a logarithmic axis in the table's words, a few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    subs = (1.0,) if high / low > 30 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    convert = (lambda x, _: words(int(x))) if words is bytes_in_words else (lambda x, _: words(x))
    axes.xaxis.set_major_formatter(FuncFormatter(convert))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _colours(names: list[str]) -> dict[str, str]:
    distinct = list(dict.fromkeys(names))
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(distinct)}


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _cost(row: Row, cost: str) -> str:
    return bytes_in_words(row.bytes) if cost == "bytes" else milliseconds(row.litert_p50_ms)
