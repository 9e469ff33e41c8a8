"""One graph priced again and again: at the widths it has, or at others."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_distill.graph.copying import weight_paths
from keras_distill.graph.cost import costs
from keras_distill.graph.cost.costs import Shape, WeightShapes
from keras_distill.graph.cost.footprint import Memory, ShapeOf, is_view, joined_steps
from keras_distill.graph.cost.tracing import returned, traced_macs
from keras_distill.graph.replay import Graph, Step, Value

layers = keras.layers
UNKNOWN = "MACs unknown, counted as 0"
_TRACED = "counted in a trace of its call"


@dataclass(frozen=True)
class Totals:
    """What a model costs to hold and to run on one example.

    Attributes:
      parameters: numbers in its weights, those of a shared weight once; Keras' count_params().
      macs: multiply-accumulates of its kernels, as published counts have them.
      flops: 2 x macs.
      bytes_float32: 4 x parameters.
      bytes_int8: what the numbers take in a full-int8 file, BatchNormalization folded where it
        follows a kernel directly; scales, names and structure come on top.
      peak_activation_bytes_float32, peak_activation_bytes_int8: the largest sum of tensors that are
        alive at once while the layers run in the graph's order: what a step reads, what it makes,
        and what a later one needs. Reshapes, dropout, folded BatchNormalizations and a ReLU behind
        a kernel or a sum make no tensor of their own, as in LiteRT. Integer tensors keep their
        size; what a layer holds within its call is not seen.
    """

    parameters: int
    macs: int
    flops: int
    bytes_float32: int
    bytes_int8: int
    peak_activation_bytes_float32: int
    peak_activation_bytes_int8: int


@dataclass(frozen=True)
class Plan:
    """One call of one layer, with what of its price does not depend on widths.

    Attributes:
      operation: the layer that is deployed, unwrapped.
      operands: what the call takes, in the order of its parameters: values, shapes of constants.
      weights: the shapes of its weights as they are, by their paths.
      counted: the paths of those that no earlier call has counted.
      further: shapes of weights that have no path of their own.
      folds_into: the layer whose operator this one becomes a part of.
      fixed_macs, note: where shapes don't give the MACs.
    """

    step: Step
    operation: keras.Operation
    operands: tuple[Value | Shape, ...]
    weights: WeightShapes
    counted: tuple[str, ...]
    further: WeightShapes
    folds_into: Any
    fixed_macs: int | None = None
    note: str = ""

    def price(self, shape_of: ShapeOf, weights: WeightShapes) -> tuple[int, int, int]:
        """Parameters, MACs and bytes at int8."""
        own = {**{path: weights[path] for path in self.counted}, **self.further}
        macs = self.fixed_macs
        if macs is None:
            macs = costs.macs(self.operation, *self.shapes(shape_of), weights) or 0
        return costs.parameters(own), macs, self._int8_bytes(own)

    def shapes(self, shape_of: ShapeOf) -> tuple[list[Shape], list[Shape]]:
        """Of what the call takes and of what it returns."""
        taken = [x if isinstance(x, tuple) else shape_of(x) for x in self.operands]
        return taken, [shape_of(value) for value in self.step.outputs]

    def _int8_bytes(self, own: WeightShapes) -> int:
        if not isinstance(self.operation, layers.BatchNormalization) or not own:
            return costs.int8_bytes(own)
        folded = self.folds_into is not None
        biased = folded and self.folds_into.use_bias
        return costs.batch_norm_int8_bytes(own, folded=folded, biased=biased)

    def words(self) -> Iterator[str]:
        """What a row says of it."""
        if self.weights and not self.counted:
            yield "its weights are counted above"
        if self.folds_into is not None and self.weights:
            yield f"folds into {self.folds_into.name}"
        if self.note:
            yield self.note


class Pricer:
    """Prices one graph again and again: at the widths it has, or at others.

    Args:
      graph: from `trace`.
      input_shapes: of its inputs, a batch of 1 first, no size left open: `settled_inputs(model)`.

    Raises:
      ValueError: a layer can't take these shapes, or makes a size that depends on the data.

    Example:
      >>> from keras_distill.graph.replay import trace
      >>> from keras_distill.graph.cost.profiling import settled_inputs
      >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
      >>> pricer = Pricer(trace(model), settled_inputs(model))
      >>> pricer.totals(lambda value: (1, 2), lambda step: {"kernel": (2, 2), "bias": (2,)}).macs
      4
    """

    def __init__(self, graph: Graph, input_shapes: Sequence[Shape]):
        self._specs = _specs(graph, input_shapes)
        operations = [step.operation for step in graph.steps]
        makers = joined_steps(graph, operations)
        self.plans = self._planned(graph, operations, makers)
        self._weights = {id(plan.step): plan.weights for plan in self.plans}
        views = {number for number, one in enumerate(operations) if is_view(one)}
        self._memory = Memory(graph, views | set(makers))

    def shape_of(self, value: Value) -> Shape:
        """A tensor's shape as the model is, with a batch of 1."""
        return self._specs[id(value)].shape

    def weight_shapes_of(self, step: Step) -> WeightShapes:
        """The shapes of a step's weights as they are, by their paths inside the layer."""
        return self._weights[id(step)]

    def totals(
        self,
        shape_of: ShapeOf | None = None,
        weight_shapes_of: Callable[[Step], WeightShapes] | None = None,
    ) -> Totals:
        """The model's price at the widths that are given.

        Args:
          shape_of: each tensor's shape, a batch of 1 first; by default as the model is.
          weight_shapes_of: the shapes of each step's weights by the paths of `weight_shapes_of`;
            likewise.
        """
        shape_of = shape_of or self.shape_of
        weight_shapes_of = weight_shapes_of or self.weight_shapes_of
        prices = [plan.price(shape_of, weight_shapes_of(plan.step)) for plan in self.plans]
        parameters, macs, int8 = column_sums(prices)
        peaks = self._memory.peaks(shape_of)
        return Totals(parameters, macs, 2 * macs, 4 * parameters, int8, *peaks)

    def _planned(self, graph: Graph, operations: list[Any], makers: dict[int, Any]) -> list[Plan]:
        seen: set[int] = set()
        plans = []
        for number, (step, operation) in enumerate(zip(graph.steps, operations, strict=True)):
            paths = weight_paths(operation)
            counted = {id(v): path for path, v in paths.items() if id(v) not in seen}
            seen |= set(counted)
            # Of two weights of one path the paths hold one; the layer's own list has both.
            lost = {id(v): v for v in getattr(operation, "weights", ()) if id(v) not in seen}
            seen |= set(lost)
            plan = Plan(
                step=step,
                operation=operation,
                operands=_operands(step, operation),
                weights={path: tuple(variable.shape) for path, variable in paths.items()},
                counted=tuple(counted.values()),
                further={f"{n}/{v.name}": tuple(v.shape) for n, v in enumerate(lost.values())},
                folds_into=makers.get(number),
            )
            plans.append(plan if self._is_told(plan) else self._traced(plan))
        return plans

    def _is_told(self, plan: Plan) -> bool:
        """Whether shapes give the MACs."""
        return costs.macs(plan.operation, *plan.shapes(self.shape_of), plan.weights) is not None

    def _traced(self, plan: Plan) -> Plan:
        args, kwargs = plan.step.filled(self._specs)
        macs = traced_macs(plan.operation, args, kwargs)
        note = UNKNOWN if macs is None else _TRACED
        return dataclasses.replace(plan, fixed_macs=macs or 0, note=note)


def column_sums(prices: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Of several `Plan.price`s, number by number."""
    parameters, macs, int8 = (sum(price[place] for price in prices) for place in range(3))
    return parameters, macs, int8


def _specs(graph: Graph, input_shapes: Sequence[Shape]) -> dict[int, Any]:
    """Each value's shape and dtype once the inputs' are settled, by the value's id."""
    specs = {
        id(value): keras.KerasTensor(shape, value.dtype)
        for value, shape in zip(graph.inputs, input_shapes, strict=True)
    }
    for step in graph.steps:
        args, kwargs = step.filled(specs)
        taken = [specs[id(value)].shape for value in step.inputs]
        try:
            made = returned(step.operation, args, kwargs)
        # Whatever a layer of the user's raises, it is about these shapes.
        except Exception as error:
            raise ValueError(f"The layer {step.path!r} can't take {taken}: {error}") from error
        # The oldest Keras lets a window be larger than what it slides over.
        if isinstance(step.operation, keras.Layer) and any(0 in spec.shape for spec in made):
            raise ValueError(
                f"The layer {step.path!r} can't take {taken}: nothing is left, it makes "
                f"{[spec.shape for spec in made]}."
            )
        if any(None in spec.shape for spec in made):
            raise ValueError(
                f"The layer {step.path!r} makes {[spec.shape for spec in made]} of {taken}: a size "
                f"depends on the data, and so does what follows from it."
            )
        specs.update({id(v): spec for v, spec in zip(step.outputs, made, strict=True)})
    return specs


def _operands(step: Step, operation: keras.Operation) -> tuple[Value | Shape, ...]:
    try:
        bound = inspect.signature(operation.call).bind(*step.args, **step.kwargs)
        taken = list(bound.arguments.values())
    except TypeError:
        taken = [step.args, step.kwargs]
    leaves = keras.tree.flatten(taken)
    found = [leaf if isinstance(leaf, Value) else _shape(leaf) for leaf in leaves]
    return tuple(leaf for leaf in found if leaf is not None)


def _shape(leaf: Any) -> Shape | None:
    shape = getattr(leaf, "shape", None)
    return None if shape is None else tuple(shape)
