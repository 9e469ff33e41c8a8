"""Augmented views: made at the build, made again at the training, equal to the bit."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.functional.tensors import Tensor
from keras_distill.teachers import identity
from keras_distill.teachers.cache.order import example_seeds

__all__ = ["Views"]

_TRIED = 16


class Views:
    """What teacher and student see of each example in an epoch.

    `augment(x, seed)` runs on one example at a time, traced once, so that neither the batch's
    size nor its company moves a bit.

    Args:
      augment: takes one example's x and a seed, int32 `(2,)`; None leaves x as it is.
      inputs: `tf.TensorSpec`s of one example's x.
      seed: of the cache.

    Raises:
      ValueError: it can't be traced, or gives no fixed shape.
    """

    def __init__(self, augment: Callable | None, inputs: Any, seed: int):
        self.augment, self._inputs, self._seed = augment, inputs, seed
        self.spec = inputs
        if augment is not None:
            self._traced = self._trace(augment)
            self.spec = tf.nest.map_structure(
                lambda t: tf.TensorSpec(t.shape, t.dtype), self._traced.structured_outputs
            )
            self._check_shapes()

    @property
    def augmented(self) -> bool:
        """There is something to replay."""
        return self.augment is not None

    def seeds(self, epoch: Tensor, indices: Tensor) -> Tensor:
        """The seed of each example's view, int32 `(n, 2)`."""
        return example_seeds(indices, self._seed, epoch)

    def fingerprint(self) -> str:
        """A digest of what `augment` computes, its constants included."""
        return identity.of_function(self._traced)

    def replay(self, x: Any, seeds: Tensor) -> Any:
        """The views of a batch, inside a graph."""
        if self.augment is None:
            return x
        return tf.map_fn(
            lambda pair: self._traced(*pair), (x, seeds), fn_output_signature=self.spec
        )

    def check_deterministic(self, x: Any) -> None:
        """Call `augment` twice on examples with the same seeds.

        Args:
          x: some examples, batch first.

        Raises:
          ValueError: it draws random numbers of its own, or answers differently.
        """
        if self.augment is None:
            return
        drawn = _random_operations(self._traced)
        if drawn:
            raise ValueError(f"{_REFUSAL} It draws with {', '.join(drawn)}. {_MEND}")
        rows = len(keras.tree.flatten(x)[0])
        for i, seed in enumerate(self.seeds(0, np.arange(_TRIED))):
            one = keras.tree.map_structure(lambda a, i=i: tf.constant(a[i % rows]), x)
            first, second = (self.augment(one, tf.constant(seed)) for _ in range(2))
            pairs = zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True)
            if not all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs):
                raise ValueError(f"{_REFUSAL} Two calls with one seed gave two answers. {_MEND}")

    def _trace(self, augment: Callable) -> Any:
        seed = tf.TensorSpec((2,), "int32")
        try:
            return tf.function(augment).get_concrete_function(self._inputs, seed)
        except Exception as error:
            raise ValueError(
                f"augment can't be traced: it is called as augment(x, seed) on one example, "
                f"{_words(self._inputs)}, with seed int32 (2,), and computes with TensorFlow "
                f"operations such as tf.image.stateless_random_crop. {error}"
            ) from error

    def _check_shapes(self) -> None:
        for spec in keras.tree.flatten(self.spec):
            if not spec.shape.is_fully_defined():
                raise ValueError(
                    f"augment gives {_words(self.spec)}, and views are batched: every axis must "
                    f"be of known size. Add tf.ensure_shape or reshape at its end."
                )


_REFUSAL = "augment(x, seed) must give the same view whenever it is called with the same seed."
_MEND = (
    "Use the tf.image.stateless_* and tf.random.stateless_* functions with the seed given, and "
    "neither Python's nor NumPy's random numbers."
)


def _random_operations(concrete: Any) -> list[str]:
    definition = concrete.graph.as_graph_def()
    parts = [definition.node, *(f.node_def for f in definition.library.function)]
    kinds = {node.op for nodes in parts for node in nodes}
    return sorted(
        kind
        for kind in kinds
        if ("Random" in kind and not kind.startswith("Stateless"))
        or kind == "Multinomial"
        or kind.startswith(("StatefulUniform", "StatefulStandardNormal", "StatefulTruncated"))
    )


def _words(spec: Any) -> str:
    flat = keras.tree.flatten(spec)
    return ", ".join(f"{t.dtype.name} {tuple(t.shape)}" for t in flat)
