"""Objectives on maps: where a layer looks, which patterns its channels hold, how layers flow."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_distill import functional
from keras_distill.functional.tensors import Shape, Tensor, match_sizes
from keras_distill.objectives.adapters import Chain, normalization, projection
from keras_distill.objectives.base import layer_name
from keras_distill.objectives.layer_base import LayerObjective, check_whole, smaller
from keras_distill.objectives.logits_base import check_constant
from keras_distill.signals import Signals

__all__ = [
    "AffinityTransfer",
    "AttentionTransfer",
    "FlowOfSolution",
    "InterChannelCorrelation",
    "NeuronSelectivity",
]


class _OverPositions(LayerObjective):
    """Compares what is normalised over positions, of which there must be several."""

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        self.check_positions(self.shapes(student, teacher, maps=True))
        return {}


@keras.saving.register_keras_serializable("keras_distill")
class AttentionTransfer(_OverPositions):
    """The student's layer looks where the teacher's looks.

    See `functional.attention_transfer` for the formula, which is added over pairs of layers. The
    channel counts may differ; where the sizes differ the larger map is pooled.

    Args:
      student, teacher: layers that give maps, `(batch, ..., channels)`: one, or equally long lists.
      power: of the activations, before their mean over channels.
      weight, output, name: see `Objective`. The authors' weight is 1000.

    Raises:
      ValueError: no maps, maps of one position, of different rank or of unknown size.

    Source: Zagoruyko and Komodakis, ICLR 2017. The paper takes the norm of the difference; the
    authors' code, as here, the mean of the squares, which is why the weight is so large.

    >>> AttentionTransfer(["block2", "block3"], ["conv3", "conv4"]).student_taps
    ('block2', 'block3')
    """

    def __init__(self, student: Any, teacher: Any, *, power: int = 2, **options: Any) -> None:
        super().__init__(student, teacher, **options)
        check_whole(self.name, power=power)
        self.power = power

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        pairs = self.pairs(student, teacher)
        return sum(functional.attention_transfer(*pair, power=self.power) for pair in pairs)


@keras.saving.register_keras_serializable("keras_distill")
class AffinityTransfer(_OverPositions):
    """Positions that are alike to the teacher's layer become alike to the student's.

    See `functional.pairwise_affinity` for the formula, which is added over pairs of layers. The
    channel counts may differ; where the sizes differ the larger map is average-pooled.

    Args:
      student, teacher: layers that give maps, `(batch, ..., channels)`: one, or equally long lists.
      pool_scale: the share of each axis that is max-pooled to one node, in (0, 1), or None for
        none. Nodes are compared two by two: of 64 x 64 positions there would be 16 million pairs.
      weight, output, name: see `Objective`. The authors' weight is 1, beside 10 for the pixels'
        soft targets.

    Raises:
      ValueError: no maps, maps of one position, of different rank or of unknown size; a pool_scale
        out of range.

    Source: Liu et al., CVPR 2019, the pair-wise part.

    >>> AffinityTransfer("block4", "conv5_out", pool_scale=None).name
    'affinity_transfer'
    """

    examples = (*LayerObjective.examples, {"pool_scale": None})

    def __init__(
        self, student: Any, teacher: Any, *, pool_scale: float | None = 0.5, **options: Any
    ) -> None:
        super().__init__(student, teacher, **options)
        check_constant(self.name, pool_scale=pool_scale)
        if pool_scale is not None and not 0 < pool_scale < 1:
            raise ValueError(
                f"{self.name}: pool_scale must be in (0, 1), or None for no pooling; got "
                f"{pool_scale}."
            )
        self.pool_scale = pool_scale

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        for index, (ours, theirs) in enumerate(self.shapes(student, teacher, maps=True)):
            if self.pool_scale is not None and None in ours[1:-1]:
                raise ValueError(
                    f"{self.said(index, ours, theirs)}. Of an axis of unknown size pool_scale is "
                    f"no number of positions: give both models a fixed input size, or "
                    f"pool_scale=None."
                )
        return super().build(student, teacher)

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        pairs = self.pairs(student, teacher)
        return sum(
            functional.pairwise_affinity(*pair, pool_scale=self.pool_scale) for pair in pairs
        )


@keras.saving.register_keras_serializable("keras_distill")
class NeuronSelectivity(_OverPositions):
    """The student's channels answer to the patterns over positions that the teacher's answer to.

    See `functional.neuron_selectivity` for the formula, which is added over pairs of layers. The
    channel counts may differ, and their order says nothing; where the sizes differ the larger map
    is pooled.

    Args:
      student, teacher: layers that give maps, `(batch, ..., channels)`: one, or equally long lists.
      weight, output, name: see `Objective`. Reference code's weight is 50.

    Raises:
      ValueError: no maps, maps of one position, of different rank or of unknown size.

    Source: Huang and Wang, 2017, with the polynomial kernel.

    >>> NeuronSelectivity("block4", "conv5_out", weight=50.0).weight
    50.0
    """

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return sum(functional.neuron_selectivity(*pair) for pair in self.pairs(student, teacher))


@keras.saving.register_keras_serializable("keras_distill")
class FlowOfSolution(LayerObjective):
    """The student gets from one layer to another as the teacher does.

    See `functional.flow_of_solution` for the formula. Where two layers' widths differ a linear
    adapter projects the student's features; within a pair the larger map is pooled.

    Args:
      student, teacher: a lower and an upper layer of each model that give maps, `(batch, ...,
        channels)`. For a chain of layers, take one objective a link.
      weight, output, name: see `Objective`. Reference code's weight is 50.

    Raises:
      ValueError: not two layers, no maps, maps of different rank or of unknown size.

    Source: Yim et al., CVPR 2017. The authors, who ask for equal widths, train the student on this
    alone first (`compile(loss=None)`), and on the labels afterwards.

    >>> FlowOfSolution(("stem", "block2"), ("stem", "conv3")).teacher_taps
    ('stem', 'conv3')
    """

    examples = ({"student": ["map", "map_2"], "teacher": ["map", "map_2"]},)

    def __init__(self, student: Sequence[Any], teacher: Sequence[Any], **options: Any) -> None:
        super().__init__(student, teacher, **options)
        for who, layers in (("student", self.student_taps), ("teacher", self.teacher_taps)):
            if len(layers) != 2:
                names = ", ".join(repr(layer_name(layer)) for layer in layers)
                raise ValueError(
                    f"{self.name}: {who}= must name two layers, the lower and the upper; got "
                    f"{names}."
                )

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        (low, theirs_low), (up, theirs_up) = self.shapes(student, teacher, maps=True)
        if len(low) != len(up):
            raise ValueError(
                f"{self.label(0)} and {self.label(1)}: the lower maps are {low} and {theirs_low}, "
                f"the upper {up} and {theirs_up}. Name layers of equal rank."
            )

        def make(shape: Shape, channels: int, name: str) -> keras.layers.Layer | None:
            if shape[-1] == channels:
                return None
            return projection(shape, channels, name=name)

        # A flow has no positions: where the student's own maps meet is the smaller of these two.
        pooled = smaller(low, up)[:-1]
        widths = ((low[-1], theirs_low[-1]), (up[-1], theirs_up[-1]))
        shapes = [((*pooled, ours), (*pooled, theirs)) for ours, theirs in widths]
        return self.make_adapters(shapes, make)

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        pairs = self.pairs(student, teacher)
        maps = match_sizes(*(pair[0] for pair in pairs))
        ours = [x if a is None else a(x) for a, x in zip(self._adapters, maps, strict=True)]
        return functional.flow_of_solution(ours, [pair[1] for pair in pairs])


@keras.saving.register_keras_serializable("keras_distill")
class InterChannelCorrelation(LayerObjective):
    """The student's channels go together as the teacher's do.

    See `functional.inter_channel_correlation` for the formula, which is added over pairs of layers.
    Where the widths differ a linear adapter with batch normalisation projects the student's
    features. The sizes may differ: a correlation has no positions.

    Args:
      student, teacher: layers that give maps, `(batch, ..., channels)`: one, or equally long lists.
      weight, output, name: see `Objective`. The authors' weight is 2.5.

    Raises:
      ValueError: no maps, maps of different rank or of unknown size.

    Source: Liu et al., ICCV 2021 (ICKD-C), who project equal widths, too.

    >>> InterChannelCorrelation("block4", "conv5_out", weight=2.5).weight
    2.5
    """

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        def make(shape: Shape, channels: int, name: str) -> keras.layers.Layer | None:
            if shape[-1] == channels:
                return None
            return Chain([projection(shape, channels), normalization()], name=name)

        # Of a teacher of the student's own sizes: nothing is pooled.
        shapes = self.shapes(student, teacher, maps=True)
        return self.make_adapters([(o, (*o[:-1], t[-1])) for o, t in shapes], make)

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        pairs = self.adapted(student, teacher, pooled=False)
        return sum(functional.inter_channel_correlation(*pair) for pair in pairs)
