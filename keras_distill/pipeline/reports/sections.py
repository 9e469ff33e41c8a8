"""What stands on a report's page and in its Markdown, section by section."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from keras_distill._records import Table
from keras_distill.pipeline.reports import tables
from keras_distill.pipeline.reports.record import ClassRow, Row, RunReport
from keras_distill.pipeline.reports.sentences import beside
from keras_distill.pipeline.reports.words import bytes_in_words, figure, milliseconds, times

__all__ = ["Card", "Section", "cards", "sections"]

_MOST_CLASSES = 40
_FRONT = (
    "Round: a Keras model. Square: a file. Filled: on the Pareto front, the dashed line; nothing "
    "lies above it and to the left of it at once. The bars are intervals."
)


@dataclass(frozen=True)
class Card:
    """A headline: whose, its figure, and what else there is to say in short lines."""

    title: str
    name: str
    figure: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it.

    Attributes:
      title: the heading.
      words: a paragraph each.
      tables: by their titles; shown where there is one, behind the title where there are more.
      pictures: by what they are called, what each shows, in words.
      preformatted: likewise texts that keep their lines.
    """

    title: str
    words: tuple[str, ...] = ()
    tables: dict[str, Table] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    preformatted: dict[str, str] = field(default_factory=dict)


def cards(report: RunReport) -> list[Card]:
    """Teacher, student, file."""
    teacher = None if report.teacher is None else report[report.teacher]
    found = []
    if teacher is not None:
        found.append(Card("Teacher", teacher.name, *_main(report, teacher, None)))
    for title, row in (("Student", report.student()), ("File", report.file())):
        if row is not None:
            found.append(Card(title, row.name, *_main(report, row, teacher)))
    return found


def _main(report: RunReport, row: Row, teacher: Row | None) -> tuple[str, tuple[str, ...]]:
    size = bytes_in_words(row.bytes)
    speed = f"{milliseconds(row.litert_p50_ms)} in LiteRT"
    if teacher is not None:
        size += f", {times(row.bytes, teacher.bytes, 'fewer bytes', 'more bytes')}"
        if row.litert_p50_ms is not None and teacher.litert_p50_ms is not None:
            speed += f", {times(row.litert_p50_ms, teacher.litert_p50_ms, 'faster', 'slower')}"
    lines = [size] if row.litert_p50_ms is None else [size, speed]
    if row.from_twin is not None and row.name != report.teacher:
        lines.append(beside(row.from_twin, "its twin", report.share, interval=False))
    if row.from_teacher is not None:
        lines.append(beside(row.from_teacher, "the teacher", report.share, interval=False))
    return figure(row.value, report.share), tuple(lines)


def sections(report: RunReport) -> Iterator[Section]:
    """All that there is something to say in, in order."""
    yield _models(report)
    if report.curves:
        words = "On the validation data, epoch by epoch."
        yield Section("Training", (words,), pictures={"curves": "Each training, epoch by epoch"})
    metric = report.metric[:1].upper() + report.metric[1:]
    pictures = {"bytes": f"{metric} against the bytes of each model and file"}
    if any(row.litert_p50_ms is not None for row in report.rows):
        pictures["litert_p50_ms"] = f"{metric} against the time of one example in LiteRT"
    yield Section(f"What {report.metric} costs", (_FRONT, *_front(report)), pictures=pictures)
    if report.classes:
        yield _classes(report)
    if report.layers:
        yield _layers(report)
    yield _robustness(report)
    yield _again(report)


def _models(report: RunReport) -> Section:
    words = [
        "Times are medians of one example. LiteRT runs with one thread in a process of its own; a "
        "Keras model's time there is that of a float32 file made from it, so that all are compared "
        "alike. Keras' own times hold its overhead."
    ]
    if report.teacher is not None:
        words.append(
            'Differences are counted on the same examples: "better" and "worse" where the '
            "interval of the difference leaves out 0."
        )
    notes: dict[str, list[str]] = {}
    for row in report.rows:
        if row.note:
            notes.setdefault(row.note, []).append(row.name)
    words += [f"{', '.join(names)}: {note}." for note, names in notes.items()]
    found = {"Models and files": tables.row_table(report)}
    if (others := tables.other_figures(report)) is not None:
        found["Other metrics"] = others
    outcomes = tuple((r.name, r.stage, _seconds(r), r.outcome or "-") for r in report.rows)
    head = ("made by", "kind", "took", "came to")
    found["What each stage came to"] = Table(head, outcomes, ("took",))
    return Section("Models and files", tuple(words), found)


def _seconds(row: Row) -> str:
    if row.seconds is None:
        return "-"
    return f"{row.seconds:.1f} s" if row.seconds < 120 else f"{row.seconds / 60:.0f} min"


def _front(report: RunReport) -> Iterator[str]:
    for cost, words in (("bytes", "bytes"), ("litert_p50_ms", "time")):
        if names := [row.name for row in report.front(cost)]:
            yield f"The front by {words}: {', '.join(names)}."


def _classes(report: RunReport) -> Section:
    special = [report[name] for name in (report.teacher, report.twin) if name is not None]
    last = [row for row in (report.student(), report.file()) if row is not None]
    shown = special + last or list(report.rows)[-1:]
    base = shown[0].name

    def moved(one: ClassRow) -> float:
        ours, theirs = one.values.get(shown[-1].name), one.values.get(base)
        return 0.0 if ours is None or theirs is None else -abs(ours - theirs)

    kept = list(report.classes)
    metric = report.metric[:1].upper() + report.metric[1:]
    words = [f"{metric} on the test examples of each class."]
    if len(kept) > _MOST_CLASSES:
        kept = sorted(kept, key=moved)[:_MOST_CLASSES]
        words.append(
            f"The {_MOST_CLASSES} of {len(report.classes):,} classes that changed most; the JSON "
            f"has all."
        )
    words.append("A class with few examples moves by chance.")
    table = tables.class_table(report, shown, kept)
    return Section("Class by class", tuple(words), {"Class by class": table})


def _layers(report: RunReport) -> Section:
    words = (
        "Each layer of a file as it is stored, and beside the same layer of the model it was "
        "exported from: above 30 dB they are hardly told apart, below 10 dB the layer is worth a "
        "look. An error carries on to the layers behind it.",
    )
    found = {}
    main = report.file()
    # The file that the page begins with comes first.
    for row in sorted(report.rows, key=lambda row: row is not main):
        if rows := [one for one in report.layers if one.file == row.name]:
            kinds = ", ".join(f"{count} {kind}" for kind, count in row.dtypes.items())
            zeros = (
                "" if row.sparsity is None else f"; {100 * row.sparsity:.0f} % of its weights are 0"
            )
            found[f"{row.name}: tensors {kinds}{zeros}"] = tables.layer_table(rows)
    return Section("Layers of the files", words, found)


def _robustness(report: RunReport) -> Section:
    if not report.robustness:
        unasked = (
            "Nobody has asked what happens when the data get worse. A stage of the recipe does: "
            "{stage: judge, conditions: images}, or recordings, tables, tokens."
        )
        return Section("Robustness", (unasked,))
    words = tuple(
        f"{one.stage}: {one.metric} of {one.rows:,} examples, as they are and damaged, from the "
        f"mildest severity to the strongest."
        for one in report.robustness
    )
    found = {one.stage: tables.robustness_table(one) for one in report.robustness}
    return Section("Robustness", words, found)


def _again(report: RunReport) -> Section:
    data = report.data
    facts = {"seed": str(report.seed), **report.environment}
    if report.host:
        facts["times taken on"] = report.host
    facts["data"] = str(data.get("name", "-"))
    rows, digests = data.get("rows"), data.get("sha256")
    if isinstance(rows, dict):
        facts |= {f"{part} examples": f"{count:,}" for part, count in rows.items()}
    elif rows is not None:
        facts["examples"] = str(rows)
    if data.get("labelled") is not None:
        facts["training labels known to students"] = f"{data['labelled']:,}"
    if isinstance(digests, dict):
        facts |= {f"SHA-256 of {part}": str(value) for part, value in digests.items()}
    elif digests is not None:
        facts["SHA-256"] = str(digests)
    cells = tuple((name, str(value)) for name, value in facts.items())
    return Section(
        "Make it again",
        ("The command, with the same data, seed and versions on such a machine, makes the same.",),
        {"Environment and data": Table(("what", "value"), cells)},
        preformatted={"The command": report.command, "The recipe": report.recipe.rstrip()},
    )
