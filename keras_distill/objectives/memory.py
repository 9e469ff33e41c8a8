"""Contrastive representation distillation, with a memory of every example."""

import math
from typing import Any

import keras
from keras import ops

from keras_distill import functional
from keras_distill.functional.relations import unit_or_zero
from keras_distill.functional.tensors import Tensor
from keras_distill.objectives.base import layer_name
from keras_distill.objectives.contrastive import EmbeddingObjective
from keras_distill.objectives.layer_base import check_whole
from keras_distill.objectives.logits_base import check_constant, check_range, check_share
from keras_distill.signals import Signals

__all__ = ["ContrastiveMemory"]


@keras.saving.register_keras_serializable("keras_distill")
class ContrastiveMemory(EmbeddingObjective):
    """Each model tells an example's embedding in the other from those of examples drawn at random.

    A memory holds one embedding of either model for every example of the data, a mean over the
    epochs: `momentum * old + (1 - momentum) * new`, at length 1. The student's embedding of an
    example is compared with what the memory has of the teacher for it, and for `negatives` others
    that are drawn anew for each example in each step; the teacher's with what it has of the
    student. See `functional.noise_contrastive` for the loss, which is added over both. Both
    embeddings are linear and trained; an embedding in the memory hands no gradient on.

    The memory is found by an example's row, which must come with the example: as an input of the
    teacher that nothing else reads.

        image = keras.Input(teacher.input_shape[1:], name="image")
        row = keras.Input((), dtype="int32", name="row")
        numbered = keras.Model({"image": image, "row": row}, teacher(image))
        objective = ContrastiveMemory("pool", "pool", index="row", rows=len(x))

        @keras.saving.register_keras_serializable()
        def image_of(inputs):
            return inputs["image"]

        distiller = kd.Distiller(student, numbered, objective, student_preprocess=image_of)
        distiller.fit({"image": x, "row": np.arange(len(x))}, y)

    A `TeacherCache` of such a teacher keeps it: `layers=["pool", "row"], layer_dtype="float32"`.
    The memory takes `2 * rows * width` numbers, begins with random directions, and is saved with
    the distiller. Without XLA a step writes it anew, and holds one side twice meanwhile; it gathers
    `2 * batch * negatives * width` numbers of it, half a gigabyte for a batch of 128 at the
    defaults. Evaluation reads no rows, for those of other data name other examples: there the two
    models' embeddings of an example are compared with each other, against the same draws each time.
    Under a strategy every replica holds the same memory, fed from the first replica's share of the
    batch.

    Args:
      student, teacher: layers as in `FeatureHint`, vectors or maps (flattened).
      index: an input or a layer of the teacher that gives each example's row, `(batch,)` integers
        from 0 to `rows - 1`; an example keeps its row, however it is shuffled or augmented.
      rows: how many examples there are, at least 2.
      width: of the embeddings.
      negatives: how many are drawn for an example, all others alike.
      momentum: the share of what was before, in [0, 1).
      temperature: T > 0.
      seed: of the draws; where they stand is saved in a Distiller's checkpoints.
      weight, output, name: see `Objective`. The authors' weight is 0.8.

    Raises:
      ValueError: a layer of unknown size, an index that gives no integers or rows out of range, a
        number out of range.

    Source: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, with the
    numbers of the authors' code but `negatives`, which is 16384 there. The constant of the loss is
    found on the first batch and kept, as there. With labels at hand they draw from other classes
    alone; here, as in their code without, a negative may be of the example's own class.

    >>> objective = ContrastiveMemory("pool", "pool", index="row", rows=50_000)
    >>> objective.teacher_taps
    ('pool', 'row')
    """

    random = True
    # Its constant, in the first step.
    detached = True
    examples = ({"index": "row", "rows": 16, "negatives": 8, "width": 8},)

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        index: Any,
        rows: int,
        negatives: int = 4096,
        momentum: float = 0.5,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        check_whole(self.name, rows=rows, negatives=negatives)
        if rows < 2:
            raise ValueError(f"{self.name}: rows must be at least 2, to have others; got {rows}.")
        # The loss' constant is of the temperature that it was found at.
        check_constant(self.name, temperature=self.temperature)
        check_share(self.name, momentum=momentum)
        self.teacher_taps = (teacher, index)
        self.index = index
        self.rows = rows
        self.negatives = negatives
        self.momentum = momentum
        self.seed = seed
        self._memory: Any = None

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        index = teacher.taps[self.index]
        dtype = keras.backend.standardize_dtype(index.dtype)
        if tuple(index.shape[1:]) not in ((), (1,)) or "int" not in dtype:
            raise ValueError(
                f"{self.label()}: index={layer_name(self.index)!r} must give each example's row, "
                f"(batch,) integers; it gives {tuple(index.shape)}, {dtype}. Make the teacher's "
                f"input keras.Input((), dtype='int32', name={layer_name(self.index)!r})."
            )
        made = self.make_embeddings(student, teacher)
        self._memory = Memory(self.rows, self.width, self.seed, name=f"{self.name}_memory")
        self._memory.build()
        return {**made, "memory": self._memory}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        sides = self.embedded(student, teacher)
        rows, nan = self._rows(teacher.taps[self.index]) if self.training else (None, 0.0)
        drawn = self._memory.draw(ops.shape(sides[0])[0], self.negatives, rows)
        values = self._one_way(0, *sides, rows, drawn) + self._one_way(1, *sides[::-1], rows, drawn)
        if self.training:
            self._memory.update(rows, sides, self.momentum)
        return values + nan

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "teacher": layer_name(self.teacher_taps[0])}

    def _one_way(
        self, side: int, anchor: Tensor, other: Tensor, rows: Tensor, drawn: Tensor
    ) -> Tensor:
        own = other if rows is None else self._memory.of(1 - side, rows)
        positives = ops.sum(anchor * own, axis=1) / self.temperature
        found = self._memory.of(1 - side, drawn)
        negatives = ops.einsum("bw,bkw->bk", anchor, found) / self.temperature
        scores = ops.concatenate([positives[:, None], negatives], axis=1)
        constant = self._memory.log_constant(side, scores, training=self.training)
        return functional.noise_contrastive(
            positives, negatives, log_constant=constant, examples=self.rows
        )

    def _rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that the memory has, and zeros, or NaN where another was asked for."""
        rows = ops.reshape(ops.cast(index, "int64"), (-1,))
        expected = (
            f"{self.name}: the rows that index={layer_name(self.index)!r} gives must be in [0, "
            f"{self.rows}), as rows= says how many there are"
        )
        check_range(rows, 0, self.rows, expected)
        # XLA leaves the check out.
        kept = ops.clip(rows, 0, self.rows - 1)
        nan = ops.where(rows == kept, ops.cast(0, "float32"), ops.cast(float("nan"), "float32"))
        return ops.cast(kept, "int32"), nan


class Memory(keras.layers.Layer):
    """An embedding of either side for every example, and what is drawn of it at random.

    Sides are numbered: the student's is 0, the teacher's 1.
    """

    def __init__(self, rows: int, width: int, seed: int, **options: Any) -> None:
        super().__init__(trainable=False, dtype="float32", **options)
        self.rows = rows
        self.width = width
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any = None) -> None:
        # One for all replicas, as in Queue.
        shared = {"trainable": False, "aggregation": "only_first_replica"}
        self.sides = []
        for seed, side in enumerate(("student", "teacher")):
            normal = keras.initializers.RandomNormal(stddev=1.0, seed=seed)
            entries = self.add_weight(
                shape=(self.rows, self.width), initializer=normal, name=side, **shared
            )
            entries.assign(unit_or_zero(entries))
            self.sides.append(entries)
        # Of the loss whose anchors are a side's: minus infinity until the first batch finds it.
        nothing = keras.initializers.Constant(-math.inf)
        self.constants = [
            self.add_weight(shape=(), initializer=nothing, name=f"{side}_constant", **shared)
            for side in ("student", "teacher")
        ]

    def draw(self, batch: Any, count: int, rows: Tensor) -> Tensor:
        """Rows at random, `(batch, count)`: of the others than `rows`, or of all without."""
        if rows is None:
            # A plain number draws the same each time, and moves nothing.
            return keras.random.randint((batch, count), 0, self.rows, seed=self.seed)
        ahead = keras.random.randint((batch, count), 1, self.rows, seed=self.seed_generator)
        return (rows[:, None] + ahead) % self.rows

    def of(self, side: int, rows: Tensor) -> Tensor:
        """What it has of a side for these rows, `(..., width)`."""
        return ops.take(self.sides[side], rows, axis=0)

    def log_constant(self, side: int, scores: Tensor, training: bool) -> Tensor:
        """The logarithm of mean exp(score) times the number of rows, as it was at first."""
        count = ops.cast(ops.size(scores), "float32")
        now = ops.logsumexp(ops.stop_gradient(scores)) + math.log(self.rows) - ops.log(count)
        constant = self.constants[side]
        found = ops.where(ops.isfinite(constant), constant, now)
        if training:
            constant.assign(found)
        return found

    def update(self, rows: Tensor, sides: tuple[Tensor, Tensor], momentum: Any) -> None:
        """Move the embeddings of these rows towards those of the two sides."""
        for entries, now in zip(self.sides, sides, strict=True):
            mixed = momentum * ops.take(entries, rows, axis=0) + (1 - momentum) * now
            mixed = unit_or_zero(ops.stop_gradient(mixed))
            entries.assign(ops.scatter_update(entries, rows[:, None], mixed))
