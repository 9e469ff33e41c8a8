"""Does a small text model learn from a teacher that has another vocabulary?

    python benchmarks/vocabulary.py              # 30 short trainings; resumable
    python benchmarks/vocabulary.py --table      # the table again, from the JSON
    python benchmarks/vocabulary.py --smoke      # tiny, elsewhere

The text is the standard library's own source, cut into pieces of 32 words; the question is which
package a piece is from. The teacher knows 8,000 words and has seen every label; the student knows
2,000, those of its own half of the files, and a tenth of its pieces have a label. Both read the
same words at the same places, where a word that one of them lacks is its unknown token. Both answer
with the package and, at every eighth word, with the word that comes next: that is where the two
vocabularies meet. Test and validation pieces are from files that nobody trained on.

Every method has the same student, the same number of updates, and its own best learning rate by
macro-F1 on the validation pieces. "labels" sees the labelled pieces alone, the others all pieces.
"""

import argparse
import dataclasses
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np

import keras_distill as kd

PACKAGES = [
    *("asyncio", "concurrent", "ctypes", "curses", "dbm", "email", "html", "http", "idlelib"),
    *("importlib", "json", "logging", "multiprocessing", "re", "sqlite3", "tkinter", "tomllib"),
    *("unittest", "urllib", "wsgiref", "xml", "xmlrpc", "zoneinfo"),
]
READ, STRIDE, WIDTH = 32, 8, 32
WORD = re.compile(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]")
METHODS = {
    "labels": "labels alone",
    "rows": "labels, from the teacher's rows",
    "classes": "+ package (SoftTargets)",
    "words": "+ package and words (SharedVocabulary)",
    "all": "+ both, from the teacher's rows",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained, and how long."""

    teacher_words: int = 8000
    student_words: int = 2000
    teacher_steps: int = 1500
    steps: int = 800
    batch: int = 64
    labelled: float = 0.1
    rates: tuple[float, ...] = (0.003, 0.01)
    seeds: int = 3
    largest: int = 1500


SMOKE = Plan(500, 200, 60, 30, 32, 0.1, (0.003,), 2, 100)


@dataclasses.dataclass
class Text:
    """Pieces of words, what package each is from, and which of the files."""

    words: np.ndarray
    packages: np.ndarray
    files: np.ndarray
    names: list[str]

    def of(self, rows: np.ndarray) -> "Text":
        return Text(self.words[rows], self.packages[rows], self.files[rows], self.names)


def read_text(plan: Plan) -> Text:
    """Pieces of the packages that this Python has, at most `plan.largest` of each."""
    rng = np.random.default_rng(0)
    pieces, packages, files, names = [], [], [], []
    root = Path(sysconfig.get_paths()["stdlib"])
    count = 0
    for package in PACKAGES:
        found = []
        for path in sorted(root.glob(f"{package}/**/*.py")):
            if {"test", "tests", "idle_test"} & set(path.parts):
                continue
            count += 1
            found += [(piece, count) for piece in cut(path.read_text("utf-8", "replace"))]
        if len({file for _, file in found}) < 4:
            continue
        kept = rng.permutation(len(found))[: plan.largest]
        pieces += [found[i][0] for i in kept]
        files += [found[i][1] for i in kept]
        packages += [len(names)] * len(kept)
        names.append(package)
    return Text(np.array(pieces), np.array(packages), np.array(files), names)


def cut(source: str) -> Iterator[list[str]]:
    """Pieces of READ words and the one that follows."""
    words = WORD.findall(source)
    for begin in range(0, len(words) - READ, READ):
        yield words[begin : begin + READ + 1]


def split(text: Text) -> dict[str, Text]:
    """By file: half to train on, a quarter each to validate and to test, in every package."""
    rng = np.random.default_rng(1)
    part = np.empty(len(text.files), int)
    for package in range(len(text.names)):
        rows = np.flatnonzero(text.packages == package)
        files = rng.permutation(np.unique(text.files[rows]))
        for place, file in enumerate(files):
            part[rows[text.files[rows] == file]] = (0, 1, 0, 2)[place % 4]
    parts = ("train", "validation", "test")
    return {name: text.of(np.flatnonzero(part == i)) for i, name in enumerate(parts)}


class Words:
    """A vocabulary: Keras' own text layer, on words that are cut already."""

    def __init__(self, size: int, text: Text):
        self.layer = keras.layers.TextVectorization(
            size, standardize=None, split="whitespace", output_sequence_length=READ + 1
        )
        self.layer.adapt(sentences(text))
        self.tokens = self.layer.get_vocabulary()

    def ids(self, text: Text) -> np.ndarray:
        return np.asarray(self.layer(sentences(text)), "int32")


def sentences(text: Text) -> np.ndarray:
    return np.array([" ".join(words) for words in text.words])


def model(
    tokens: int, packages: int, filters: int, seed: int, name: str, dropout: float = 0.0
) -> keras.Model:
    """Causal convolutions over words: the package, and the next word at every STRIDE-th place."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((READ,), dtype="int32")
    states = layers.Embedding(tokens, WIDTH, name="words")(inputs)
    for dilation in (1, 4):
        states = layers.SpatialDropout1D(dropout)(states)
        states = layers.Conv1D(
            filters, 5, dilation_rate=dilation, padding="causal", activation="relu"
        )(states)
    package = layers.Dense(packages, name="package")(layers.GlobalMaxPooling1D()(states))
    places = layers.AveragePooling1D(1, STRIDE)(layers.Cropping1D((STRIDE - 1, 0))(states))
    word = layers.Dense(tokens, name="word")(places)
    return keras.Model(inputs, {"package": package, "word": word}, name=name)


def following(ids: np.ndarray) -> np.ndarray:
    """The words that come next at every STRIDE-th place."""
    return ids[:, STRIDE::STRIDE]


def batches(plan: Plan, steps: int, seed: int, *columns: Any) -> Any:
    """As many batches as there are steps, in a seeded order."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(columns)
    rows = len(keras.tree.flatten(columns)[0])
    data = data.shuffle(rows, seed=seed).repeat().batch(plan.batch, drop_remainder=True)
    return data.take(steps)


def macro_f1(trained: keras.Model, ids: np.ndarray, packages: np.ndarray, names: int) -> float:
    """Keras' macro-F1 of the package."""
    logits = trained.predict(ids[:, :READ], batch_size=512, verbose=0)["package"]
    metric = keras.metrics.F1Score(average="macro")
    metric.update_state(keras.utils.to_categorical(packages, names), logits)
    return float(metric.result())


def adam(rate: float, steps: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps, alpha=0.01))


LABEL = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Experiment:
    """The text and the teacher, made once, and students trained on them."""

    def __init__(self, plan: Plan, cache: Path):
        self.plan = plan
        parts = split(read_text(plan))
        self.names = parts["train"].names
        self.parts = parts
        rng = np.random.default_rng(2)
        files = np.unique(parts["train"].files)
        own = rng.permutation(files)[: len(files) // 2]
        self.theirs = Words(plan.teacher_words, parts["train"])
        self.ours = Words(plan.student_words, parts["train"].of(np.isin(parts["train"].files, own)))
        self.ids = {name: self.ours.ids(part) for name, part in parts.items()}
        self.teacher_ids = {name: self.theirs.ids(part) for name, part in parts.items()}
        self.teacher = self._teacher(cache)

    def _teacher(self, cache: Path) -> keras.Model:
        teacher = model(len(self.theirs.tokens), len(self.names), 192, 0, "teacher", dropout=0.3)
        path = cache / f"teacher_{self.plan.teacher_words}_{self.plan.teacher_steps}.weights.h5"
        if path.exists():
            teacher.load_weights(path)
            return teacher
        ids, packages = self.teacher_ids["train"], self.parts["train"].packages
        teacher.compile(
            adam(0.003, self.plan.teacher_steps), {"package": LABEL, "word": LABEL},
            loss_weights={"package": 1.0, "word": 0.3},
        )  # fmt: skip
        y = {"package": packages, "word": following(ids)}
        data = batches(self.plan, self.plan.teacher_steps, 0, ids[:, :READ], y)
        teacher.fit(data, verbose=2, shuffle=False)
        cache.mkdir(parents=True, exist_ok=True)
        teacher.save_weights(path)
        return teacher

    def score(self, trained: keras.Model, part: str, ids: dict) -> float:
        return macro_f1(trained, ids[part], self.parts[part].packages, len(self.names))

    def shared(self) -> kd.objectives.SharedVocabulary:
        """The objective on words; weighed so that it helps the package rather than rules it."""
        return kd.objectives.SharedVocabulary(
            self.ours.tokens, self.theirs.tokens, output="word", weight=0.3
        )

    def student(self, method: str, seed: int) -> keras.Model:
        student = model(len(self.ours.tokens), len(self.names), 24, 10 + seed, "student")
        if method in ("rows", "all"):
            kd.transfer.copy_vocabulary(
                self.teacher.get_layer("words"), student.get_layer("words"),
                self.theirs.tokens, self.ours.tokens,
            )  # fmt: skip
        return student

    def run(self, method: str, seed: int, rate: float) -> dict[str, float]:
        """One student, trained and scored."""
        student = self.student(method, seed)
        ids, packages = self.ids["train"], self.parts["train"].packages
        kept = np.random.default_rng(seed).random(len(packages)) < self.plan.labelled
        optimizer = adam(rate, self.plan.steps)
        if method in ("labels", "rows"):
            student.compile(optimizer, {"package": LABEL, "word": None})
            y = {"package": packages[kept], "word": following(ids[kept])}
            student.fit(
                batches(self.plan, self.plan.steps, seed, ids[kept][:, :READ], y),
                verbose=0,
                shuffle=False,
            )
        else:
            objectives = [kd.SoftTargets(temperature=2.0, output="package")]
            if method in ("words", "all"):
                objectives.append(self.shared())
            distiller = kd.Distiller(
                student, self.teacher, objectives, label_weight=0.1,
                student_preprocess=own_words, teacher_preprocess=teachers_words,
            )  # fmt: skip
            distiller.compile(optimizer, {"package": LABEL, "word": None})
            x = {"student": ids[:, :READ], "teacher": self.teacher_ids["train"][:, :READ]}
            y = {"package": np.where(kept, packages, -1), "word": following(ids)}
            data = batches(self.plan, self.plan.steps, seed, x, y)
            distiller.fit(data, verbose=0, shuffle=False)
        return {part: self.score(student, part, self.ids) for part in ("validation", "test")}

    def facts(self) -> dict[str, Any]:
        """What the teacher is worth, and what the vocabularies share."""
        answers = self.teacher.predict(self.teacher_ids["test"][:2000, :READ], verbose=0)["word"]
        report = self.shared().coverage(answers)
        return {
            "packages": self.names,
            "pieces": {name: len(part.packages) for name, part in self.parts.items()},
            "teacher_parameters": self.teacher.count_params(),
            "student_parameters": self.student("labels", 0).count_params(),
            "teacher_macro_f1": self.score(self.teacher, "test", self.teacher_ids),
            "shared": report.shared,
            "student_only": len(report.student_only),
            "teacher_only": len(report.teacher_only),
            "mean_unshared_teacher_mass": report.mean_unshared_teacher_mass,
        }


def own_words(x: Any) -> Any:
    return x["student"]


def teachers_words(x: Any) -> Any:
    return x["teacher"]


def measure(plan: Plan, output: Path, cache: Path) -> dict[str, Any]:
    """Every run that is not in the JSON yet."""
    stored = _common.read_json(output)
    settings = {**dataclasses.asdict(plan), "rates": list(plan.rates)}
    if stored.get("plan", settings) != settings:
        raise SystemExit(f"{output} holds another plan's runs. Move it away, or give --output.")
    experiment = Experiment(plan, cache)
    stored = {"host": _common.host(), "plan": settings, "facts": experiment.facts(),
              "runs": stored.get("runs", {})}  # fmt: skip
    for seed in range(plan.seeds):
        for method in METHODS:
            for rate in plan.rates:
                name = f"{method}/{seed}/{rate:g}"
                if name in stored["runs"]:
                    continue
                stored["runs"][name] = experiment.run(method, seed, rate)
                _common.write_json(output, stored)
                print(name, stored["runs"][name], flush=True)
    return stored


def best(stored: dict[str, Any], method: str) -> tuple[float, list[float]]:
    """The learning rate that validates best on average, and its test scores by seed."""
    plan, runs = stored["plan"], stored["runs"]
    seeds = range(plan["seeds"])

    def scores(rate: float, part: str) -> list[float]:
        return [runs[f"{method}/{seed}/{rate:g}"][part] for seed in seeds]

    rate = max(plan["rates"], key=lambda rate: np.mean(scores(rate, "validation")))
    return rate, scores(rate, "test")


def table(stored: dict[str, Any]) -> str:
    """Macro-F1 on the test pieces, and the gain over labels alone, paired by seed."""
    facts, plan = stored["facts"], stored["plan"]
    pieces = facts["pieces"]
    _, twins = best(stored, "labels")
    rows = []
    for method, title in METHODS.items():
        rate, scores = best(stored, method)
        gains = 100 * (np.array(scores) - twins)
        beats = len(gains) > 1 and gains.mean() > 2 * gains.std(ddof=1) / len(gains) ** 0.5
        shown = f"{gains.mean():+.2f} ± {gains.std(ddof=1):.2f}" if method != "labels" else ""
        rows.append([title, f"{100 * np.mean(scores):.2f} ± {100 * np.std(scores, ddof=1):.2f}",
                     f"**{shown}**" if beats and shown else shown, f"{rate:g}"])  # fmt: skip
    lines = [
        f"{_common.host_line(stored['host'])}.",
        f"{len(facts['packages'])} packages; {pieces['train']:,} pieces to train on, "
        f"{plan['labelled']:.0%} of them labelled for the student, {pieces['test']:,} to test. "
        f"{plan['steps']} updates of {plan['batch']}, {plan['seeds']} seeds.",
        f"Teacher: {plan['teacher_words']:,} words, {facts['teacher_parameters']:,} weights, "
        f"macro-F1 {100 * facts['teacher_macro_f1']:.2f}. Student: {plan['student_words']:,} "
        f"words, {facts['student_parameters']:,} weights. They share {facts['shared']:,} words; "
        f"{facts['mean_unshared_teacher_mass']:.1%} of the teacher's mass is on others.",
        "",
        _common.markdown(["student learns from", "macro-F1, %", "gain", "rate"], rows),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny settings, another JSON")
    parser.add_argument("--table", action="store_true", help="print the table, train nothing")
    parser.add_argument("--output", type=Path, help="the JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir(), "keras_distill_vocabulary"),
        help="where the trained teacher is kept",
    )  # fmt: skip
    args = parser.parse_args()
    plan = SMOKE if args.smoke else Plan()
    folder = args.cache if args.smoke else _common.RESULTS
    output = args.output or folder / f"vocabulary{'_smoke' * args.smoke}.json"
    if args.table:
        print(table(_common.read_json(output)))
        return
    _common.set_threads(args.threads)
    print("\n" + table(measure(plan, output, args.cache)))


if __name__ == "__main__":
    main()
