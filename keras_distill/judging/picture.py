"""A judgement as a picture."""

from __future__ import annotations

from typing import Any

from keras_distill.explaining.folder import asking_for_matplotlib
from keras_distill.judging.record import Judgement

__all__ = ["draw"]

_HEIGHT_OF_A_LINE = 0.2


def draw(record: Judgement) -> Any:
    """Each model's first metric under every condition: a dot, and its interval as a line."""
    with asking_for_matplotlib():
        from matplotlib.figure import Figure

    metric, models = record.metrics[0], record.models
    height = 1.4 + _HEIGHT_OF_A_LINE * len(record.conditions) * len(models)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots()
    step = 0.8 / len(models)
    for number, model in enumerate(models):
        found = [record.figure(model, metric, one) for one in record.conditions]
        scale = 100 if found[0].share else 1
        places = [c + step * (number - (len(models) - 1) / 2) for c in range(len(found))]
        axes.errorbar(
            [scale * one.value for one in found],
            places,
            xerr=[
                [scale * max(0.0, one.value - one.low) for one in found],
                [scale * max(0.0, one.high - one.value) for one in found],
            ],
            fmt="o",
            markersize=4,
            label=model,
        )
    axes.set_yticks(range(len(record.conditions)), record.conditions)
    axes.set_ylim(len(record.conditions) - 0.5, -0.5)
    axes.set_xlabel(f"{metric}, %" if record.figure(models[0], metric).share else metric)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper left", ncols=min(4, len(models)))
    return figure
