"""A report's tables: cells in words, for the terminal, the page and Markdown alike."""

import textwrap
from collections.abc import Iterator, Sequence

from keras_distill._records import Table
from keras_distill.pipeline.reports.layers import LayerRow
from keras_distill.pipeline.reports.record import Beside, ClassRow, Row, RunReport
from keras_distill.pipeline.reports.robustness import Robustness
from keras_distill.pipeline.reports.words import (
    apart,
    bytes_in_words,
    figure,
    milliseconds,
    times,
)

__all__ = [
    "beside_teacher",
    "class_table",
    "layer_table",
    "other_figures",
    "robustness_table",
    "row_table",
    "terminal_table",
]

_TERMINAL, _NAME = 80, 18


def terminal_table(report: RunReport) -> Table:
    """A line a model or file, in 80 columns."""
    head = ("model or file", report.metric, "size", "LiteRT", "Keras", "beside the teacher")
    rows = tuple(
        (
            "\n".join(textwrap.wrap(row.name, _NAME)),
            figure(row.value, report.share),
            bytes_in_words(row.bytes),
            milliseconds(row.litert_p50_ms),
            milliseconds(row.keras_p50_ms),
            "\n".join(beside_teacher(report, row)),
        )
        for row in report.rows
    )
    return Table(head, rows, head[1:5], width=_TERMINAL, ruled=False)


def beside_teacher(report: RunReport, row: Row) -> Iterator[str]:
    """In words how a row stands against the teacher."""
    if report.teacher is None or row.name == report.teacher:
        return
    teacher = report[report.teacher]
    yield times(row.bytes, teacher.bytes, "fewer bytes", "more bytes").replace(
        "about the same", "as many bytes"
    )
    if row.litert_p50_ms is not None and teacher.litert_p50_ms is not None:
        yield times(row.litert_p50_ms, teacher.litert_p50_ms, "faster", "slower").replace(
            "about the same", "as fast"
        )
    if row.from_teacher is not None:
        yield apart(row.from_teacher.difference, report.share)
    if row.agreement is not None:
        yield f"agrees: {_agreement(report, row)}"


def row_table(report: RunReport) -> Table:
    """All of every row."""
    head = [
        "model or file",
        report.metric,
        f"{100 * report.confidence:.0f} % interval",
        "from the teacher",
        "from the twin",
        "agrees with the teacher",
        "parameters",
        "bytes",
        "bytes zipped",
        "LiteRT, one thread",
        "Keras",
        "verified",
    ]
    left_out = {
        "from the teacher": report.teacher is None,
        "agrees with the teacher": report.teacher is None,
        "from the twin": report.twin is None,
        "verified": all(row.verified is None for row in report.rows),
    }
    rows = [
        (
            row.name,
            figure(row.value, report.share),
            _interval(row, report.share),
            _told(row.from_teacher, report.share),
            _told(row.from_twin, report.share),
            _agreement(report, row),
            "-" if row.parameters is None else f"{row.parameters:,}",
            f"{row.bytes:,}",
            f"{row.bytes_zipped:,}" if row.is_file else "-",
            milliseconds(row.litert_p50_ms),
            milliseconds(row.keras_p50_ms),
            {None: "-", True: "yes", False: "NO"}[row.verified],
        )
        for row in report.rows
    ]
    kept = [i for i, name in enumerate(head) if not left_out.get(name)]
    columns = tuple(head[i] for i in kept)
    numbers = tuple(name for name in columns if name not in (head[0], head[3], head[4], head[11]))
    return Table(columns, tuple(tuple(row[i] for i in kept) for row in rows), numbers)


def other_figures(report: RunReport) -> Table | None:
    """The task's other metrics; None where there are none."""
    names = list(dict.fromkeys(name for row in report.rows for name in row.figures))
    if not names:
        return None
    head = ("model or file", *names)
    rows = tuple(
        (row.name, *(_plain(row.figures.get(name)) for name in names)) for row in report.rows
    )
    return Table(head, rows, head[1:])


def class_table(report: RunReport, shown: Sequence[Row], classes: Sequence[ClassRow]) -> Table:
    """The metric class by class, and how the last of those shown differs from those before."""
    names = [row.name for row in shown]
    special = [name for name in (report.teacher, report.twin) if name in names[:-1]]
    called = {report.teacher: "teacher", report.twin: "twin"}
    head = ("class", "examples", *names, *(f"from the {called[name]}" for name in special))
    rows = []
    for one in classes:
        last = one.values.get(names[-1])
        changes = [_minus(last, one.values.get(name)) for name in special]
        rows.append(
            (
                one.name,
                f"{one.examples:,}",
                *(figure(one.values.get(name), report.share) for name in names),
                *(apart(change, report.share) for change in changes),
            )
        )
    return Table(head, tuple(rows), head[1:])


def layer_table(rows: Sequence[LayerRow]) -> Table:
    """The layers of one file."""
    head = ("layer", "operation", "stored as", "shape", "zero weights", "signal to noise")
    cells = tuple(
        (
            row.layer,
            row.op,
            row.dtype,
            " x ".join(map(str, row.shape)),
            "-" if row.sparsity is None else f"{100 * row.sparsity:.0f} %",
            "equal" if row.equal else "-" if row.snr_db is None else f"{row.snr_db:.1f} dB",
        )
        for row in rows
    )
    return Table(head, cells, head[4:])


def robustness_table(found: Robustness) -> Table:
    """A line a kind of damage: from its mildest to its strongest."""
    head = ("condition", *found.models)
    rows = []
    for kind, conditions in found.kinds().items():
        cells = []
        for model in found.models:
            ends = dict.fromkeys((conditions[0], conditions[-1]))
            values = [figure(found.conditions[one].get(model), found.share) for one in ends]
            cells.append(" to ".join(values))
        rows.append((kind, *cells))
    if found.corruption_errors:
        errors = (_plain(found.corruption_errors.get(model)) for model in found.models)
        rows.append(("mean corruption error", *errors))
    return Table(head, tuple(rows), head[1:])


def _agreement(report: RunReport, row: Row) -> str:
    if row.agreement is None:
        return "-"
    return f"r = {row.agreement:.2f}" if report.task == "numbers" else figure(row.agreement, True)


def _interval(row: Row, share: bool) -> str:
    if row.low is None or row.high is None:
        return "-"
    return f"{figure(row.low, share).removesuffix(' %')} to {figure(row.high, share)}"


def _told(found: Beside | None, share: bool) -> str:
    return "-" if found is None else f"{apart(found.difference, share)}, {found.verdict}"


def _minus(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
