"""Students that teach each other: deep mutual learning in one `fit`."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import step
from keras_distill.distiller import Distiller
from keras_distill.objectives import Objective, Signals, SoftTargets
from keras_distill.student import StudentReader
from keras_distill.teachers.base import Teacher

__all__ = ["MutualDistiller"]


@keras.saving.register_keras_serializable("keras_distill")
class MutualDistiller(Distiller):
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
        student_output: str = "auto",
        name: str = "mutual_distiller",
    ):
        students = _checked(students)
        joint = _side_by_side(students)
        super().__init__(
            joint,
            _Peers(joint, student_output),
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

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **options: Any
    ) -> None:
        """As `Distiller.compile`; a loss or metrics not given by student serve every one."""
        super().compile(optimizer, self._for_each(loss), metrics=self._for_each(metrics), **options)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update of all students: one forward and one backward of each."""
        return super().train_step(self._labels_for_each(data))

    def test_step(self, data: Any) -> dict[str, Any]:
        """Every student's label loss and metrics."""
        return super().test_step(self._labels_for_each(data))

    def get_config(self) -> dict:
        config = super().get_config()
        for unused in ("teacher_spec", "teacher_preprocess"):
            config.pop(unused)
        return config

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "MutualDistiller":
        """The distiller that `get_config` described, ready to train on."""
        config = dict(config)
        revive = keras.saving.deserialize_keras_object
        for key in ("student", "objectives", "label_weight", "student_preprocess"):
            config[key] = revive(config[key], custom_objects)
        joint = config.pop("student")
        return cls([joint.get_layer(name) for name in joint.output_names], **config)

    @staticmethod
    def load(
        path: Any, teacher: None = None, custom_objects: dict | None = None
    ) -> "MutualDistiller":
        """A saved distiller, ready to train on: the students are each other's teachers."""
        if teacher is not None:
            raise ValueError("A MutualDistiller has no teacher besides its students: give none.")
        return keras.saving.load_model(path, custom_objects=custom_objects)

    def _student_taps(self) -> list:
        taught = [key for objective in self._objectives for key in objective.teacher_taps]
        return [*super()._student_taps(), *taught]

    def _teacher_signals(self, x: Any, y: Any, student: Signals) -> Signals:
        return _peers(student, 1)

    def _objective_values(
        self, objectives: Sequence[Objective], student: Signals, teacher: Signals, y: Any
    ) -> dict[str, Any]:
        shifts = range(1, len(student.heads))
        found = [
            step.objective_values(objectives, student, _peers(student, shift), y)
            for shift in shifts
        ]
        return {name: tf.add_n([f[name] for f in found]) / len(found) for name in found[0]}

    def _for_each(self, given: Any) -> Any:
        names = self.student.output_names
        if given is None or (isinstance(given, Mapping) and set(given) <= set(names)):
            return given
        return {name: keras.tree.map_structure(_anew, given) for name in names}

    def _labels_for_each(self, data: Any) -> tuple:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is not None:
            y = dict.fromkeys(self.student.output_names, y)
        if sample_weight is not None:
            sample_weight = dict.fromkeys(self.student.output_names, sample_weight)
        return x, y, sample_weight


class _Peers(Teacher):
    """What the students' answers look like to each other, before there are any."""

    def __init__(self, joint: keras.Model, output: str):
        self._joint, self._output = joint, output

    def build(self, input_spec: Any, taps: tuple) -> Signals:
        spec = StudentReader(self._joint, taps, self._output).spec
        return _rotated(spec, 1, lambda tensor: tensor)

    def fingerprint(self) -> str:
        return "peers"


def _peers(students: Signals, shift: int) -> Signals:
    """Of each student, what the peer `shift` places further on says, a constant."""
    return _rotated(students, shift, tf.stop_gradient)


def _rotated(signals: Signals, shift: int, taken: Any) -> Signals:
    names = signals.heads
    peers = {name: names[(i + shift) % len(names)] for i, name in enumerate(names)}
    return Signals(
        {name: taken(signals.logits[peer]) for name, peer in peers.items()},
        {key: taken(tensor) for key, tensor in signals.taps.items()},
        {name: signals.from_probabilities[peer] for name, peer in peers.items()},
    )


def _checked(students: Sequence[keras.Model]) -> list[keras.Model]:
    students = list(students)
    if len(students) < 2:
        raise ValueError(f"MutualDistiller needs two students or more; got {len(students)}.")
    for student in students:
        if not isinstance(student, keras.Model) or not student.built:
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
    specs = [StudentReader(student, (), "auto").input_spec for student in students]
    shapes = [str(keras.tree.map_structure(lambda spec: tuple(spec.shape), s)) for s in specs]
    if len(set(shapes)) > 1:
        listed = ", ".join(f"{s.name!r} {shape}" for s, shape in zip(students, shapes, strict=True))
        raise ValueError(f"MutualDistiller: the students' inputs differ: {listed}.")
    inputs = keras.tree.map_structure(
        lambda spec: keras.Input(spec.shape[1:], dtype=spec.dtype), specs[0]
    )
    return keras.Model(inputs, {s.name: s(inputs) for s in students}, name="students")


def _anew(given: Any) -> Any:
    """A loss or metric for one more student: metrics keep a state, and none may be shared."""
    if isinstance(given, keras.metrics.Metric):
        return type(given).from_config(given.get_config())
    return given
