"""The picture of a search: accuracy against bytes and against latency."""

import io

from keras_distill.pipeline.tuning.record import TunePoint, TuneReport

__all__ = ["drawn"]


def drawn(report: TuneReport) -> bytes:
    """A PNG: all trials, those on the front with their numbers, the recipe's own as a star."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    metric = report.points[0].metric
    sides = figure.subplots(1, 2, sharey=True)
    for axes, (words, key) in zip(
        sides,
        (("bytes of the file", "bytes"), ("latency, ms", "latency_p50_ms")),
        strict=True,
    ):
        _draw(axes, report, key)
        axes.set(xlabel=words, xscale="log")
        for one in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            one("{x:,.6g}")
        axes.margins(0.12)
        axes.grid(alpha=0.3)
    unit = ", %" if metric == "accuracy" else ""
    sides[0].set(ylabel=f"validation {metric}{unit}")
    sides[0].legend(loc="best", fontsize=9)
    figure.suptitle(f"{report.recipe}: {len(report.points)} trials")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    return buffer.getvalue()


def _draw(axes, report, key):
    others = [point for point in report.points if not point.on_front]
    front = [point for point in report.points if point.on_front]
    for points, look in (
        (others, {"color": "0.7", "label": "beaten by another"}),
        (front, {"color": "C0", "label": "not beaten", "zorder": 3}),
        (
            [point for point in report.points if point.trial == 0],
            {"color": "C1", "marker": "*", "s": 160, "label": "the recipe's own", "zorder": 4},
        ),
        (
            [point for point in report.points if point.trial == report.best],
            {"facecolors": "none", "edgecolors": "C3", "s": 200, "label": "best in budget"},
        ),
    ):
        if points:
            axes.scatter(
                [getattr(one, key) for one in points], [_height(one) for one in points], **look
            )
    for one in front:
        axes.annotate(
            str(one.trial),
            (getattr(one, key), _height(one)),
            textcoords="offset points",
            xytext=(5, 5),
            fontsize=9,
        )


def _height(point: TunePoint) -> float:
    scale = 100 if point.metric == "accuracy" else 1
    return scale * point.quality_validation
