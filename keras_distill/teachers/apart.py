"""A graph in two parts: what depends on weights alone, and the rest, which reads its outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

__all__ = ["Apart", "function_of"]

_DEPTHWISE, _BATCH_NORM = "DepthwiseConv2dNative", "FusedBatchNormV3"
_FILTERED = frozenset({"Conv2D", "Conv3D", "MatMul", _DEPTHWISE})
# What becomes of a channel's factor and shift where an operation on it follows.
_AFFINE: dict[str, Callable[[Any, Any, Any], tuple[Any, Any]]] = {
    "Mul": lambda factor, shift, by: (factor * by, shift * by),
    "Sub": lambda factor, shift, by: (factor, shift - by),
    **dict.fromkeys(("AddV2", "Add", "BiasAdd"), lambda factor, shift, by: (factor, shift + by)),
}
_COMMUTATIVE = frozenset({"Mul", "AddV2", "Add"})
# Values of tensors by their names.
_Values = Mapping[str, Any]


class _Step(NamedTuple):
    """An operation on channels: the node, and the names of the weights that it reads."""

    node: Any
    operands: tuple[str, ...]


class _Weight(NamedTuple):
    """What the rest reads: what makes it, and the tensor whose shape and type it has."""

    recipe: Callable[[_Values], Any]
    shape: Any
    dtype: tf.DType


class Apart:
    """A graph, taken apart.

    Where weights follow a convolution, a depthwise one or a product of matrices channel by channel,
    as those of BatchNorm do, they go into its filter, and into one bias behind it.

    Args:
      graph: where the nodes are.
      inputs, outputs: names of its tensors.
      sources: names of the tensors that are weights.

    Attributes:
      weights: the names of what the rest reads beside the inputs.
      reads: the names of all that the rest makes or takes.
    """

    def __init__(
        self, graph: Any, inputs: Sequence[str], outputs: Sequence[str], sources: Iterable[str]
    ):
        self._graph, self._inputs, self._outputs = graph, inputs, outputs
        self._sources = list(sources)
        self._definition = graph.as_graph_def()
        self._nodes = {node.name: _named_in_full(node) for node in self._definition.node}
        self._readers: dict[str, list[str]] = {}
        for node in self._nodes.values():
            for read in dict.fromkeys(node.input):
                self._readers.setdefault(read, []).append(node.name)
        self._derived = self._behind(map(_node_of, self._sources))
        self._kept = self._behind(self._never_folded())
        self._folded = self._derived - self._kept
        self._weights: dict[str, _Weight] = {}
        # The tensors that the weights are made of.
        self._asked: dict[str, None] = {}
        for name in [name for name in self._nodes if name in self._kept]:
            self._fold_what_follows(self._nodes[name])
        rest = self._cut(self._outputs, self._note_weight)
        self.reads = {f"{node.name}:0" for node in rest.node}
        self._weights = {n: w for n, w in self._weights.items() if _end(n) in self.reads}
        self.weights = list(map(_end, self._weights))
        self._rest = rest

    def function(self, outside: _Values) -> Any:
        """The rest, as a function of the inputs and then the weights.

        Args:
          outside: what the graph takes from outside, by name.
        """
        known = {name: tensor for name, tensor in outside.items() if name in self.reads}
        return function_of(self._rest, [*self._inputs, *self.weights], self._outputs, known)

    def fold(self) -> Callable[[Sequence[Any]], list[Any]]:
        """What makes the weights that the rest reads from the values of the sources."""
        sources, recipes = self._sources, [weight.recipe for weight in self._weights.values()]
        made = [name for name in self._asked if name not in sources]
        ends = {name: self._graph.get_tensor_by_name(name) for name in sources}
        making = self._cut([*made, *sources], ends.get)
        make = function_of(making, list(map(_end, sources)), made, {}) if made else None

        def folded(values: Sequence[Any]) -> list[Any]:
            found = dict(zip(sources, values, strict=True))
            if make is not None:
                found.update(zip(made, make(*values), strict=True))
            return [recipe(found) for recipe in recipes]

        return folded

    def _behind(self, names: Iterable[str]) -> set[str]:
        """Nodes and all that depend on them."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                for read in (*(t.name for t in self._operation(name).outputs), f"^{name}"):
                    waiting += self._readers.get(read, [])
        return found

    def _never_folded(self) -> Iterator[str]:
        """The ends, what has a state, and whole numbers, of which shapes are made."""
        yield from map(_node_of, (*self._inputs, *self._outputs))
        for name in self._nodes.keys() - set(map(_node_of, self._sources)):
            made = self._operation(name)
            stateful = made.op_def.is_stateful or any(t.dtype == tf.resource for t in made.inputs)
            real = all(tensor.dtype.is_floating for tensor in made.outputs)
            if stateful or (name in self._derived and not real):
                yield name

    def _fold_what_follows(self, layer: Any) -> None:
        if not self._has_filter(layer):
            return
        kernel = layer.input[1]
        spec = self._graph.get_tensor_by_name(kernel)
        kind = spec.dtype
        # The channels of a depthwise filter take two axes.
        axes = spec.shape[2 if layer.op == _DEPTHWISE else -1 :]
        channels = math.prod(axes)
        steps = list(self._steps(layer, channels))
        if not steps:
            return
        self._asked.update(dict.fromkeys([kernel, *(o for step in steps for o in step.operands)]))

        def filter_of(values: _Values) -> Any:
            factor = tf.reshape(_affine(steps, values, channels)[0], axes)
            return tf.cast(tf.cast(values[kernel], factor.dtype) * factor, kind)

        def bias_of(values: _Values) -> Any:
            return tf.cast(_affine(steps, values, channels)[1], kind)

        names = [f"{layer.name}/folded_{what}:0" for what in ("filter", "bias")]
        self._weights[names[0]] = _Weight(filter_of, spec.shape, kind)
        self._weights[names[1]] = _Weight(bias_of, tf.TensorShape([channels]), kind)
        layer.input[1] = names[0]
        last = steps[-1].node.name
        bias = type(layer)(name=last, op="BiasAdd", input=[f"{layer.name}:0", names[1]])
        bias.attr["T"].CopyFrom(layer.attr["T"])
        self._nodes[last] = bias

    def _has_filter(self, node: Any) -> bool:
        """Whether a node multiplies by a weight whose channels, and the answer's, come last."""
        if (
            node.op not in _FILTERED
            or _attribute(node, "transpose_b").b
            or not _channels_last(node)
        ):
            return False
        kernel = node.input[1]
        known = self._graph.get_tensor_by_name(kernel).shape.is_fully_defined()
        return known and self._is_weight(kernel)

    def _steps(self, node: Any, channels: int) -> Iterator[_Step]:
        """The operations that follow a node, each the only one to read what was before it."""
        while True:
            output = f"{node.name}:0"
            readers = self._readers.get(output, [])
            if len(readers) != 1 or output in self._outputs or f"^{node.name}" in self._readers:
                return
            step = self._step(self._nodes[readers[0]], output, channels)
            if step is None:
                return
            yield step
            node = step.node

    def _step(self, node: Any, of: str, channels: int) -> _Step | None:
        """A node as what it does to the channels of a tensor; None where it does something else."""
        reads = [name for name in node.input if not name.startswith("^")]
        operands = tuple(name for name in reads if name != of)
        if len(operands) != len(reads) - 1 or not _channels_last(node):
            return None
        if node.op == _BATCH_NORM:
            others = [f"{node.name}:{place}" for place in range(1, 6)]
            used = any(name in self._readers or name in self._outputs for name in others)
            fits = reads[0] == of and not _attribute(node, "is_training").b and not used
        else:
            fits = node.op in _COMMUTATIVE or (node.op in _AFFINE and reads[0] == of)
        rank = self._graph.get_tensor_by_name(of).shape.rank
        weights = all(self._is_of_channels(name, channels, rank) for name in operands)
        return _Step(node, operands) if fits and weights else None

    def _is_of_channels(self, tensor: str, channels: int, rank: int) -> bool:
        """Whether a tensor is a weight for each channel, or all, of one of that rank."""
        shape = self._graph.get_tensor_by_name(tensor).shape
        if not self._is_weight(tensor) or not shape.is_fully_defined() or shape.rank > rank:
            return False
        return all(size == 1 for size in shape[:-1]) and shape.num_elements() in (1, channels)

    def _is_folded(self, name: str) -> bool:
        return _node_of(name) in self._folded

    def _is_weight(self, tensor: str) -> bool:
        return _node_of(tensor) not in self._kept

    def _note_weight(self, tensor: str) -> _Weight | None:
        """The weight under a name; None for a tensor of the rest."""
        if tensor not in self._weights and self._is_folded(tensor) and tensor[0] != "^":
            made = self._graph.get_tensor_by_name(tensor)
            self._asked[tensor] = None
            self._weights[tensor] = _Weight(lambda values: values[tensor], made.shape, made.dtype)
        return self._weights.get(tensor)

    def _cut(self, outputs: Iterable[str], end: Callable[[str], Any]) -> Any:
        """The graph from some outputs back to what `end` knows, with its shape and type."""
        found: dict[str, Any] = {}
        waiting = list(outputs)
        while waiting:
            tensor = waiting.pop()
            name = _node_of(tensor)
            spec = end(tensor)
            if spec is not None:
                found[_end(tensor)] = _placeholder(_node_of(_end(tensor)), spec)
            elif name not in found:
                found[name] = node = type(self._nodes[name])()
                node.CopyFrom(self._nodes[name])
                reads = [r for r in node.input if not (r.startswith("^") and self._is_folded(r))]
                waiting += reads
                node.input[:] = [r if end(r) is None else _end(r) for r in reads]
                # Beside what it was placed there is nothing left.
                if "_class" in node.attr:
                    del node.attr["_class"]
        cut = tf.compat.v1.GraphDef(
            library=self._definition.library, versions=self._definition.versions
        )
        cut.node.extend(found.values())
        return cut

    def _operation(self, name: str) -> Any:
        return self._graph.get_operation_by_name(name)


def function_of(
    definition: Any, inputs: Sequence[str], outputs: Sequence[str], outside: _Values
) -> Any:
    """A GraphDef as a function of flat tensors, the names of which are given.

    Args:
      outside: by name, what it takes from outside.
    """

    def imported() -> None:
        graph = tf.compat.v1.get_default_graph()
        known = {name: graph.capture(tensor) for name, tensor in outside.items()}
        tf.graph_util.import_graph_def(definition, input_map=known, name="")

    made = tf.compat.v1.wrap_function(imported, [])
    feeds, fetches = (
        [made.graph.get_tensor_by_name(name) for name in side] for side in (inputs, outputs)
    )
    # Without a signature each call fails first, with all its tensors printed into the message.
    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in feeds]
    return made.prune(feeds, fetches, input_signature=(signature, {}))


def _affine(steps: Iterable[_Step], values: _Values, channels: int) -> tuple[Any, Any]:
    """What the steps multiply each channel by, and then add to it."""
    exact = any(values[name].dtype == tf.float64 for step in steps for name in step.operands)
    kind = tf.float64 if exact else tf.float32
    factor, shift = tf.ones([], kind), tf.zeros([], kind)
    for node, operands in steps:
        weights = [tf.cast(tf.reshape(values[name], [-1]), kind) for name in operands]
        if node.op == _BATCH_NORM:
            gamma, beta, mean, variance = weights
            by = gamma * tf.math.rsqrt(variance + node.attr["epsilon"].f)
            factor, shift = factor * by, (shift - mean) * by + beta
        else:
            factor, shift = _AFFINE[node.op](factor, shift, *weights)
    return tuple(tf.broadcast_to(part, [channels]) for part in (factor, shift))


def _channels_last(node: Any) -> bool:
    return _attribute(node, "data_format").s in (b"", b"NHWC", b"NDHWC")


def _attribute(node: Any, name: str) -> Any:
    # Reading a missing key of this map would create it.
    return node.attr[name] if name in node.attr else tf.compat.v1.AttrValue()


def _placeholder(name: str, spec: Any) -> Any:
    node = tf.compat.v1.NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = spec.dtype.as_datatype_enum
    node.attr["shape"].shape.CopyFrom(spec.shape.as_proto())
    return node


def _end(tensor: str) -> str:
    """What a tensor is called where the graph is cut there."""
    node, _, place = tensor.partition(":")
    return f"{node}/cut_{place}:0"


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def _named_in_full(node: Any) -> Any:
    """A node that reads `"other:0"` where it was written as `"other"`."""
    node.input[:] = [n if ":" in n or n.startswith("^") else f"{n}:0" for n in node.input]
    return node
