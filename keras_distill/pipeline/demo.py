"""The demo: teacher, labels-only baseline, distilled student, two verified .tflite files."""

import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from keras_distill import _json, data, edge
from keras_distill._extras import install_hint
from keras_distill.objectives import SoftTargets
from keras_distill.pipeline import training
from keras_distill.pipeline.report import DemoReport, ModelResult, measure_keras
from keras_distill.pipeline.settings import Settings
from keras_distill.training.distiller import Distiller
from keras_distill.training.stages import Folder, Stage, UsageError, run_stages

LOADERS: dict[str, Callable[[], data.ImageSplits]] = {
    "digits": data.load_digits,
    "fashion_mnist": partial(data.load_fashion_mnist, download=True),
}
TRAININGS = ("teacher", "baseline", "distilled")
PRECISIONS = ("float32", "int8")
NEEDS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
# Few images clip the ranges: on digits 200 gave ten times the error that all of them do.
CALIBRATION_IMAGES = 2000


class Demo:
    """The demo's stages; each reads what it needs from the folder, so that any can be the first."""

    def __init__(self, settings: Settings, folder: Folder, progress: Progress) -> None:
        self._settings, self._folder, self._progress = settings, folder, progress
        self._images = _load_images(settings.dataset)
        self._steps = -(-len(self._images.x_train) // settings.batch_size)
        self._shape = self._images.x_train.shape[1:]
        self._classes = len(self._images.class_names)

    def stages(self) -> list[Stage]:
        """In order."""
        makers = {
            "teacher": self._teacher,
            "baseline": self._baseline,
            "distilled": self._distilled,
        }
        trainings = [
            Stage(name, (f"{name}.keras", f"{name}_history.json"), makers[name])
            for name in TRAININGS
        ]
        exports = [
            Stage(
                f"{precision} file",
                (f"distilled_{precision}.tflite", f"distilled_{precision}.json"),
                partial(self._export, precision),
            )
            for precision in PRECISIONS
        ]
        files = ("report.json", "training_curves.png", "accuracy_against_size.png")
        return [*trainings, *exports, Stage("report", files, self._report)]

    def _teacher(self, into: Path) -> str:
        settings = self._settings
        model = training.teacher_cnn(
            self._shape, self._classes, settings.teacher_width, settings.seed
        )
        known = (self._images.x_train, self._images.y_train)
        history = self._fit(
            "teacher", model, known, settings.teacher_epochs, settings.teacher_learning_rate
        )
        return training.save(model, history, into, "teacher")

    def _baseline(self, into: Path) -> str:
        settings, labels = self._settings, self._known_labels()
        student = self._fresh_student()
        known = (self._images.x_train[labels >= 0], labels[labels >= 0])
        history = self._fit(
            "baseline", student, known, settings.student_epochs, settings.baseline_learning_rate
        )
        return training.save(student, history, into, "baseline")

    def _distilled(self, into: Path) -> str:
        settings = self._settings
        distiller = Distiller(
            self._fresh_student(),
            self._load("teacher"),
            [SoftTargets(temperature=settings.temperature)],
            label_weight=settings.label_weight,
        )
        every = (self._images.x_train, self._known_labels())
        history = self._fit(
            "distilled", distiller, every, settings.student_epochs, settings.distilled_learning_rate
        )
        return training.save(distiller.student, history, into, "distilled")

    def _fit(self, name, model, examples, epochs, learning_rate):
        settings, images = self._settings, self._images
        x, y = examples
        batches = training.Batches(x, y, settings.batch_size, self._steps, settings.seed)
        training.compile_for_labels(model, learning_rate, epochs * self._steps)
        validation = (images.x_validation, images.y_validation)
        bar = training.Bar(self._progress, name)
        return training.fit(model, batches, validation, epochs, bar)

    def _export(self, precision: str, into: Path) -> str:
        images, student = self._images, self._load("distilled")
        export = edge.export_tflite(
            student,
            into / f"distilled_{precision}.tflite",
            precision=precision,
            representative_data=(
                images.x_train[:CALIBRATION_IMAGES] if precision == "int8" else None
            ),
            labels=images.class_names,
        )
        try:
            checked = edge.verify(
                export,
                reference=student,
                teacher=self._load("teacher"),
                data=(images.x_test, images.y_test),
            )
        except edge.VerificationError as error:
            checked = error.report
        result = ModelResult.of_file(f"{precision} file", export, student.count_params(), checked)
        text = json.dumps(asdict(result), indent=2)
        (into / f"distilled_{precision}.json").write_text(text + "\n", encoding="utf-8")
        verdict = "verified" if result.passed else "NOT VERIFIED"
        return f"{verdict}: accuracy {result.accuracy:.1%}, {result.bytes:,} bytes"

    def _report(self, into: Path) -> str:
        from keras_distill.pipeline import figures

        report = DemoReport(
            settings=asdict(self._settings),
            test_images=len(self._images.x_test),
            results=(*self._keras_results(), *self._file_results()),
            seconds=self._folder.seconds(),
            versions={
                name: importlib.metadata.version(name)
                for name in ("keras_distill", "tensorflow", "keras", "ai-edge-litert")
            },
            host=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        )
        report.save(into / "report.json")
        histories = {name: self._read_json(f"{name}_history.json") for name in TRAININGS}
        figures.training_curves(histories, into / "training_curves.png")
        figures.accuracy_against_size(report, into / "accuracy_against_size.png")
        return "report.json and two pictures"

    def _keras_results(self) -> list[ModelResult]:
        x, y = self._images.x_test, self._images.y_test
        teacher = self._load("teacher").predict(x, batch_size=256, verbose=0).argmax(axis=-1)
        return [
            measure_keras(
                name, self._folder.path / f"{name}.keras", self._load(name), x, y, teacher
            )
            for name in TRAININGS
        ]

    def _file_results(self) -> list[ModelResult]:
        return [ModelResult(**self._read_json(f"distilled_{name}.json")) for name in PRECISIONS]

    def _fresh_student(self) -> keras.Model:
        settings = self._settings
        return training.student_cnn(
            self._shape, self._classes, settings.student_width, settings.seed
        )

    def _known_labels(self):
        settings = self._settings
        return training.keep_labels(self._images.y_train, settings.labels, settings.seed)

    def _load(self, name: str) -> keras.Model:
        return keras.models.load_model(self._folder.path / f"{name}.keras")

    def _read_json(self, name: str) -> dict:
        return _json.read(self._folder.path / name)


def run(settings: Settings, folder: Folder) -> bool:
    """Run what is not finished in `folder`, print the table; true where every file is verified.

    Raises:
      UsageError: a package of the `demo` extra is missing, or the folder is another run's.
    """
    _check_packages()
    console = _console()
    with _progress(console) as progress:
        stages = Demo(settings, folder, progress).stages()
        version = importlib.metadata.version("keras_distill")
        with folder.open(asdict(settings) | {"keras_distill": version}, stages):
            for stage, outcome, reused in run_stages(stages, folder):
                kept = " (finished earlier)" if reused else ""
                console.print(f"{stage.name:<12} {outcome}{kept}", soft_wrap=True)
    report = DemoReport.load(folder.path / "report.json")
    console.print(report.table())
    for sentence in report.words():
        console.print(sentence, soft_wrap=True)
    console.print(f"Models, report.json and pictures are in {folder.path}.", soft_wrap=True)
    return report.passed()


def _load_images(dataset: str) -> data.ImageSplits:
    try:
        return LOADERS[dataset]()
    # Keras raises a bare Exception where a download fails.
    except Exception as error:
        raise UsageError(f"the images of {dataset} cannot be had: {error}") from error


def _check_packages() -> None:
    missing = [package for name, package in NEEDS.items() if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(
            f"the demo needs {' and '.join(missing)}, and this environment has none: "
            f"{install_hint('demo')}"
        )


def _console() -> Console:
    console = Console(highlight=False)
    # Where nobody says how wide it is, the table is not cut.
    return console if console.is_terminal else Console(highlight=False, width=80)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}% {task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
