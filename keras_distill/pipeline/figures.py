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


# What the table's rows are called to someone who has not read the table.
WORDS = {"baseline": "twin: the same student,\nlabels alone", "distilled": "student, distilled"}


def accuracy_against_size(report: DemoReport, path: Path) -> None:
    """Test accuracy over the file's bytes, a point a row of the table, each with its name."""
    figure = _new_figure()
    axes = figure.add_subplot()
    for result in report.results:
        # The two files lie beside each other: their names would, too.
        above = result.name in ("baseline", "int8 file")
        axes.scatter(result.bytes, 100 * result.accuracy, s=70, zorder=3)
        axes.annotate(
            f"{WORDS.get(result.name, result.name)}\n{result.accuracy:.1%}, {_size(result.bytes)}",
            (result.bytes, 100 * result.accuracy),
            textcoords="offset points",
            xytext=(0, 9 if above else -11),
            va="bottom" if above else "top",
            ha="center",
            fontsize=9,
        )
    axes.set(
        xscale="log",
        xlabel="bytes of the file",
        ylabel=f"accuracy on {report.test_images} test images, %",
        title=f"{report.settings['dataset']}: accuracy against size",
    )
    axes.margins(x=0.15, y=0.3)
    axes.set_ylim(top=101)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _size(size: int) -> str:
    return f"{size / 1000:,.1f} kB" if size < 1_000_000 else f"{size / 1_000_000:,.1f} MB"
