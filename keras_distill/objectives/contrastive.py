"""Contrastive representation distillation, with a queue of negatives."""

import math
from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.relations import unit_or_zero
from keras_distill.functional.tensors import Tensor
from keras_distill.objectives.base import Objective, layer_name
from keras_distill.objectives.layer_base import check_whole
from keras_distill.objectives.logits_base import check_positive
from keras_distill.signals import Signals

__all__ = ["ContrastiveRepresentation", "EmbeddingObjective"]


class EmbeddingObjective(Objective):
    """Compares a layer of each model, each behind a linear embedding of length 1."""

    at_teacher = "elsewhere"

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        width: int = 128,
        temperature: float = 0.07,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_whole(self.name, width=width)
        check_positive(self.name, temperature=temperature)
        self.student_taps, self.teacher_taps = (student,), (teacher,)
        self.width = width
        self.temperature = temperature
        self._embeddings: tuple[Any, ...] = ()

    def make_embeddings(
        self, student: Signals, teacher: Signals, **teachers: Any
    ) -> dict[str, keras.layers.Layer]:
        """A linear map of each side, by name; `teachers` are arguments of the teacher's."""
        ours = self._embedding("student", student.taps[self.student_taps[0]])
        theirs = self._embedding("teacher", teacher.taps[self.teacher_taps[0]], **teachers)
        self._embeddings = ours, theirs
        return {"student_embedding": ours, "teacher_embedding": theirs}

    def embedded(self, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor]:
        """Both sides' embeddings, `(batch, width)`."""
        ours = _embed(self._embeddings[0], student.taps[self.student_taps[0]])
        return ours, _embed(self._embeddings[1], teacher.taps[self.teacher_taps[0]])

    def label(self) -> str:
        """How a message calls it."""
        taps = layer_name(self.student_taps[0]), layer_name(self.teacher_taps[0])
        return f"{type(self).__name__}({', '.join(map(repr, taps))})"

    def _embedding(self, side: str, tensor: Tensor, **options: Any) -> keras.layers.Layer:
        shape = tuple(tensor.shape)
        if None in shape[1:]:
            raise ValueError(
                f"{self.label()}: the {side}'s output is {shape}, and a layer of unknown size "
                f"can't be embedded. Give the model a fixed input size, or name a layer that gives "
                f"vectors, (None, width)."
            )
        layer = keras.layers.Dense(
            self.width, dtype="float32", name=f"{self.name}_{side}_embedding", **options
        )
        layer.build((None, math.prod(shape[1:])))
        return layer


@keras.saving.register_keras_serializable("keras_distill")
class ContrastiveRepresentation(EmbeddingObjective):
    """The student tells an example's teacher embedding from those of earlier examples.

    Both layers' outputs go through a linear embedding and are scaled to length 1; see
    `functional.contrastive_representation` for the loss. The negatives are the `queue_size` latest
    teacher embeddings of earlier steps, each step's whole batch in and the oldest out. The queue
    begins with random directions, changes in training steps alone, and is saved with the
    distiller. It takes `queue_size * width` numbers, however large the data. Keep it well below
    the number of examples: in a queue longer than an epoch an example meets its own past embedding
    as a negative. Under a strategy every replica holds the same queue, fed from the first replica's
    share of the batch.

    The teacher's embedding is a fixed random projection. Were it trained, moving away from its own
    past in the queue would lower the loss and teach the student nothing.

    Args:
      student, teacher: layers as in `FeatureHint`, vectors or maps (flattened).
      width: of the embeddings.
      queue_size: how many negatives.
      temperature: T > 0.
      weight, output, name: see `Objective`. The authors' weight is 0.8.

    Raises:
      ValueError: a layer of unknown size, a number that is not positive.

    Source: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, whose code
    is `ContrastiveMemory`: both embeddings trained, one of either model kept for every example,
    binary losses with a constant, both ways. Here the queue, which a batch shares, is that of He et
    al., "MoCo", CVPR 2020; InfoNCE needs no constant; negatives may be of the example's own class;
    and the student alone is the anchor.

    >>> ContrastiveRepresentation("pool", "pool", queue_size=512).queue_size
    512
    """

    examples = ({"queue_size": 16, "width": 8},)

    def __init__(
        self, student: Any, teacher: Any, *, queue_size: int = 4096, **options: Any
    ) -> None:
        super().__init__(student, teacher, **options)
        check_whole(self.name, queue_size=queue_size)
        self.queue_size = queue_size
        self._queue: Any = None

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        made = self.make_embeddings(
            student,
            teacher,
            kernel_initializer=keras.initializers.Orthogonal(seed=0),
            use_bias=False,
            trainable=False,
        )
        self._queue = Queue(self.queue_size, self.width, name=f"{self.name}_queue")
        self._queue.build()
        return {**made, "queue": self._queue}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        ours, theirs = self.embedded(student, teacher)
        values = functional.contrastive_representation(
            ours, theirs, self._queue.entries, temperature=self.temperature
        )
        if self.training:
            self._queue.push(theirs)
        return values


class Queue(keras.layers.Layer):
    """The latest vectors of length 1, first in, first out; no gradient reaches them."""

    def __init__(self, size: int, width: int, **options: Any) -> None:
        super().__init__(trainable=False, dtype="float32", **options)
        self.size = size
        self.width = width

    def build(self, input_shape: Any = None) -> None:
        # Replicas that wrote each their own would hold different queues, of which a checkpoint
        # keeps one.
        self.entries = self.add_weight(
            shape=(self.size, self.width),
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=0),
            trainable=False,
            aggregation="only_first_replica",
            name="entries",
        )
        self.entries.assign(unit_or_zero(self.entries))

    def push(self, vectors: Any) -> None:
        """The vectors `(batch, width)` come to the front, the oldest drop out."""
        moved = ops.concatenate([ops.stop_gradient(vectors), self.entries])
        self.entries.assign(moved[: self.size])


def _embed(layer: keras.layers.Layer, x: Tensor) -> Tensor:
    return unit_or_zero(layer(ops.reshape(x, (-1, math.prod(x.shape[1:])))))
