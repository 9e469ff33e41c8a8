"""How much of an integer file's figures is the choice of the rows that calibrated it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill.data import batches
from keras_distill.edge.export.tflite import export_tflite
from keras_distill.edge.quantize.aware import quantize_aware
from keras_distill.judging.judge import judge
from keras_distill.judging.record import Judgement

__all__ = ["judge_calibration"]


def judge_calibration(
    model: keras.Model,
    calibration_data: Any,
    data: Any,
    *,
    rows: int = 100,
    draws: int = 5,
    quantize: Callable[[keras.Model, Any], keras.Model] | None = None,
    seed: int = 0,
    **options: Any,
) -> Judgement:
    """Judges int8 files of one model, each calibrated by other rows, beside the model itself.

    Args:
      model: a float Keras model.
      calibration_data: any data argument, whose rows are drawn from; labels are not looked at.
      data: to be judged on.
      rows: in each draw.
      draws: how many files.
      quantize: of the model and some rows to the fake-quantised model; None for `quantize_aware`.
      seed: of the draws.
      **options: see `judge`.

    Returns:
      A `Judgement` of "model" and "calibration 1", "calibration 2", ...: how far its files lie
      apart is what the choice of rows is worth.

    Raises:
      ValueError: fewer rows than are to be drawn, or as `judge`.
    """
    taken = [x for x, _, _ in batches(calibration_data)]
    whole = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *taken)
    count = len(keras.tree.flatten(whole)[0])
    if not 1 <= rows <= count or draws < 1:
        raise ValueError(
            f"Expected at least one draw, of 1 to {count} rows, for there are no more; got {draws} "
            f"of {rows}."
        )
    rng = np.random.default_rng(seed)
    quantize = quantize or (lambda float_model, x: quantize_aware(float_model, calibration_data=x))
    with tempfile.TemporaryDirectory() as folder:
        candidates: dict[str, Any] = {"model": model}
        for draw in range(1, draws + 1):
            chosen = rng.permutation(count)[:rows]
            small = quantize(model, keras.tree.map_structure(lambda a, at=chosen: a[at], whole))
            path = Path(folder, f"calibration{draw}.tflite")
            candidates[f"calibration {draw}"] = export_tflite(small, path, precision="int8")
        return judge(candidates, data, seed=seed, **options)
