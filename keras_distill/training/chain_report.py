"""What a chain of teachers made: a frozen record, its table, its ensemble."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_distill._records import NOT_IN_JSON, Record, Table
from keras_distill.teachers import Ensemble

__all__ = ["ChainReport", "Generation", "outcome"]


@dataclass(frozen=True, eq=False)
class Generation:
    """One model of a chain, and what became of it.

    Attributes:
      name: the model's.
      teacher: the name of what it learned from.
      parameters: how many numbers it has.
      seconds: what its training took, in the call that trained it.
      history: what its last `fit` logged, a value an epoch.
      weights: the file that `model.load_weights` takes.
      model: the model itself, with these weights; no part of the JSON.
    """

    name: str
    teacher: str
    parameters: int
    seconds: float
    history: Mapping[str, Sequence[Any]]
    weights: Path
    model: keras.Model = dataclasses.field(repr=False, metadata=NOT_IN_JSON)

    @property
    def epochs(self) -> int:
        """How many epochs the history has."""
        return _epochs(self.history)

    @property
    def ended_with(self) -> dict[str, Any]:
        """The last epoch's logs."""
        return _last(self.history)


@dataclass(frozen=True, eq=False)
class ChainReport(Record):
    """What a chain made; printed as a table.

    Attributes:
      generations: a `Generation` a model, in order.
    """

    generations: tuple[Generation, ...]

    @property
    def models(self) -> tuple[keras.Model, ...]:
        """The models, trained, in order."""
        return tuple(generation.model for generation in self.generations)

    @property
    def student(self) -> keras.Model:
        """The last model."""
        return self.models[-1]

    def ensemble(self, weights: Sequence[float] | str | None = None) -> Ensemble:
        """The mean of the models' logits, a teacher in its own right; the first one is not in it.

        Args:
          weights: as `kd.teachers.Ensemble`.

        Raises:
          ValueError: the chain has a single model.

        Source: Furlanello et al., "Born-Again Neural Networks", ICML 2018.
        """
        return Ensemble(self.models, weights)

    def parts(self) -> Iterator[str | Table]:
        """A row a model."""
        rows = tuple(
            (
                str(place),
                one.name,
                one.teacher,
                f"{one.parameters:,}",
                str(one.epochs),
                f"{one.seconds:.1f}",
                _figures(one.history),
            )
            for place, one in enumerate(self.generations, start=1)
        )
        numbers = ("parameters", "epochs", "seconds")
        columns = ("", "model", "learned from", *numbers, "ended with")
        yield Table(columns, rows, numbers=numbers, ruled=False)


def outcome(history: Mapping[str, Sequence[Any]]) -> str:
    """What a training ended with, in words.

    >>> outcome({"loss": [0.5, 0.25], "accuracy": [0.8, 0.9]})
    'loss 0.25, accuracy 0.9 after 2 epochs'
    """
    return f"{_figures(history)} after {_epochs(history)} epochs" if history else "trained"


def _epochs(history: Mapping[str, Sequence[Any]]) -> int:
    return max(map(len, history.values()), default=0)


def _last(history: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {name: values[-1] for name, values in history.items() if values}


def _figures(history: Mapping[str, Sequence[Any]]) -> str:
    numbers = {k: v for k, v in _last(history).items() if isinstance(v, (int, float))}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
