"""The demo's pictures, drawn without pyplot: no global state, no display."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from keras_distill.pipeline.report import DemoReport


def _new_figure() -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def training_curves(histories: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Validation accuracy by epoch, a line a training."""
    figure = _new_figure()
    axes = figure.add_subplot()
    for name, history in histories.items():
        values = history["val_accuracy"]
        axes.plot(range(1, len(values) + 1), values, marker=".", label=name)
    axes.set(xlabel="epoch", ylabel="validation accuracy", title="Training")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def accuracy_against_size(report: DemoReport, path: Path) -> None:
    """Test accuracy over the file's bytes, a point a row of the table."""
    figure = _new_figure()
    axes = figure.add_subplot()
    for result in report.results:
        axes.scatter(result.bytes, result.accuracy, label=result.name, s=60)
    axes.set(
        xscale="log",
        xlabel="bytes of the file",
        ylabel=f"accuracy on {report.test_images} test images",
        title=f"{report.settings['dataset']}: accuracy against size",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
