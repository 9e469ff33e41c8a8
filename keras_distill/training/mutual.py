"""Students that teach each other: deep mutual learning in one `fit`."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill.data import no_keras3_model
from keras_distill.objectives import Objective, Signals, SoftTargets
from keras_distill.signals.reader import student_reader
from keras_distill.training.joint import JointDistiller, Peers
from keras_distill.training.saving import revive

__all__ = ["MutualDistiller"]


@keras.saving.register_keras_serializable("keras_distill")
class MutualDistiller(JointDistiller):
    """Trains several students at once, each on the labels and on what its peers say now.

    For each student i of K: `label_weight * label loss + (1 - label_weight) * sum(weight *
    objective)`, each objective averaged over the K - 1 peers j as teachers, whose answers are
    constants to i; the K sums are added. All are updated together, from one forward of each.

    `compile` takes a loss and metrics as for a single student; `fit` and `evaluate` log each
    student's under its name, and `predict` returns a dict of answers by name. Afterwards
    `students[0]` and the others are plain models to evaluate or export.

    Args:
      students: two or more built models of one input and one output, of different names. They may
        differ in everything but that.
      objectives: as `Distiller`; None means `[SoftTargets(temperature=1.0)]`. Layers are named with
        the student's name before them: `FeatureHint("small/block2", "large/block4")` teaches
        "small".
      label_weight: the share of the label losses; at 0.5 labels and peers count alike, as in the
        paper.
      student_preprocess, student_output: as `Distiller`, for all of them.

    Raises:
      ValueError: fewer than two students, equal names, several outputs, inputs that differ.

    Source: Zhang et al., "Deep Mutual Learning", CVPR 2018, equation 8. The authors update the
    students in turn, each on its peers' newest answers.

    >>> def student(name):
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name=name)
    >>> both = MutualDistiller([student("ann"), student("bob")])
    >>> both.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> logs = both.fit(keras.ops.ones((8, 4)), keras.ops.zeros((8,), "int32"), verbose=0)
    >>> sorted(both.predict(keras.ops.ones((2, 4)), verbose=0))
    ['ann', 'bob']
    """

    def __init__(
        self,
        students: Sequence[keras.Model],
        objectives: Objective | Sequence[Objective] | None = None,
        *,
        label_weight: Any = 0.5,
        student_preprocess: Any = None,
        student_output: Any = "auto",
        name: str = "mutual_distiller",
    ):
        students = _checked(students)
        joint = _side_by_side(students)
        super().__init__(
            joint,
            Peers(joint, student_output, _pairs),
            [SoftTargets(temperature=1.0)] if objectives is None else objectives,
            label_weight=label_weight,
            student_preprocess=student_preprocess,
            student_output=student_output,
            name=name,
        )

    @property
    def students(self) -> tuple[keras.Model, ...]:
        """The models that learn, in the order given."""
        return tuple(self.student.get_layer(name) for name in self.student.output_names)

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "MutualDistiller":
        """The distiller that `get_config` described, ready to train on."""
        revived = ("student", "objectives", "label_weight", "student_preprocess")
        config = {**config, **revive(config, revived, custom_objects)}
        joint = config.pop("student")
        return cls([joint.get_layer(name) for name in joint.output_names], **config)


def _pairs(students: Signals) -> list[tuple[Signals, Signals]]:
    """Every student with each of its peers."""
    return [(students, _rotated(students, shift)) for shift in range(1, len(students.heads))]


def _rotated(signals: Signals, shift: int) -> Signals:
    """For each student, what the peer `shift` places further on says."""
    names = signals.names
    peers = {name: names[(i + shift) % len(names)] for i, name in enumerate(names)}
    return signals.speaking_for(peers)


def _checked(students: Sequence[keras.Model]) -> list[keras.Model]:
    students = list(students)
    if len(students) < 2:
        raise ValueError(f"MutualDistiller needs two students or more; got {len(students)}.")
    for student in students:
        if not isinstance(student, keras.Model):
            wanted = "MutualDistiller: expected Keras 3 models (keras.Model)"
            raise ValueError(no_keras3_model(student, wanted))
        if not student.built:
            raise ValueError(f"MutualDistiller: {student!r} is no built Keras model.")
        if len(getattr(student, "outputs", None) or [None]) > 1:
            raise ValueError(
                f"MutualDistiller: {student.name!r} has {len(student.outputs)} outputs, and "
                f"peers are compared by one."
            )
    names = [student.name for student in students]
    if len(set(names)) < len(names):
        raise ValueError(
            f"MutualDistiller: every student needs a name of its own; got {', '.join(names)}. "
            f"Give name= when the models are made."
        )
    return students


def _side_by_side(students: Sequence[keras.Model]) -> keras.Model:
    specs = [student_reader(student).input_spec for student in students]
    shapes = [str(keras.tree.map_structure(lambda spec: tuple(spec.shape), s)) for s in specs]
    if len(set(shapes)) > 1:
        listed = ", ".join(f"{s.name!r} {shape}" for s, shape in zip(students, shapes, strict=True))
        raise ValueError(f"MutualDistiller: the students' inputs differ: {listed}.")
    inputs = keras.tree.map_structure(
        lambda spec: keras.Input(
            spec.shape[1:],
            dtype=spec.dtype,
            sparse=isinstance(spec, tf.SparseTensorSpec),
            ragged=isinstance(spec, tf.RaggedTensorSpec),
        ),
        specs[0],
    )
    return keras.Model(inputs, {s.name: s(inputs) for s in students}, name="students")
