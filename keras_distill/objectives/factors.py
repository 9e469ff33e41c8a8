"""Factor transfer: both models' features translated, each its own way, before they are compared."""

from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Shape, Tensor
from keras_distill.objectives.adapters import Chain, convolution, leaky_relu
from keras_distill.objectives.layer_base import LayerObjective, check_whole
from keras_distill.objectives.logits_base import (
    check_constant,
    check_not_negative,
    check_positive,
)
from keras_distill.signals import Signals

__all__ = ["FactorTransfer"]


@keras.saving.register_keras_serializable("keras_distill")
class FactorTransfer(LayerObjective):
    """The student's features, translated, match a paraphrase of the teacher's.

    `factor_transfer(translator(s), encoder(t)) + reconstruction_weight * mean (decoder(encoder(t))
    - t)^2`. Encoder and decoder are the paraphraser, a convolutional autoencoder: it learns from
    the teacher's features alone, without labels, in the same `fit`. The first term gives it no
    gradient, lest it paraphrase what is easy to match. Translator and encoder are three 3x3
    convolutions with leaky ReLUs and give the same number of channels. See
    `functional.factor_transfer` for the first term.

    Args:
      student, teacher: a layer of each model that gives maps, `(batch, height, width, channels)`.
      rate: the factor's channels over the teacher's.
      p1, p2: see `functional.factor_transfer`.
      reconstruction_weight: factor of the paraphraser's own loss; 0 keeps it as it was initialised.
      weight, output, name: see `Objective`; it multiplies both terms. Reference code's weight is
        200 for the first; with such a one and an optimiser whose steps grow with the gradient
        (SGD) set `reconstruction_weight` to its inverse.

    Raises:
      ValueError: not one layer of each model, no maps, maps of one position or of unknown size.

    Source: Kim, Park, Kwak, NeurIPS 2018. They train the paraphraser first and then hold it; their
    code's reconstruction loss is the absolute error. RepDistiller's translator has batch
    normalisation; this one, as the authors', has none.

    >>> FactorTransfer("block4", "conv5_out", rate=0.75).rate
    0.75
    """

    at_teacher = "elsewhere"
    examples = ({}, {"p1": None, "p2": 2})

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        rate: float = 0.5,
        p1: int | None = 2,
        p2: int = 1,
        reconstruction_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        check_whole(self.name, p1=1 if p1 is None else p1, p2=p2)
        check_constant(self.name, rate=rate)
        check_positive(self.name, rate=rate)
        check_not_negative(self.name, reconstruction_weight=reconstruction_weight)
        if len(self.student_taps) > 1:
            raise ValueError(
                f"{self.name} compares one layer of each model; got "
                f"{len(self.student_taps)} of either. Make an objective for each pair."
            )
        self.rate = rate
        self.p1 = p1
        self.p2 = p2
        self.reconstruction_weight = reconstruction_weight
        self._layers: dict[str, keras.layers.Layer] = {}

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        shapes = self.shapes(student, teacher, maps=True)
        ours, theirs = shapes[0]
        if len(ours) != 4:
            raise ValueError(
                f"{self.said(0, ours, theirs)}. It convolves maps (batch, height, width, channels)."
            )
        if self.p1 is not None:
            self.check_positions(shapes)
        channels = theirs[-1]
        factors = max(1, int(channels * self.rate))
        factor = (*theirs[:-1], factors)
        self._layers = {
            "translator": self._chain("translator", ours, [ours[-1], factors, factors]),
            "encoder": self._chain("encoder", theirs, [channels, factors, factors]),
            "decoder": self._chain("decoder", factor, [factors, channels, channels]),
        }
        return dict(self._layers)

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        ((ours, theirs),) = self.pairs(student, teacher)
        factor = self._layers["encoder"](theirs)
        restored = self._layers["decoder"](factor)
        translated = self._layers["translator"](ours)
        values = functional.factor_transfer(
            translated, ops.stop_gradient(factor), p1=self.p1, p2=self.p2
        )
        return values + self.reconstruction_weight * functional.hint_mse(restored, theirs)

    def _chain(self, part: str, shape: Shape, channels: list[int]) -> keras.layers.Layer:
        steps = [layer for count in channels for layer in (convolution(count), leaky_relu())]
        chain = Chain(steps, name=f"{self.name}_{part}")
        chain.build(shape)
        return chain
