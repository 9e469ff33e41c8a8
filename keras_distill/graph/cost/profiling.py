"""A model's price, a layer at a time and whole, as a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from keras_distill import _keras
from keras_distill._records import Record, Table
from keras_distill.graph.cost.costs import Shape
from keras_distill.graph.cost.footprint import tensor_bytes
from keras_distill.graph.cost.pricing import UNKNOWN, Plan, Pricer, Totals, column_sums
from keras_distill.graph.replay import Value, functional, trace
from keras_distill.graph.wrapping import unwrapped


@dataclass(frozen=True)
class LayerProfile:
    """One layer, or one operator between layers, in all its calls.

    Attributes:
      layer, type: its path and its class.
      output_shape: of its first output, batch left out.
      parameters, macs, flops, bytes_float32, bytes_int8: as in `Totals`.
      activation_bytes_float32, activation_bytes_int8: of all its outputs.
      note: what the numbers don't say: MACs that are unknown, weights counted elsewhere, the layer
        that a BatchNormalization folds into.
    """

    layer: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    flops: int
    bytes_float32: int
    bytes_int8: int
    activation_bytes_float32: int
    activation_bytes_int8: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelProfile(Totals, Record):
    """A model's totals, and a row a layer; printed as a table."""

    model: str
    rows: tuple[LayerProfile, ...]

    derived = ("uncounted",)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The layers whose MACs are unknown and count as 0."""
        return tuple(row.layer for row in self.rows if UNKNOWN in row.note)

    def parts(self) -> Iterator[str | Table]:
        """A row a layer, and the totals."""
        rows = tuple(
            (
                row.layer,
                row.type,
                str(row.output_shape),
                f"{row.parameters:,}",
                f"{row.macs:,}",
                f"{row.bytes_float32:,}",
                f"{row.bytes_int8:,}",
                f"{row.activation_bytes_float32:,}",
                row.note,
            )
            for row in self.rows
        )
        numbers = ("parameters", "MACs", "float32 bytes", "int8 bytes", "output bytes")
        columns = ("layer", "type", "output", *numbers, "note")
        yield Table(columns, rows, numbers=numbers, title=self.model)
        yield self._words()

    def _words(self) -> str:
        words = (
            f"{self.parameters:,} parameters\n"
            f"{self.flops:,} FLOPs ({self.macs:,} MACs) an example\n"
            f"{self.bytes_float32:,} bytes at float32, {self.bytes_int8:,} at int8\n"
            f"{self.peak_activation_bytes_float32:,} bytes of activations at the peak at float32, "
            f"{self.peak_activation_bytes_int8:,} at int8"
        )
        unknown = ", ".join(self.uncounted)
        return f"{words}\nMACs unknown and counted as 0: {unknown}" if unknown else words


def profile(model: Any, *, input_shape: Any = None) -> ModelProfile:
    """What a model costs, layer by layer and whole, for one example.

    A layer of an unknown class is traced on a batch of 1 and the products in the trace counted;
    where a loop or an error prevents that its note says so. Pruning and quantisation wrappers count
    as the layers inside.

    Args:
      model: a built Functional or Sequential model of Keras 3, nested models included. It is not
        changed.
      input_shape: settles sizes that the model's input leaves open: `(224, 224, 3)`, or for several
        inputs `{name: shape}`; batch left out.

    Returns:
      A `ModelProfile`.

    Raises:
      TypeError: not a Keras 3 model.
      ValueError: subclassed or not built; a size is open and `input_shape` does not settle it, or
        contradicts the model.

    Example:
      >>> import keras
      >>> inputs = keras.Input((28, 28, 1))
      >>> found = profile(keras.Model(inputs, keras.layers.Conv2D(8, 3)(inputs)))
      >>> found.parameters, found.macs
      (80, 48672)
    """
    graph = unwrapped(trace(model))
    pricer = Pricer(graph, settled_inputs(model, input_shape))
    totals = dataclasses.asdict(pricer.totals())
    return ModelProfile(**totals, model=model.name, rows=tuple(_rows(pricer)))


def _rows(pricer: Pricer) -> Iterator[LayerProfile]:
    calls: dict[str, list[Plan]] = {}
    for plan in pricer.plans:
        calls.setdefault(plan.step.path, []).append(plan)
    for path, plans in calls.items():
        prices = [plan.price(pricer.shape_of, plan.weights) for plan in plans]
        made = [value for plan in plans for value in plan.step.outputs]
        often = [f"called {len(plans)} times"] if len(plans) > 1 else []
        yield _row(pricer, path, plans[0], column_sums(prices), made, [*often, *plans[0].words()])


def _row(
    pricer: Pricer,
    path: str,
    plan: Plan,
    price: tuple[int, int, int],
    made: Sequence[Value],
    notes: Sequence[str],
) -> LayerProfile:
    parameters, macs, bytes_int8 = price
    activations = tensor_bytes(made, pricer.shape_of)
    return LayerProfile(
        layer=path,
        type=type(plan.operation).__name__,
        output_shape=pricer.shape_of(made[0])[1:],
        parameters=parameters,
        macs=macs,
        flops=2 * macs,
        bytes_float32=4 * parameters,
        bytes_int8=bytes_int8,
        activation_bytes_float32=activations[0],
        activation_bytes_int8=activations[1],
        note="; ".join(notes),
    )


def settled_inputs(model: Any, input_shape: Any = None) -> list[Shape]:
    """The shapes of a model's inputs with a batch of 1 and no size left open.

    Args:
      model, input_shape: as `profile`.

    Raises:
      ValueError: a size is open, or `input_shape` contradicts the model.
    """
    declared = {_keras.history(x).operation.name: x.shape[1:] for x in functional(model).inputs}
    given = {} if input_shape is None else input_shape
    if isinstance(given, (tuple, list)) and len(declared) == 1:
        given = dict.fromkeys(declared, given)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"input_shape is a tuple of sizes, batch left out, or for several inputs a dict from "
            f"name to tuple; {model.name!r} has the inputs {', '.join(declared)}. Got {given!r}."
        )
    if unknown := [name for name in given if name not in declared]:
        raise ValueError(
            f"input_shape names {', '.join(unknown)}; {model.name!r} has the inputs "
            f"{', '.join(declared)}."
        )
    return [(1, *_settled(name, shape, given.get(name))) for name, shape in declared.items()]


def _settled(name: str, declared: Sequence[int | None], given: Any) -> Shape:
    if given is None and None in declared:
        raise ValueError(
            f"The input {name!r} takes {tuple(declared)}, batch left out, and the price depends on "
            f"the open sizes. Give input_shape=, for instance {_example(declared)}."
        )
    sizes = tuple(declared if given is None else given)
    if not _fits(sizes, declared):
        raise ValueError(
            f"The input {name!r} takes {tuple(declared)}, batch left out; input_shape says "
            f"{given!r}. Give as many sizes, equal to those that are known: {_example(declared)}, "
            f"for instance."
        )
    return tuple(map(int, sizes))


def _fits(sizes: Sequence[Any], declared: Sequence[int | None]) -> bool:
    return len(sizes) == len(declared) and all(
        isinstance(size, Integral) and int(size) > 0 and known in (None, size)
        for size, known in zip(sizes, declared, strict=True)
    )


def _example(declared: Sequence[int | None]) -> Shape:
    return tuple(64 if size is None else size for size in declared)
