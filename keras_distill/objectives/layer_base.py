"""What the objectives on pairs of layers share: their names, their shapes, their adapters."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras

from keras_distill.functional.tensors import Shape, Tensor, at_least_float32, match_sizes
from keras_distill.objectives.base import Objective, layer_name
from keras_distill.signals import Signals

__all__ = ["LayerObjective", "as_taps", "check_whole", "smaller", "unknown_sizes"]


class LayerObjective(Objective):
    """An objective on a layer of each model, or on several pairs of layers.

    Args:
      student, teacher: a layer as in `FeatureHint`, or equally long lists of layers.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: no layer, or more of one model than of the other.
    """

    # Whether axes of unknown size may stand between batch and channels, open in both models alike.
    open_axes: ClassVar[bool] = True
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"student": ["map", "map_2"], "teacher": ["map", "map_2"]},
    )

    def __init__(self, student: Any, teacher: Any, **options: Any) -> None:
        super().__init__(**options)
        self.student_taps, self.teacher_taps = as_taps(student), as_taps(teacher)
        self._adapters: list[keras.layers.Layer | None] = []
        self._check_layers()

    def pairs(self, student: Signals, teacher: Signals) -> list[tuple[Tensor, Tensor]]:
        """The tapped tensors, (student, teacher), in at least float32."""
        taps = zip(self.student_taps, self.teacher_taps, strict=True)
        return [
            (at_least_float32(student.taps[ours]), at_least_float32(teacher.taps[theirs]))
            for ours, theirs in taps
        ]

    def shapes(
        self, student: Signals, teacher: Signals, *, maps: bool
    ) -> list[tuple[Shape, Shape]]:
        """Their shapes, found to be comparable.

        Args:
          student, teacher: Signals of `keras.KerasTensor`s.
          maps: whether there must be axes of positions.

        Raises:
          ValueError: ranks that differ, axes of unknown size, vectors where maps are due.
        """
        taps = zip(self.student_taps, self.teacher_taps, strict=True)
        shapes = [(tuple(student.taps[s].shape), tuple(teacher.taps[t].shape)) for s, t in taps]
        for index, pair in enumerate(shapes):
            self._check_shapes(index, *pair, maps)
        return shapes

    def check_positions(self, shapes: list[tuple[Shape, Shape]]) -> None:
        """ValueError where a map, pooled to the smaller, is left with a single position."""
        for index, (ours, theirs) in enumerate(shapes):
            if all(1 in sizes for sizes in zip(ours[1:-1], theirs[1:-1], strict=True)):
                raise ValueError(
                    f"{self.said(index, ours, theirs)}: at the smaller size there is one position, "
                    f"which is all of every map. Name layers before the pooling."
                )

    def label(self, index: int = 0) -> str:
        """How a message calls one of the pairs."""
        taps = self.student_taps[index], self.teacher_taps[index]
        return f"{type(self).__name__}({', '.join(repr(layer_name(tap)) for tap in taps)})"

    def said(self, index: int, ours: Shape, theirs: Shape) -> str:
        """How a message begins that is about a pair's shapes."""
        return f"{self.label(index)}: the student's output is {ours} and the teacher's {theirs}"

    def make_adapters(
        self,
        shapes: list[tuple[Shape, Shape]],
        make: Callable[[Shape, int, str], keras.layers.Layer | None],
    ) -> dict[str, keras.layers.Layer]:
        """An adapter a pair of layers, by name.

        Args:
          shapes: of the pairs.
          make: takes the student's shape, pooled where its map is the larger, the teacher's
            channels and a name; returns the adapter, unbuilt, or None for none.
        """
        self._adapters = []
        for index, (ours, theirs) in enumerate(shapes):
            pooled = smaller(ours, theirs)
            adapter = make(pooled, theirs[-1], f"{self.name}_adapter_{index}")
            if adapter is not None:
                adapter.build(pooled)
            self._adapters.append(adapter)
        return {f"adapter_{i}": a for i, a in enumerate(self._adapters) if a is not None}

    def adapted(
        self, student: Signals, teacher: Signals, *, pooled: bool = True
    ) -> list[tuple[Tensor, Tensor]]:
        """The pairs, at the smaller size if `pooled`, the student's behind its adapter."""
        pairs = self.pairs(student, teacher)
        pairs = [match_sizes(*pair) for pair in pairs] if pooled else pairs
        return [
            (ours if adapter is None else adapter(ours, training=self.training), theirs)
            for adapter, (ours, theirs) in zip(self._adapters, pairs, strict=True)
        ]

    def _check_layers(self) -> None:
        ours, theirs = len(self.student_taps), len(self.teacher_taps)
        if ours != theirs or not ours:
            raise ValueError(
                f"{self.name}: {ours} layers of the student and {theirs} of the teacher. Name one "
                f"of each model, or as many of both."
            )

    def _check_shapes(self, index: int, ours: Shape, theirs: Shape, maps: bool) -> None:
        said = self.said(index, ours, theirs)
        if maps and min(len(ours), len(theirs)) < 3:
            raise ValueError(
                f"{said}, vectors where maps (batch, ..., channels) are due. Name layers before "
                f"the pooling or flattening; FeatureHint compares vectors."
            )
        if len(ours) != len(theirs):
            raise ValueError(f"{said}. Name two layers of equal rank, or flatten one.")
        if unknown_sizes(ours, theirs) if self.open_axes else None in (*ours[1:], *theirs[1:]):
            raise ValueError(
                f"{said}. Give both models a fixed input size: an axis of unknown size can be "
                f"neither pooled nor projected."
            )


def as_taps(layers: Any) -> tuple[Any, ...]:
    """One layer or a list of layers, as a tuple."""
    return tuple(layers) if isinstance(layers, (list, tuple)) else (layers,)


def check_whole(owner: str, **values: Any) -> None:
    """ValueError where one of the hyper-parameters is no whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{owner}: {name} must be a whole number of at least 1; got {value!r}."
            )


def smaller(ours: Shape, theirs: Shape) -> Shape:
    """The student's shape where its map is pooled to the teacher's, if that is the smaller."""
    pairs = zip(ours[1:-1], theirs[1:-1], strict=True)
    return (None, *(None if None in pair else min(pair) for pair in pairs), ours[-1])


def unknown_sizes(ours: Shape, theirs: Shape) -> bool:
    """Whether pooling or projecting would need a size that is not known.

    An axis that is open in both models needs no pooling: both see an input of one size.
    """
    open_in_one = any((a is None) != (b is None) for a, b in zip(ours, theirs, strict=True))
    return open_in_one or None in (ours[-1], theirs[-1])
