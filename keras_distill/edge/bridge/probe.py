"""A random batch through two models, and how far apart they answer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.graph.sizes import sizes_to_try

_TOLERANCE, _HALF_TOLERANCE, _MOST = 1e-4, 3e-2, 1e-2


class Probe:
    """A random batch, and what a model answers to it.

    Args:
      source: the model to trust. It is called once, so that every layer in it is built.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._batch, self._expected = _answered(source)

    def check(self, twin: Any, *, ways_out: str) -> float:
        """Compares a model made from the source with it.

        Args:
          twin: the model, of either generation.
          ways_out: what the error tells the user to do.

        Returns:
          The largest difference over the largest output.

        Raises:
          ValueError: it is above 1e-4 (0.03 for half precision), and above four times what a
            change of the input in its last digits makes of the source's own answer.
        """
        found = keras.tree.flatten(twin(self._batch, training=False))
        errors = _differences(self._expected, found)
        allowed = _tolerance(self._source)
        if max(errors) <= allowed:
            return max(errors)
        for number, (error, own) in enumerate(zip(errors, self._sensitivity(), strict=True)):
            if not error <= max(allowed, min(4 * own, _MOST)):
                raise ValueError(
                    f"The twin of {self._source.name!r} does not answer like it: output {number} "
                    f"is off by {error:.2g} of its scale, and {allowed:.0e} is allowed. {ways_out}"
                )
        return max(errors)

    def _sensitivity(self) -> list[float]:
        # A deep model of wild weights makes more of rounding than any tolerance knows.
        def moved(x: np.ndarray) -> np.ndarray:
            return x * np.float32(1 + 1e-6) if x.dtype.kind == "f" else x

        near = self._source(keras.tree.map_structure(moved, self._batch), training=False)
        return _differences(self._expected, keras.tree.flatten(near))


def batch_like(model: Any, size: int) -> Any:
    """Two random rows in the structure of a model's inputs, `size` where a dimension is open."""
    generator = np.random.default_rng(0)
    vocabulary, images = _vocabulary(model), _takes_bytes(model)

    def array(tensor: Any) -> np.ndarray:
        shape = [size if n is None else n for n in tensor.shape]
        shape[:1] = [tensor.shape[0] or 2] if shape else []
        if len(shape) == 4 and "float" in _dtype(tensor):
            return _image(generator, shape, images)
        return _random(generator, shape, _dtype(tensor), vocabulary)

    return keras.tree.map_structure(array, _inputs(model))


def _inputs(model: Any) -> Any:
    # `input` keeps the structure in both generations; Sequential's inner model too.
    return model.inputs[0] if len(model.inputs) == 1 and _is_sequential(model) else model.input


def _is_sequential(model: Any) -> bool:
    return any(kind.__name__ == "Sequential" for kind in type(model).__mro__)


def _answered(model: Any) -> tuple[Any, list]:
    """A batch and the answer, of open sizes the first that the model itself takes."""
    shapes = [tuple(x.shape) for x in model.inputs]
    ranks = [len(shape) for shape in shapes if None in shape[1:]]
    if not ranks:
        batch = batch_like(model, 1)
        return batch, keras.tree.flatten(model(batch, training=False))
    tried = sizes_to_try(max(ranks))
    for size in tried:
        batch = batch_like(model, size)
        try:
            return batch, keras.tree.flatten(model(batch, training=False))
        except Exception as error:
            failure = error
    raise ValueError(
        f"{model.name!r} leaves sizes of its inputs {shapes} open, and takes a random batch of "
        f"none of the sizes {sorted(tried)}: {failure}. Give its Input the sizes that it takes."
    ) from failure


def _dtype(tensor: Any) -> str:
    return getattr(tensor.dtype, "name", None) or str(tensor.dtype)


def _random(generator: Any, shape: list, dtype: str, vocabulary: int | None) -> np.ndarray:
    if dtype == "string":
        return generator.choice(np.array(["a", "b", "c d"], dtype=object), shape)
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if "int" in dtype:
        high = vocabulary or (256 if dtype == "uint8" else 2)
        return generator.integers(0, high, shape).astype(dtype)
    if vocabulary is not None and len(shape) <= 2:
        # Token numbers may come as floats.
        return generator.integers(0, vocabulary, shape).astype("float32")
    return generator.normal(size=shape).astype("float32")


def _vocabulary(model: Any) -> int | None:
    sizes = [
        layer.input_dim
        for layer in _keras.layers_of(model)
        if "Embedding" in type(layer).__name__
        and isinstance(getattr(layer, "input_dim", None), int)
    ]
    return min(sizes, default=None)


def _image(generator: Any, shape: list, in_bytes: bool) -> np.ndarray:
    # White noise drives a deep network far from where its numbers are sane: coarse, and a little.
    batch, height, width, channels = shape
    block = max(1, min(height, width) // 8)
    coarse = generator.normal(size=(batch, -(-height // block), -(-width // block), channels))
    image = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width]
    image = image + 0.1 * generator.normal(size=shape)
    return (np.clip(128 + 64 * image, 0, 255) if in_bytes else image).astype("float32")


def _takes_bytes(model: Any) -> bool:
    # Scaled down by the model itself, small numbers would be one grey to it, and rounding all.
    return any(
        type(layer).__name__ == "Normalization"
        or (type(layer).__name__ == "Rescaling" and np.max(np.abs(layer.scale)) < 0.1)
        for layer in _keras.layers_of(model)
        if type(layer).__module__.partition(".")[0] in ("keras", "tf_keras")
    )


def _differences(expected: list, found: list) -> list[float]:
    pairs = zip(expected, found, strict=True)
    return [_difference(np.asarray(theirs), np.asarray(mine)) for theirs, mine in pairs]


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if expected.dtype.kind not in "fV" and str(expected.dtype) != "bfloat16":
        return 0.0 if np.array_equal(expected, found) else float("inf")
    expected, found = expected.astype("float64"), found.astype("float64")
    if not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return float("inf")
    apart = np.abs(np.where(np.isfinite(expected), expected - found, 0.0)).max(initial=0.0)
    scale = np.abs(np.where(np.isfinite(expected), expected, 0.0)).max(initial=0.0)
    return float(apart / scale) if scale else float(np.inf if apart else 0.0)


def _tolerance(model: Any) -> float:
    half = any("float16" in str(getattr(x, "compute_dtype", "")) for x in _keras.layers_of(model))
    return _HALF_TOLERANCE if half else _TOLERANCE
