"""Patient distillation: the state that a classifier reads, layer by layer."""

from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.tensors import Shape, Tensor
from keras_distill.objectives.adapters import projection
from keras_distill.objectives.layer_base import LayerObjective
from keras_distill.objectives.layer_pairs import pair_layers
from keras_distill.signals import Signals

__all__ = ["PatientStates"]


@keras.saving.register_keras_serializable("keras_distill")
class PatientStates(LayerObjective):
    """The [CLS] states of the student's layers point where those of the teacher's do (PKD).

    See `functional.patient_state_mse`, which is averaged over the pairs of layers. One position is
    compared, so each model may have its own tokenizer, and padding plays no part. Where the widths
    differ a linear adapter, one a pair of layers, projects the student's states.

    Args:
      student, teacher, mapping: see `HiddenStates`; the layers give `(batch, time, width)` or, of
        the one state already, `(batch, width)`.
      position: of the state in `(batch, time, width)`: 0, or -1 for the last, and so on.
      weight, output, name: see `Objective`. `(1 - label_weight) * weight` is the authors' beta;
        their code's is 500, beside soft targets of T = 10 that count 0.7.

    Raises:
      ValueError: layers that can't be paired, shapes that do not fit, no such position.

    Source: Sun et al., "Patient Knowledge Distillation for BERT Model Compression", EMNLP 2019.

    The last layer of either model is left to the soft targets. A teacher of 12 layers teaches a
    student of 6 by PKD-Skip (layers 2, 4, 6, 8, 10) or PKD-Last (7 to 11):

    >>> ours, theirs = ([f"block_{i}" for i in range(1, count)] for count in (6, 12))
    >>> skip = PatientStates(ours, theirs[:10], mapping="uniform")
    >>> skip.teacher_taps
    ('block_2', 'block_4', 'block_6', 'block_8', 'block_10')
    >>> PatientStates(ours, theirs, mapping="last").teacher_taps
    ('block_7', 'block_8', 'block_9', 'block_10', 'block_11')
    """

    examples = (
        {"student": "sequence", "teacher": "sequence"},
        {
            "student": ["sequence", "sequence_2"],
            "teacher": ["sequence", "sequence_2"],
            "position": -1,
        },
        {"student": {"vector": "vector"}},
    )

    def __init__(
        self,
        student: Any,
        teacher: Any = None,
        *,
        mapping: str | None = None,
        position: int = 0,
        **options: Any,
    ) -> None:
        pairs = pair_layers(type(self).__name__, student, teacher, mapping)
        super().__init__([ours for ours, _ in pairs], [theirs for _, theirs in pairs], **options)
        if not isinstance(position, int):
            raise ValueError(
                f"{self.name}: position must be a whole number, 0 for the first state; got "
                f"{position!r}."
            )
        self.mapping = mapping
        self.position = position

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        taps = zip(self.student_taps, self.teacher_taps, strict=True)
        shapes = [(tuple(student.taps[s].shape), tuple(teacher.taps[t].shape)) for s, t in taps]
        for index, (ours, theirs) in enumerate(shapes):
            self._check(index, ours, theirs)
        states = [((None, ours[-1]), (None, theirs[-1])) for ours, theirs in shapes]
        return self.make_adapters(states, _projection)

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        pairs = self.adapted(student, teacher, pooled=False)
        return ops.mean(ops.stack([functional.patient_state_mse(*pair) for pair in pairs]), axis=0)

    def pairs(self, student: Signals, teacher: Signals) -> list[tuple[Tensor, Tensor]]:
        """The one state of each layer, (student, teacher)."""
        return [
            (self._state(ours), self._state(theirs))
            for ours, theirs in super().pairs(student, teacher)
        ]

    def _state(self, layer: Tensor) -> Tensor:
        return layer[:, self.position] if len(layer.shape) == 3 else layer

    def _check(self, index: int, ours: Shape, theirs: Shape) -> None:
        said = self.said(index, ours, theirs)
        for shape in (ours, theirs):
            if len(shape) not in (2, 3) or shape[-1] is None:
                raise ValueError(
                    f"{said}. Name layers that give (batch, time, width) or (batch, width), of a "
                    f"width that is known."
                )
            length = shape[1] if len(shape) == 3 else None
            if length is not None and not -length <= self.position < length:
                raise ValueError(
                    f"{said}: there is no position {self.position} among {length}. Give position= "
                    f"the place of the state that the classifier reads."
                )


def _projection(shape: Shape, width: int, name: str) -> keras.layers.Layer | None:
    return None if shape[-1] == width else projection(shape, width, name=name)
