"""What a report's numbers say, in sentences."""

from collections.abc import Iterator

from keras_distill.pipeline.reports.record import Beside, Row, RunReport
from keras_distill.pipeline.reports.words import (
    apart,
    bytes_in_words,
    figure,
    milliseconds,
    times,
    unsigned,
)

__all__ = ["beside", "faster", "sentences", "smaller"]


def sentences(report: RunReport) -> Iterator[str]:
    """Gains and losses alike, and what the numbers don't say."""
    yield from _failures(report)
    yield from _labels(report)
    teacher = None if report.teacher is None else report[report.teacher]
    student, file = report.student(), report.file()
    if student is not None:
        yield from _student(report, student)
    if file is not None:
        yield from _file(report, file)
        if teacher is not None:
            yield from smaller(file, teacher)
            yield from faster(file, teacher)
    rows = f"{report.test_rows:,} test examples"
    yield (
        f"Intervals and verdicts are of these {rows}, not of other seeds: try another seed "
        f"before you trust a small difference."
    )


def smaller(row: Row, teacher: Row) -> Iterator[str]:
    """How many bytes it has beside the teacher's."""
    own = times(row.bytes, teacher.bytes, "fewer bytes", "more bytes")
    words = f"{row.name} has {bytes_in_words(row.bytes)}: {_than(own, 'many', 'the teacher')}"
    words += f" ({bytes_in_words(teacher.bytes)})"
    if teacher.litert_bytes is not None:
        alike = times(row.bytes, teacher.litert_bytes, "fewer", "more")
        words += f", {_than(alike, 'many', 'the teacher as a LiteRT file of its own')}"
    yield f"{words}."


def faster(row: Row, teacher: Row) -> Iterator[str]:
    """How long an example takes beside the teacher."""
    if row.litert_p50_ms is None:
        return
    found = []
    for theirs, whom, more in (
        (teacher.litert_p50_ms, "the teacher's own LiteRT file", ""),
        (teacher.keras_p50_ms, "the teacher in Keras", ", Keras' overhead included"),
    ):
        if theirs is not None:
            ratio = times(row.litert_p50_ms, theirs, "faster", "slower")
            found.append(f"{_than(ratio, 'fast', whom)} ({milliseconds(theirs)}{more})")
    ours = milliseconds(row.litert_p50_ms)
    words = f"{row.name} takes {ours} for one example in LiteRT with one thread"
    yield f"{words}: {', '.join(found)}." if found else f"{words}."


def beside(found: Beside, name: str, share: bool, interval: bool = True) -> str:
    """A paired difference in words: by how much, what it is worth, and its interval.

    >>> beside(Beside(0.092, 0.058, 0.128, "better"), "its twin", True)
    '9.2 points better than its twin (5.8 to 12.8)'
    >>> beside(Beside(-0.042, -0.067, -0.019, "worse"), "the teacher", True)
    '4.2 points worse than the teacher (1.9 to 6.7)'
    >>> beside(Beside(0.003, -0.01, 0.016, "not told apart"), "the teacher", True)
    'not told apart from the teacher (+0.3 points, -1.0 to +1.6)'
    """
    if found.verdict == "not told apart":
        low, high = (apart(one, share).removesuffix(" points") for one in (found.low, found.high))
        difference = apart(found.difference, share)
        ends = f", {low} to {high}" if interval else ""
        return f"not told apart from {name} ({difference}{ends})"
    low, high = (unsigned(one, share) for one in sorted(map(abs, (found.low, found.high))))
    difference = unsigned(found.difference, share)
    unit = " points" if share else ""
    words = f"{difference}{unit} {found.verdict} than {name}"
    return f"{words} ({low} to {high})" if interval else words


def _than(words: str, same: str, whom: str) -> str:
    return f"about as {same} as {whom}" if words == "about the same" else f"{words} than {whom}"


def _failures(report: RunReport) -> Iterator[str]:
    for row in report.rows:
        if row.verified is False:
            yield (
                f"NOT VERIFIED: {row.name} strays further from its model than the recipe allows; "
                f"its stage verify says where."
            )


def _labels(report: RunReport) -> Iterator[str]:
    if not report.labelled:
        whose = report.teacher or report.twin or report.rows[0].name
        yield f"The test examples have no labels: the answers of {whose} stand for them."
    rows, labelled = report.data.get("rows", {}), report.data.get("labelled")
    all_of_them = rows.get("train") if isinstance(rows, dict) else None
    if isinstance(all_of_them, int) and isinstance(labelled, int) and labelled < all_of_them:
        yield (
            f"Students knew {labelled:,} of {all_of_them:,} training labels; under a teacher they "
            f"saw the other examples, too, without labels."
        )


def _student(report: RunReport, student: Row) -> Iterator[str]:
    found = []
    if student.from_twin is not None:
        found.append(
            beside(student.from_twin, "its twin that learned from labels alone", report.share)
        )
    if student.from_teacher is not None:
        found.append(beside(student.from_teacher, "the teacher", report.share))
    value = figure(student.value, report.share)
    yield f"{student.name}: {report.metric} {value}{''.join(f'; {one}' for one in found)}."


def _file(report: RunReport, file: Row) -> Iterator[str]:
    found = ""
    if file.from_teacher is not None:
        found = f"; {beside(file.from_teacher, 'the teacher', report.share)}"
    if file.value is None:
        yield f"{file.name}: {file.note}"
    else:
        yield f"{file.name}: {report.metric} {figure(file.value, report.share)}{found}."
