"""Objectives on the models' inner layers."""

from typing import Any

import keras

from keras_distill import functional
from keras_distill.objectives.base import Objective, Signals

__all__ = ["FeatureHint"]


@keras.saving.register_keras_serializable("keras_distill")
class FeatureHint(Objective):
    """A student's layer learns to give what a teacher's layer gives.

    Where the widths differ a linear adapter (1x1 convolution on maps, dense elsewhere) projects
    the student's features; where the sizes differ the larger is average-pooled to the smaller.

    Args:
      student, teacher: a layer's name, its path into nested models (`"backbone/conv5_out"`), the
        layer itself, or `"name:1"` for a shared layer's second call.
      adapter: `"auto"`, None (widths must be equal), or a Keras layer of your own that maps the
        student's features (pooled, where the student's map is the larger) to the teacher's width.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: the shapes do not fit; at the Distiller's construction.

    Source: Romero et al., "FitNets", ICLR 2015.

    >>> FeatureHint("block4", "backbone/conv5_out").student_taps
    ('block4',)
    """

    def __init__(self, student: Any, teacher: Any, *, adapter: Any = "auto", **options: Any):
        super().__init__(**options)
        if not (adapter is None or adapter == "auto" or isinstance(adapter, keras.layers.Layer)):
            raise ValueError(
                f"{self.name}: adapter must be 'auto', None or a keras.layers.Layer; got "
                f"{adapter!r}."
            )
        self.student_taps = (student,)
        self.teacher_taps = (teacher,)
        self.adapter = adapter
        self._projection: keras.layers.Layer | None = None

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        ours = student.taps[self.student_taps[0]].shape
        theirs = teacher.taps[self.teacher_taps[0]].shape
        self._projection = None
        self._check(ours, theirs)
        if self.adapter is None or (self.adapter == "auto" and ours[-1] == theirs[-1]):
            return {}
        projection = self._make_adapter(len(ours), theirs[-1])
        pooled = _smaller(ours, theirs)
        if not projection.built:
            projection.build(pooled)
        given = projection.compute_output_shape(pooled)
        if given[-1] != theirs[-1]:
            raise ValueError(
                f"{self._label()}: the adapter gives {tuple(given)} and the teacher's layer has "
                f"{theirs[-1]} channels ({tuple(theirs)}). Make the adapter's last axis "
                f"{theirs[-1]}."
            )
        self._projection = projection
        return {"adapter": projection}

    def __call__(self, student: Signals, teacher: Signals, labels: Any):
        ours, theirs = functional.match_sizes(
            student.taps[self.student_taps[0]], teacher.taps[self.teacher_taps[0]]
        )
        return functional.hint_mse(self._projection(ours) if self._projection else ours, theirs)

    def get_config(self) -> dict:
        adapter = self.adapter
        if isinstance(adapter, keras.layers.Layer):
            adapter = keras.saving.serialize_keras_object(adapter)
        return {
            **super().get_config(),
            "student": _tap_name(self.student_taps[0]),
            "teacher": _tap_name(self.teacher_taps[0]),
            "adapter": adapter,
        }

    @classmethod
    def from_config(cls, config: dict) -> "FeatureHint":
        adapter = config.get("adapter")
        if isinstance(adapter, dict):
            config = {**config, "adapter": keras.saving.deserialize_keras_object(adapter)}
        return cls(**config)

    def _make_adapter(self, rank: int, channels: int) -> keras.layers.Layer:
        if self.adapter != "auto":
            return self.adapter
        name = f"{self.name}_adapter"
        if rank == 4:
            return keras.layers.Conv2D(channels, 1, use_bias=False, dtype="float32", name=name)
        return keras.layers.Dense(channels, use_bias=False, dtype="float32", name=name)

    def _check(self, ours: tuple, theirs: tuple) -> None:
        shapes = f"the student's output is {tuple(ours)} and the teacher's {tuple(theirs)}"
        if len(ours) != len(theirs):
            raise ValueError(
                f"{self._label()}: {shapes}. Name two layers of equal rank, or flatten one."
            )
        if None in (*ours[1:], *theirs[1:]):
            raise ValueError(
                f"{self._label()}: {shapes}. Give both models a fixed input size: an axis of "
                f"unknown size can be neither pooled nor projected."
            )
        if self.adapter is None and ours[-1] != theirs[-1]:
            raise ValueError(
                f"{self._label()}: {shapes}. Leave adapter='auto' to project {ours[-1]} to "
                f"{theirs[-1]}, or name layers of equal width."
            )

    def _label(self) -> str:
        student, teacher = _tap_name(self.student_taps[0]), _tap_name(self.teacher_taps[0])
        return f"FeatureHint({student!r}, {teacher!r})"


def _smaller(ours: tuple, theirs: tuple) -> tuple:
    sizes = [min(a, b) for a, b in zip(ours[1:-1], theirs[1:-1], strict=True)]
    return (None, *sizes, ours[-1])


def _tap_name(tap: Any) -> str:
    return tap if isinstance(tap, str) else tap.name
