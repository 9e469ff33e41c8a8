"""A run's report: what its stages made, measured once, and written for people."""

from rich.console import Console

from keras_distill.pipeline.runs.run import Run
from keras_distill.pipeline.runs.workshop import Workshop

__all__ = ["report"]


def report(work: Run, shop: Workshop, console: Console) -> None:
    """Measure and write what has changed since the last report, and print its table."""
    del work, shop, console
