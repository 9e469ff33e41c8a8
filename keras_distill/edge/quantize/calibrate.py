"""Setting a quantised model's ranges from data, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.data import batches, qualified_name
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.model import CompressedModel
from keras_distill.edge.joins import warn_of_narrow
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.edge.quantize.ranges import Range, observed
from keras_distill.edge.quantize.scores import MaskedRange
from keras_distill.edge.quantize.synthesis import synthesized
from keras_distill.edge.quantize.thresholds import METHODS, Histogram
from keras_distill.litert.quiet import quiet_tensorflow

BINS = 2048
KEPT_ROWS = 256


def calibrate(model: keras.Model, data: Any = None, method: str = "minmax") -> keras.Model:
    """Sets the ranges of a `quantize_aware` model from the values that data gives its tensors.

    Args:
      model: from `quantize_aware`. It is changed in place, its weights are not.
      data: inputs like those to come, some hundred at least; any data argument. None where there is
        none: inputs are made up on which each BatchNormalization reads what it read in training
        (ZeroQ, Cai et al. 2020), in some minutes for a large model. That is worse than data, for
        it knows a mean and a variance a channel: no tails, nothing that goes together, and of
        layers before the first BatchNormalization and behind the last one next to nothing.
      method: "minmax" spans all values; "moving_average" the mean of the batches' smallest and
        largest; "percentile" leaves out 0.01% of the values; "kl" keeps the most information (as
        TensorRT); "mse" rounds with the smallest squared error. Of the model's answers nothing is
        cut off by any of them.

    Returns:
      The model. A concatenation warns that leaves one of its parts next to no steps. What
      `quantize_aware` made keeps the first 256 rows as `model.calibration_rows`, which its file
      holds, too.

    Raises:
      ValueError: no ranges in the model, an unknown method, data of no rows or of another shape,
        NaN; without data, a model that tells nothing of its inputs: no BatchNormalization that was
        trained, inputs of whole numbers or of open sizes.

    Example:
      small = calibrate(quantize_aware(student), x_train[:500], method="mse")
    """
    _check_method(method)
    rows = input_rows(model, data)
    ranges = ranges_of(model)
    with quiet_tensorflow():
        bounds = _bounds(model, ranges, rows, method)
    for one, (low, high) in zip(ranges, bounds, strict=True):
        one.set(float(low), float(high))
    if isinstance(model, CompressedModel):
        model.calibration_rows = _first_rows(model, rows)
    warn_of_narrow(model, Analysis(model).wrapped, rows[0])
    return model


def ranges_of(model: Any) -> list[Range]:
    """Every range of the model that data sets, in the order of the layers."""
    layers = _keras.layers_of(model, itself=False)
    return [layer for layer in layers if isinstance(layer, Range) and layer.fixed is None]


def input_rows(model: Any, data: Any) -> list[Any]:
    """Batches of inputs of a quantised model: those of `data`, checked, or made up for None.

    Raises:
      TypeError, ValueError: as `calibrate`.
    """
    _check(model)
    if data is not None:
        rows = list(checked_rows(model, data))
        if not rows or not len(keras.tree.flatten(rows[0])[0]):
            raise ValueError("Expected data to calibrate on; got none.")
        return rows
    with quiet_tensorflow():
        return [synthesized(model)]


def _check(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a model from quantize_aware(); got {qualified_name(model)}.")
    if not ranges_of(model):
        raise ValueError(
            f"{model.name!r} has no ranges to set. Calibrate what quantize_aware(model) returns."
        )


def _check_method(method: str) -> None:
    known = ("minmax", "moving_average", *METHODS)
    if method not in known:
        raise ValueError(f"Expected method to be one of {known}; got {method!r}.")


def checked_rows(model: Any, data: Any, what: str = "calibration data") -> Iterator[Any]:
    """The inputs of any data argument, batch by batch, in the model's structure.

    Args:
      model: a Functional or Sequential model.
      data: any data argument.
      what: the data is, for errors.

    Raises:
      ValueError: rows of another shape, NaN or infinite values.
    """
    expected = [tuple(x.shape) for x in model.inputs]
    for x, _, _ in batches(data):
        x = _in_order(model, x)
        leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(x)]
        came = [leaf.shape for leaf in leaves]
        if len(came) != len(expected) or not all(map(_fits, came, expected)):
            raise ValueError(
                f"{what}: expected rows of shape {[s[1:] for s in expected]} for the "
                f"inputs of {model.name!r}; got arrays of {came}."
            )
        if not all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f"):
            raise ValueError(f"{what}: NaN or infinite values. Clean the data first.")
        yield x


def _in_order(model: Any, x: Any) -> Any:
    """`x`, in the order of the inputs where it is by their names and the model takes a list."""
    names = _input_names(model)
    if isinstance(model.input, dict) or not isinstance(x, dict) or set(x) != set(names):
        return x
    return [x[name] for name in names]


def _input_names(model: Any) -> list[str]:
    return [_keras.history(tensor).operation.name for tensor in model.inputs]


def _fits(came: tuple, expected: tuple) -> bool:
    return len(came) == len(expected) and all(
        size is None or size == found for size, found in zip(expected[1:], came[1:], strict=True)
    )


def _bounds(model: Any, ranges: list[Range], rows: list[Any], method: str) -> list[Any]:
    """`(low, high)` for each range."""
    extremes = _extremes(model, ranges, rows)
    if method == "moving_average":
        return list(extremes.mean(axis=0))
    lows, highs = extremes.min(axis=0)[:, 0], extremes.max(axis=0)[:, 1]
    whole = list(zip(lows, highs, strict=True))
    if method == "minmax":
        return whole
    cut = _cut(model, ranges, rows, lows, highs, METHODS[method])
    # Of answers nothing is cut off: the best ones would all become equal. Nor is a mask's place.
    masked = (one for one in ranges if isinstance(one, MaskedRange))
    kept = {id(one) for one in (*ranges_of_outputs(model), *masked)}
    return [
        all_of_it if id(one) in kept else within
        for one, all_of_it, within in zip(ranges, whole, cut, strict=True)
    ]


def _extremes(model: Any, ranges: list[Range], rows: Iterable[Any]) -> np.ndarray:
    """(batches, ranges, 2): the smallest and the largest value of each tensor in each batch."""

    def smallest_and_largest(x: Any, _: int) -> Any:
        return tf.stack([tf.reduce_min(x), tf.reduce_max(x)])

    observe = _observe(model, ranges, smallest_and_largest)
    stacked = np.stack([observe(x).numpy() for x in rows])
    if not np.isfinite(stacked).all():
        raise ValueError(
            f"{model.name!r} computes NaN or infinite values on the calibration data: nothing "
            f"can be calibrated. Look at its weights."
        )
    return stacked


def _cut(
    model: Any,
    ranges: list[Range],
    rows: Iterable[Any],
    lows: np.ndarray,
    highs: np.ndarray,
    method: Callable[[Histogram], tuple[float, float]],
) -> list[tuple[float, float]]:
    # A tensor of one value needs a histogram of some width, in float32.
    wider = lows + np.maximum(1e-12, 1e-6 * np.abs(lows))
    edges = np.stack([lows, np.maximum(highs, wider)], axis=1).astype("float32")

    def histogram(x: Any, number: int) -> Any:
        return tf.histogram_fixed_width(tf.reshape(x, [-1]), tf.constant(edges[number]), BINS)

    observe = _observe(model, ranges, histogram)
    counts = sum(observe(x).numpy().astype("int64") for x in rows)
    return [
        method(Histogram(count, float(low), float(high)))
        for count, (low, high) in zip(counts, edges, strict=True)
    ]


def ranges_of_outputs(model: Any) -> list[Range]:
    """The ranges of the tensors that the model returns."""
    makers = [_keras.history(output).operation for output in model.outputs]
    return [one for maker in makers if isinstance(maker, Quantized) for one in maker.output_ranges]


def _observe(model: Any, ranges: list[Range], measure: Callable[[Any, int], Any]) -> Callable:
    """A function of a batch that measures each range's tensor, one row a range."""
    numbers = {id(one): number for number, one in enumerate(ranges)}

    @tf.function(reduce_retracing=True)
    def run(x: Any) -> Any:
        found: dict[int, list[Any]] = {number: [] for number in numbers.values()}

        def observer(one: Range, tensor: Any) -> None:
            if id(one) in numbers:
                number = numbers[id(one)]
                counted = one.counted(tf.cast(tensor, tf.float32))
                found[number].append(measure(counted, number))

        with observed(observer):
            model(x, training=False)
        return tf.stack([_joined(found[number]) for number in sorted(found)])

    return run


def _joined(measures: list[Any]) -> Any:
    """What the calls of a shared layer measured, as one: counts add up, extremes span."""
    if len(measures) == 1:
        return measures[0]
    stacked = tf.stack(measures)
    if stacked.dtype == tf.int32:
        return tf.reduce_sum(stacked, axis=0)
    return tf.stack([tf.reduce_min(stacked[:, 0]), tf.reduce_max(stacked[:, 1])])


def _first_rows(model: Any, rows: list[Any]) -> dict[str, np.ndarray]:
    """The first rows by the names of the model's inputs, as the model takes them."""
    counts = np.cumsum([len(keras.tree.flatten(x)[0]) for x in rows])
    enough = rows[: int(np.searchsorted(counts, KEPT_ROWS)) + 1]
    read = [[part.numpy() for part in _keras.standardized(model, x)] for x in enough]
    columns = [np.concatenate(parts)[:KEPT_ROWS] for parts in zip(*read, strict=True)]
    return dict(zip(_input_names(model), columns, strict=True))
