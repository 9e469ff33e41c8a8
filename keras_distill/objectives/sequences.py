"""Objectives on the layers of models that read sequences: layer by layer, padding left out.

Both models read the same tokens: position i of one is position i of the other. `mask=` names a
layer or an input of the student that is, `(batch, time)`, non-zero at the real tokens.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Shape, Tensor
from keras_distill.objectives.base import Objective, layer_name
from keras_distill.objectives.layer_base import check_whole
from keras_distill.objectives.layer_pairs import one_of, pair_layers
from keras_distill.signals import Signals

__all__ = ["AttentionMaps", "HiddenStates", "ValueRelations"]


class _Layerwise(Objective):
    """Compares layers in pairs, and averages over the pairs."""

    _ranks: tuple[int, ...] = (3,)
    _takes = "(batch, time, width)"
    _time_axes: tuple[int, ...] = (1,)

    def __init__(
        self,
        student: Any,
        teacher: Any = None,
        *,
        mapping: str | None = None,
        mask: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.pairs = pair_layers(self.name, student, teacher, mapping)
        self.mask = mask
        ours = [s for s, _ in self.pairs]
        self.student_taps = tuple(dict.fromkeys(ours if mask is None else [*ours, mask]))
        self.teacher_taps = tuple(dict.fromkeys(t for _, t in self.pairs))

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        adapters: dict[str, keras.layers.Layer] = {}
        for index, (s, t) in enumerate(self.pairs):
            ours, theirs = tuple(student.taps[s].shape), tuple(teacher.taps[t].shape)
            self._check(index, ours, theirs)
            self._check_mask(index, student)
            adapters.update(self._adapters(index, ours, theirs))
        return adapters

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        for index in range(len(self.pairs)):
            # An input of any length has one only now; nothing is trained yet.
            self._check_mask(index, student)
        mask = None if self.mask is None else padding_mask(student.taps[self.mask])
        values = [
            self._compare(index, student.taps[s], teacher.taps[t], mask)
            for index, (s, t) in enumerate(self.pairs)
        ]
        return ops.mean(ops.stack(values), axis=0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "student": [layer_name(s) for s, _ in self.pairs],
            "teacher": [layer_name(t) for _, t in self.pairs],
        }

    def _adapters(self, index: int, ours: Shape, theirs: Shape) -> dict[str, keras.layers.Layer]:
        return {}

    def _compare(self, index: int, ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError

    def _check(self, index: int, ours: Shape, theirs: Shape) -> None:
        shapes = f"the student's output is {ours} and the teacher's {theirs}"
        if len(ours) not in self._ranks or len(theirs) not in self._ranks:
            raise ValueError(
                f"{self._label(index)}: {shapes}. Name layers that give {self._takes}."
            )
        for axis in self._time_axes:
            if None not in (ours[axis], theirs[axis]) and ours[axis] != theirs[axis]:
                raise ValueError(
                    f"{self._label(index)}: {shapes}: {ours[axis]} positions against "
                    f"{theirs[axis]}. Pad or cut both models' inputs to one length, with the same "
                    f"tokens in them."
                )

    def _check_mask(self, index: int, student: Signals) -> None:
        if self.mask is not None:
            ours = student.taps[self.pairs[index][0]].shape
            mask = tuple(student.taps[self.mask].shape)
            check_mask(self._label(index), layer_name(self.mask), mask, ours[self._time_axes[-1]])

    def _label(self, index: int) -> str:
        student, teacher = map(layer_name, self.pairs[index])
        return f"{type(self).__name__}({student!r}, {teacher!r})"


@keras.saving.register_keras_serializable("keras_distill")
class HiddenStates(_Layerwise):
    """The student's states become the teacher's, token by token, layer by layer.

    See `functional.hidden_state_mse` and `hidden_state_cosine`. Where the widths differ a linear
    adapter, one a pair of layers, projects the student's states. The pairs' mean is the value.

    Args:
      student: layers as in `FeatureHint`, each giving `(batch, time, width)`: one, a list, or a
        dict `{student layer: teacher layer}`.
      teacher: the teacher's layers from first to last, unless `student` is a dict.
      mapping: which of a longer list of the teacher's layers teach: "uniform" (evenly spaced, the
        last to the last), "skip" (every n-th from the first) or "last" (the last ones). None takes
        lists of equal length, in order.
      distance: "mse" or "cosine".
      mask: a layer of the student whose output, `(batch, time)`, is non-zero at the real tokens; an
        input of the model counts as one.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: layers that can't be paired, shapes that do not fit, a mask of another length.

    Source: Jiao et al., "TinyBERT", EMNLP Findings 2020 (uniform, MSE; one projection serves all
    its layers, and the losses add); Sanh et al., "DistilBERT", 2019 (cosine).

    >>> HiddenStates(["h1", "h2"], ["h1", "h2", "h3", "h4"], mapping="uniform").pairs
    (('h1', 'h2'), ('h2', 'h4'))
    """

    examples = (
        {"student": "sequence", "teacher": "sequence"},
        {"student": ["sequence", "sequence_2"], "teacher": ["sequence", "sequence_2"]},
        {"student": {"sequence": "sequence"}, "distance": "cosine"},
    )

    def __init__(
        self,
        student: Any,
        teacher: Any = None,
        *,
        distance: str = "mse",
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        self.distance = one_of(self.name, "distance", distance, ("mse", "cosine"))
        self._projections: dict[int, keras.layers.Layer] = {}

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        self._projections = {}
        return super().build(student, teacher)

    def _adapters(self, index: int, ours: Shape, theirs: Shape) -> dict[str, keras.layers.Layer]:
        if None in (ours[2], theirs[2]):
            raise ValueError(
                f"{self._label(index)}: the student's output is {ours} and the teacher's {theirs}. "
                f"States of unknown width can't be compared: fix the layers' width."
            )
        if ours[2] == theirs[2]:
            return {}
        layer = keras.layers.Dense(
            theirs[2], use_bias=False, dtype="float32", name=f"{self.name}_adapter_{index}"
        )
        layer.build(ours)
        self._projections[index] = layer
        return {f"adapter_{index}": layer}

    def _compare(self, index: int, ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
        if index in self._projections:
            ours = self._projections[index](ours)
        if self.distance == "cosine":
            return functional.hidden_state_cosine(ours, theirs, mask=mask)
        return functional.hidden_state_mse(ours, theirs, mask=mask)


@keras.saving.register_keras_serializable("keras_distill")
class AttentionMaps(_Layerwise):
    """Where each token looks becomes where the teacher's looks.

    See `functional.attention_kl` and `attention_mse`. Where the numbers of heads differ, each
    side's heads are averaged. Keras' `MultiHeadAttention` computes probabilities that can be tapped
    where it is called with `return_attention_scores=True` or was made with dropout: name the scores
    (a `keras.layers.Identity` behind them) or its inner layer, `"attention/softmax"`. Otherwise it
    runs a fused kernel, and there is nothing to tap.

    Args:
      student, teacher, mapping, mask: see `HiddenStates`; the layers give probabilities, `(batch,
        heads, time, time)`.
      distance: "kl" or "mse".
      weight, output, name: see `Objective`.

    Raises:
      ValueError: layers that can't be paired, shapes that do not fit, a mask of another length.

    Source: Wang et al., "MiniLM", NeurIPS 2020 (KL, the last layer alone); Jiao et al., "TinyBERT",
    EMNLP Findings 2020 (MSE, of the scores before their softmax).

    >>> AttentionMaps("scores", "scores", distance="mse").distance
    'mse'
    """

    _ranks = (4,)
    _takes = "attention probabilities, (batch, heads, time, time)"
    _time_axes = (2, 3)
    examples = (
        {"student": "attention", "teacher": "attention"},
        {"student": "attention", "teacher": "attention", "distance": "mse"},
    )

    def __init__(
        self,
        student: Any,
        teacher: Any = None,
        *,
        distance: str = "kl",
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        self.distance = one_of(self.name, "distance", distance, ("kl", "mse"))

    def _check(self, index: int, ours: Shape, theirs: Shape) -> None:
        super()._check(index, ours, theirs)
        if self.mask is not None and ours[2] != ours[3]:
            raise ValueError(
                f"{self._label(index)}: a mask serves self-attention, whose rows and columns are "
                f"the same tokens; the student's output is {ours} and the teacher's {theirs}."
            )

    def _compare(self, index: int, ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
        if self.distance == "mse":
            return functional.attention_mse(ours, theirs, mask=mask)
        return functional.attention_kl(ours, theirs, mask=mask)


@keras.saving.register_keras_serializable("keras_distill")
class ValueRelations(_Layerwise):
    """How alike an attention layer's values are to each other becomes as it is in the teacher.

    See `functional.value_relation_kl`. The widths may differ, and with `heads=` the numbers of
    heads. Keras' `MultiHeadAttention` has the layers "value", "query" and "key" inside: name
    `"attention/value"`; with queries and keys, too, in objectives of their own, this is MiniLMv2.

    Args:
      student, teacher, mapping, mask: see `HiddenStates`; the layers give `(batch, time, width)` or
        `(batch, time, heads, width)`.
      heads: into how many relation heads the width is split on both sides; by default as it comes.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: layers that can't be paired, shapes that do not fit, a mask of another length,
        numbers of heads that differ or do not divide the widths.

    Source: Wang et al., "MiniLM", NeurIPS 2020; "MiniLMv2", ACL Findings 2021.

    >>> ValueRelations("attention/value", "attention_11/value", heads=12).heads
    12
    """

    _ranks = (3, 4)
    _takes = "(batch, time, width) or (batch, time, heads, width)"
    examples = (
        {"student": "sequence", "teacher": "sequence"},
        {"student": "sequence", "teacher": "sequence", "heads": 2},
    )

    def __init__(
        self,
        student: Any,
        teacher: Any = None,
        *,
        heads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        if heads is not None:
            check_whole(self.name, heads=heads)
        self.heads = heads

    def _check(self, index: int, ours: Shape, theirs: Shape) -> None:
        super()._check(index, ours, theirs)
        heads = [self.heads or (shape[2] if len(shape) == 4 else 1) for shape in (ours, theirs)]
        widths = [math.prod(shape[2:]) for shape in (ours, theirs)]
        if heads[0] != heads[1] or widths[0] % heads[0] or widths[1] % heads[1]:
            raise ValueError(
                f"{self._label(index)}: the student's output is {ours} and the teacher's {theirs}, "
                f"{widths[0]} and {widths[1]} numbers a position in {heads[0]} and {heads[1]} "
                f"heads. Give a heads= that divides both."
            )

    def _compare(self, index: int, ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
        return functional.value_relation_kl(ours, theirs, heads=self.heads, mask=mask)


def check_mask(owner: str, name: str, mask: Shape, length: int | None) -> None:
    """ValueError unless a mask's shape is `(batch, length)`, or has an axis of one behind."""
    if len(mask) not in (2, 3) or mask[2:] not in ((), (1,)):
        raise ValueError(
            f"{owner}: mask={name!r} must name a layer that gives one number a position, (batch, "
            f"time); its output is {mask}."
        )
    if None not in (mask[1], length) and mask[1] != length:
        raise ValueError(
            f"{owner}: mask={name!r} marks {mask[1]} positions, {mask}, of {length}. Name the mask "
            f"of this very sequence."
        )


def padding_mask(tensor: Tensor) -> Tensor:
    """A tapped mask as `(batch, time)`."""
    return ops.squeeze(tensor, -1) if len(tensor.shape) == 3 else tensor
