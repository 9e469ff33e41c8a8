"""Masked generation: the teacher's map restored from a part of the student's."""

from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Shape, Tensor
from keras_distill.objectives.adapters import Chain, convolution, projection
from keras_distill.objectives.layer_base import LayerObjective
from keras_distill.objectives.layer_pairs import one_of
from keras_distill.objectives.logits_base import check_share
from keras_distill.signals import Signals

__all__ = ["MaskedGeneration"]


@keras.saving.register_keras_serializable("keras_distill")
class MaskedGeneration(LayerObjective):
    """The teacher's whole map can be restored from a random part of the student's (MGD).

    Of each example's map some positions, or some channels, are hidden at random, others in each
    step; two 3x3 convolutions with a ReLU between restore the teacher's map from the rest. They are
    trained with the student and left out of it, and so is the linear adapter that projects the
    student's map first where the widths differ. Where the sizes differ the larger is pooled. See
    `functional.masked_generation` for the formula, which is added over pairs of layers.

    Evaluation hides the same parts each time: validation's values can be compared over epochs.

    Args:
      student, teacher: a layer of each model that gives maps, `(batch, height, width, channels)`,
        or equally long lists.
      masked: what is hidden, "positions" or "channels".
      mask_ratio: the share that is hidden on average, in [0, 1).
      seed: of the masks; where they stand is saved in a Distiller's checkpoints.
      weight, output, name: see `Objective`. The authors add where this averages, so their weights
        times the numbers an example has in the teacher's map. For classification they hide channels
        of the last map: `masked="channels"`, `mask_ratio=0.15` and 7e-5, which is 1.8 for
        (7, 7, 512); for detection positions: 0.65 and 2e-5 in a one-stage detector, 0.45 and 5e-7
        in a two-stage one; for segmentation 0.75 and 2e-5.

    Raises:
      ValueError: no maps, maps of different rank or of unknown size; a mask_ratio outside [0, 1).

    Source: Yang et al., "Masked Generative Distillation", ECCV 2022; the numbers are those of the
    authors' code.

    >>> MaskedGeneration("block4", "conv5_out", masked="channels", mask_ratio=0.15).masked
    'channels'
    """

    at_teacher = "elsewhere"
    random = True
    examples = (
        {},
        {"student": ["map", "map_2"], "teacher": ["map", "map_2"], "masked": "channels"},
    )

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        masked: str = "positions",
        mask_ratio: float = 0.65,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        check_share(self.name, mask_ratio=mask_ratio)
        self.masked = one_of(self.name, "masked", masked, ("positions", "channels"))
        self.mask_ratio = mask_ratio
        self.seed = seed
        self._masks: Any = None
        self._generators: list[keras.layers.Layer] = []

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        shapes = self.shapes(student, teacher, maps=True)
        for index, pair in enumerate(shapes):
            if len(pair[0]) != 4:
                raise ValueError(
                    f"{self.said(index, *pair)}. It convolves maps (batch, height, width, "
                    f"channels)."
                )
        adapters = self.make_adapters(shapes, _alignment)
        self._masks = Masks(self.masked, self.seed, name=f"{self.name}_masks")
        self._generators = [
            self._generator(index, theirs) for index, (_, theirs) in enumerate(shapes)
        ]
        generators = {f"generator_{i}": layer for i, layer in enumerate(self._generators)}
        return {**adapters, **generators, "masks": self._masks}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return sum(
            functional.masked_generation(
                ours,
                theirs,
                mask=self._masks(ours, ratio=self.mask_ratio, training=self.training),
                generate=generate,
            )
            for generate, (ours, theirs) in zip(
                self._generators, self.adapted(student, teacher), strict=True
            )
        )

    def _generator(self, index: int, theirs: Shape) -> keras.layers.Layer:
        channels = theirs[-1]
        steps = [convolution(channels, activation="relu"), convolution(channels)]
        chain = Chain(steps, name=f"{self.name}_generator_{index}")
        chain.build(theirs)
        return chain


class Masks(keras.layers.Layer):
    """Zeros at the positions, or channels, of a map that are hidden, drawn anew in each step."""

    def __init__(self, masked: str, seed: int, **options: Any) -> None:
        super().__init__(trainable=False, dtype="float32", **options)
        self.masked = masked
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, x: Tensor, ratio: Any, training: bool | None = None) -> Tensor:
        batch, height, width, channels = ops.shape(x)
        shape = (batch, height, width, 1) if self.masked == "positions" else (batch, 1, 1, channels)
        # A plain number draws the same each time, and moves nothing.
        drawn = keras.random.uniform(shape, seed=self.seed_generator if training else self.seed)
        return ops.cast(drawn >= ratio, "float32")


def _alignment(shape: Shape, channels: int, name: str) -> keras.layers.Layer | None:
    if shape[-1] == channels:
        return None
    return projection(shape, channels, use_bias=True, name=name)
