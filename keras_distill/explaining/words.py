"""The record in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from keras_distill._records import Table
from keras_distill.explaining.record import Comparison, LostExample
from keras_distill.explaining.similarity import Similarity

# What a glance takes in; the JSON has all.
_MOST_ROWS = 10


def parts(record: Comparison) -> Iterator[str | Table]:
    """What `Explanation.parts` gives."""
    yield _models(record)
    yield (
        f"\nSame answer: {record.agreement_share:.1%} of {record.examples:,} examples "
        f"({record.labelled:,} labelled); KL from the teacher {record.kl_nats:.4f} nats."
    )
    if swaps := _swaps(record):
        yield f"Most often otherwise (teacher's answer > student's): {swaps}."
    if record.classes:
        yield from _classes(record)
    if record.similarity is not None:
        yield from layers(record.similarity)
    else:
        yield f"\nNo layers were compared: {record.no_similarity}."
    if record.lost:
        yield from _lost(record)


def _models(record: Comparison) -> Table:
    rows = [("model", record.teacher.name, record.student.name, "")]
    teacher, student = record.teacher, record.student
    measures = (
        ("accuracy", teacher.accuracy, student.accuracy),
        ("calibration error (ECE)", teacher.ece, student.ece),
        ("mean confidence", teacher.confidence, student.confidence),
        ("mean entropy, nats", teacher.entropy_nats, student.entropy_nats),
    )
    for name, before, after in measures:
        if before is not None and after is not None:
            rows.append((name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"))
    return table(("", "teacher", "student", "change"), rows)


def _swaps(record: Comparison) -> str:
    """The largest entries off the agreement's diagonal, in words."""
    counts = np.array(record.agreement)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:5]
    found = [np.unravel_index(place, counts.shape) for place in order]
    names = record.class_names
    return ", ".join(
        f"{names[teacher]} > {names[student]} ({counts[teacher, student]})"
        for teacher, student in found
        if counts[teacher, student]
    )


def _classes(record: Comparison) -> Iterator[str | Table]:
    shown = sorted(record.classes, key=lambda one: (one.gained - one.lost, -one.lost))[:_MOST_ROWS]
    yield title("Classes, by what the student lost", len(shown), len(record.classes))
    rows = []
    for one in shown:
        accuracies = (one.accuracy_teacher, one.accuracy_student)
        cells = ("-" if value is None else f"{value:.1%}" for value in accuracies)
        rows.append((one.name, f"{one.examples:,}", *cells, f"{one.gained:,}", f"{one.lost:,}"))
    yield table(("class", "examples", "teacher", "student", "gained", "lost"), rows)


def layers(similarity: Similarity) -> Iterator[str | Table]:
    """The student's layers and their partners."""
    yield "\nLayers, and which of the teacher's suits each as a hint"
    rows = []
    for layer in similarity.student_layers:
        partner = similarity.layer_map.get(layer)
        cka = "-" if partner is None else f"{similarity.of(layer, partner):.3f}"
        rows.append((layer, partner or "-", cka))
    yield table(("student's", "teacher's", "CKA"), rows, words=2)


def _lost(record: Comparison) -> Iterator[str | Table]:
    shown = record.lost[:_MOST_ROWS]
    yield title("Examples where the student lost the most", len(shown), len(record.lost))
    rows = []
    for one in shown:
        label = "-" if one.label is None else record.class_names[one.label]
        answers = answers_of(one, record.class_names)
        figures = (f"{one.lost_nats:.3f}", f"{one.kl_nats:.3f}")
        rows.append((str(one.index), label, *answers, *figures))
    yield table(("example", "label", "teacher", "student", "lost, nats", "KL, nats"), rows)


def answers_of(one: LostExample, names: Sequence[str]) -> tuple[str, str]:
    """What the teacher and what the student answers, and how sure each is."""
    return (
        f"{names[one.teacher]} ({one.teacher_probability:.0%})",
        f"{names[one.student]} ({one.student_probability:.0%})",
    )


def title(what: str, shown: int, there_are: int) -> str:
    """Over a table, with how many of all are in it."""
    return f"\n{what}" + (f" ({shown} of {there_are})" if shown < there_are else "")


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], words: int = 1) -> Table:
    """A table whose first `words` columns hold words, the others numbers."""
    return Table(columns, tuple(rows), numbers=columns[words:], width=100)
