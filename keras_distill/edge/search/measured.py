"""A model in integers of any bits, beside its reference, on some data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_distill.data import batches
from keras_distill.edge.interface import as_keras3
from keras_distill.edge.search.outputs import Output, check_kinds
from keras_distill.edge.search.rounded import Bits, Rounded
from keras_distill.edge.verification.answers import labels_of
from keras_distill.objectives.base import Objective
from keras_distill.signals import Head
from keras_distill.signals.reader import student_reader
from keras_distill.teachers.model import as_teacher
from keras_distill.training.step import pairs_of_heads

__all__ = ["Measured"]


class Measured:
    """A model under any bits: what it answers on some data, and what that is worth.

    Args:
      model: a float model that `quantize_aware` takes.
      data: any data argument.
      teacher: whose answers are the reference, None for the model's own.
      output: what the outputs mean, as `sensitivity` takes it.

    Attributes:
      model: of Keras 3.
      rounded: the model under any bits.
      outputs: an `Output` each.

    Raises:
      TypeError, ValueError: as `sensitivity`.
    """

    def __init__(self, model: Any, data: Any, teacher: Any = None, output: Any = "auto"):
        check_kinds(output)
        self.model = as_keras3(model)
        self.rounded = Rounded(self.model, data)
        read = list(batches(data))
        self._x = [x for x, _, _ in read]
        self._reader = student_reader(self.model)
        self._names = list(self._reader.kinds)
        known = self._shown_names()
        _check_names(output, known)
        of_float = self.answers({})
        theirs: Sequence[Any] = [None] * len(known)
        if teacher is not None:
            theirs = self._reference(teacher)
        said = [output.get(n, "auto") if isinstance(output, Mapping) else output for n in known]
        columns = zip(
            known,
            self._reader.kinds.values(),
            said,
            of_float,
            theirs,
            _labels([y for _, y, _ in read], known),
            strict=True,
        )
        self.outputs = [Output.of(*column) for column in columns]

    @property
    def examples(self) -> int:
        """How many rows there are."""
        return len(self.outputs[0].reference)

    def answers(self, bits: Bits) -> list[np.ndarray]:
        """The outputs for all rows."""
        found = [self._reader.heads(self.rounded(x, bits)) for x in self._x]
        return [np.concatenate([np.asarray(one[name]) for one in found]) for name in self._names]

    def divergence(self, answers: Sequence[np.ndarray]) -> float:
        """From the reference, the sum over the outputs."""
        pairs = zip(self.outputs, answers, strict=True)
        return sum(output.apart(one) for output, one in pairs)

    def drop(self, answers: Sequence[np.ndarray]) -> float:
        """What `answers` lose beside the float model's, in the output that loses most."""
        return max(o.lost(one) for o, one in zip(self.outputs, answers, strict=True))

    def _shown_names(self) -> list[str]:
        """The outputs' names; the only output has that of its layer."""
        if self._names == [None]:
            names = self._reader.names or self.model.name
            return [names if isinstance(names, str) else names[0]]
        return [str(name) for name in self._names]

    def _reference(self, teacher: Any) -> list[Head]:
        """What the teacher says at each output, for all rows."""
        # Objectives pair heads by name; this one does nothing else.
        pairing, guide = Objective(name="teacher"), as_teacher(teacher)
        guide.meet(self.model)
        spec = guide.prepare(self._reader.input_spec, ())
        if bool(spec.names) != (len(self._names) > 1):
            raise ValueError(
                f"Expected the teacher to have the outputs of {self.model.name!r}, "
                f"{self._shown_names()}; it has {list(spec.names) or 'one'}."
            )
        pairs_of_heads(pairing, self._reader.spec, spec)
        said = [
            [theirs for _, theirs, _ in pairs_of_heads(pairing, self._reader.spec, guide(x))]
            for x in self._x
        ]
        # Signals do not tell of a softmax whose input they hold.
        kinds = guide.kinds()
        by_place = dict(zip(self._names, kinds.values(), strict=False))
        return [
            Head(
                np.concatenate([np.asarray(one.logits) for one in column]),
                kinds.get(name) or by_place.get(name, "logits"),
            )
            for name, column in zip(self._names, zip(*said, strict=True), strict=True)
        ]


def _check_names(output: Any, known: list[str]) -> None:
    if isinstance(output, Mapping) and (strangers := set(output) - set(known)):
        raise ValueError(
            f"output names {', '.join(map(repr, sorted(strangers)))}; the model's outputs are "
            f"{', '.join(map(repr, known))}."
        )


def _labels(given: list[Any], names: list[str]) -> list[np.ndarray | None]:
    """Labels for each output, None where there are none."""
    if given[0] is None:
        return [None] * len(names)
    columns = zip(*(labels_of(y, names, names) for y in given), strict=True)
    return [None if parts[0] is None else np.concatenate(parts) for parts in columns]
