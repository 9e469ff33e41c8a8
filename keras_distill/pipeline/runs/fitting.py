"""Whether data and stages fit together, said before any training."""

from collections.abc import Sequence

import numpy as np

from keras_distill.pipeline.recipes.stages import StageOf, Train, Training
from keras_distill.pipeline.runs.examples import PARTS, Examples
from keras_distill.training.stages import UsageError

__all__ = ["check_fits"]


def check_fits(examples: Examples, stages: Sequence[StageOf]) -> None:
    """Refuses data that no training could use, and views that these data have not.

    Raises:
      UsageError: see there.
    """
    for name, part in zip(PARTS, examples.parts(), strict=True):
        _check_part(name, part.x, part.y)
    for stage in stages:
        if isinstance(stage, Training):
            _check_views(stage, examples)


def _check_part(name: str, x: np.ndarray, y: np.ndarray) -> None:
    if not len(x):
        raise UsageError(f"data: nothing is left for {name}: give more rows, or other parts.")
    for key, array in (("x", x), ("y", y)):
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UsageError(f"data: {key} of {name} has a value that is no number, in row {row}.")
    if np.issubdtype(y.dtype, np.integer):
        if y.ndim != 1:
            raise UsageError(
                f"data: labels are class numbers, one an example, or numbers in a float type; "
                f"those of {name} are whole numbers of shape {y.shape[1:]} each. Of one-hot rows "
                f"give y.argmax(axis=-1)."
            )
        if y.min() < 0:
            raise UsageError(
                f"data: class numbers begin at 0; {name} has {y.min()}. Leave labels out by "
                f"data.labels."
            )


def _check_views(stage: Training, examples: Examples) -> None:
    x, augment = examples.train.x, stage.augment
    if (augment.flip or augment.shift) and x.ndim != 4:
        raise UsageError(
            f"{stage.title}: augment's flip and shift are for images, (height, width, channels); "
            f"an example has the shape {x.shape[1:]}."
        )
    if (augment.noise or augment.mixup) and not np.issubdtype(x.dtype, np.floating):
        raise UsageError(
            f"{stage.title}: augment's noise and mixup are for inputs in a float type; these are "
            f"{x.dtype}."
        )
    if augment.mixup and (isinstance(stage, Train) or not examples.classes):
        raise UsageError(
            f"{stage.title}: a mixture has no label, so mixup is for classes under a teacher: a "
            f"stage distil."
        )
