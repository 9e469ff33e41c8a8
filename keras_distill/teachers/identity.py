"""What the answers of a traced function depend on, as a digest: operations, constants, variables.

A model rebuilt or loaded in another process gives the same digest, another slope of a LeakyReLU or
another weight does not: names of layers, operations and inner functions are left out.
"""

import hashlib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill import _keras

__all__ = [
    "content_of",
    "digest",
    "is_opaque",
    "made_up_rows",
    "of_answers",
    "of_attributes",
    "of_function",
    "of_state",
    "operations",
    "parts_by_handle",
]

# Attributes that name or place what is computed, and do not decide it; so do those with "_" ahead.
_INCIDENTAL = frozenset(
    ("config", "config_proto", "container", "debug_name", "executor_type", "shared_name", "token")
)
# How an estimator works, and not what it says.
_HOW = frozenset(("n_jobs", "verbose", "_sklearn_version"))
# Python inside a graph, of which the graph holds a ticket.
_PYTHON = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
_PROBE_ROWS, _OPEN_AXIS = 16, 8


def of_function(concrete: Any, outputs: Sequence[Any] | None = None) -> str:
    """A digest of what a function computes, with the values that its variables have now.

    Args:
      concrete: a ConcreteFunction of flat inputs.
      outputs: those of its outputs that count; None for all.

    What runs as Python inside of it (`is_opaque`) and what only has a side effect is not seen.
    """
    outputs = concrete.outputs if outputs is None else outputs
    graph = concrete.graph.as_graph_def()
    captured = list(concrete.captured_inputs)
    given = len(concrete.inputs) - len(captured)
    known = {t.op.name: f"input {place}" for place, t in enumerate(concrete.inputs[:given])}
    outside = _captured_values(captured, concrete.variables, graph)
    for tensor, value in zip(concrete.inputs[given:], outside, strict=True):
        known[tensor.op.name] = value
    body = _Body(graph.node, known, _Library(graph.library.function))
    return digest(body.reference(t.name) for t in outputs)


def is_opaque(concrete: Any) -> bool:
    """True where Python runs inside the function, of which its graph does not tell."""
    return not _PYTHON.isdisjoint(operations(concrete.graph))


def operations(graph: Any) -> frozenset[str]:
    """The types of operations in a graph and in the functions that it calls."""
    return frozenset(node.op for node in _all_nodes(graph.as_graph_def()))


def parts_by_handle(variables: Iterable[Any]) -> dict[int, Any]:
    """Variables by the `id` of the handle that a function captures; of a strategy's, its parts."""
    parts = [part for variable in variables for part in getattr(variable, "values", (variable,))]
    return {id(part.handle): part for part in parts}


def of_answers(answers: Sequence[Any]) -> str:
    """A digest of what a function that can't be read answers to `made_up_rows`."""
    return digest(_of_array(np.asarray(answer)) for answer in answers)


def of_attributes(model: Any) -> str | None:
    """A digest of the numbers, words and arrays that a Keras model's layers hold in attributes.

    It is quick, where `of_function` needs a trace, and for looks within one process alone: a
    function is known by its identity. None for what is no Keras model. Objects of other kinds are
    not looked into.
    """
    if not _keras.holds_layers(model):
        return None
    return digest(word for layer in _keras.layers_of(model) for word in _words(vars(layer), 4))


def of_state(value: Any) -> str:
    """A digest of the numbers, words and arrays that an object is made of, its members' too.

    It is the same for the object that another process loads. Functions and classes count by their
    names, what can't be looked into by its type.
    """
    return digest(_members(value, frozenset()))


def made_up_rows(specs: Sequence[tf.TensorSpec]) -> list[np.ndarray]:
    """Sixteen rows for a function to answer, always the same.

    Args:
      specs: of its inputs, batch None; another axis of unknown size is taken as 8.
    """
    return [_probe(spec) for spec in specs]


def digest(parts: Iterable[str]) -> str:
    """One digest of several words, in their order."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(f"{len(part)} {part}".encode())
    return found.hexdigest()


class _Library:
    """The functions that a graph calls, by their names in it."""

    def __init__(self, functions: Iterable[Any]):
        self._functions = {function.signature.name: function for function in functions}
        self._digests: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The digest of what a function computes."""
        if name not in self._functions:
            return name
        if name not in self._digests:
            self._digests[name] = "itself"  # where it calls itself
            function = self._functions[name]
            arguments = [argument.name for argument in function.signature.input_arg]
            known = {argument: f"input {place}" for place, argument in enumerate(arguments)}
            body = _Body(function.node_def, known, self)
            results = (function.ret[result.name] for result in function.signature.output_arg)
            self._digests[name] = digest(body.reference(result) for result in results)
        return self._digests[name]


class _Body:
    """The nodes of a graph or function, each a digest of itself and of all that leads to it."""

    def __init__(self, nodes: Iterable[Any], known: Mapping[str, str], library: _Library):
        self._nodes = {node.name: node for node in nodes}
        self._digests = dict(known)
        self._library = library

    def reference(self, name: str) -> str:
        """The digest of a node's output, `"node"`, `"node:0"`, `"node:field:0"` or `"^node"`."""
        self._find(_source(name))
        return self._shown(name)

    def _find(self, name: str) -> None:
        # Not by recursion, which deep models would exhaust.
        waiting, begun = [name], set()
        while waiting:
            name = waiting[-1]
            if name in self._digests or name not in self._nodes:
                waiting.pop()
            elif name in begun:
                self._digests[waiting.pop()] = self._described(self._nodes[name])
            else:
                begun.add(name)
                waiting += [s for s in map(_source, self._nodes[name].input) if s not in begun]

    def _shown(self, name: str) -> str:
        """A reference with the node's digest in the place of its name."""
        node, _, place = name.lstrip("^").partition(":")
        mark = "^" if name.startswith("^") else ""
        return f"{mark}{self._digests.get(node, 'loop')}:{place or '0'}"

    def _described(self, node: Any) -> str:
        inputs = (self._shown(name) for name in node.input)
        attributes = (
            f"{key}={self._attribute(value)}"
            for key, value in sorted(node.attr.items())
            if not key.startswith("_") and key not in _INCIDENTAL
        )
        return digest((node.op, *inputs, *attributes))

    def _attribute(self, value: Any) -> str:
        if value.HasField("func"):
            return self._library.of(value.func.name)
        if value.list.func:
            return digest(self._library.of(function.name) for function in value.list.func)
        if value.HasField("tensor"):
            return _of_array(tf.make_ndarray(value.tensor))
        return value.SerializeToString(deterministic=True).hex()


def _words(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, Mapping) and depth:
        for key, member in value.items():
            yield str(key)
            yield from _words(member, depth - 1)
    elif isinstance(value, (list, tuple)) and depth:
        for member in value:
            yield from _words(member, depth - 1)
    elif isinstance(value, np.ndarray):
        yield _of_array(value)
    elif isinstance(value, tf.Tensor) and hasattr(value, "numpy"):  # an eager one
        yield _of_array(value.numpy())
    elif isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        yield repr(value)
    elif isinstance(value, types.FunctionType):
        yield f"function {id(value)}"
    else:
        yield type(value).__qualname__


def _members(value: Any, above: frozenset[int]) -> Iterator[str]:
    if id(value) in above:
        yield "itself"
    elif isinstance(value, Mapping):
        for key, member in value.items():
            if key not in _HOW:
                yield repr(key)
                yield from _members(member, above)
    elif isinstance(value, np.ndarray) and value.dtype.names:
        # Field by field: between them lies what memory held before.
        for name in value.dtype.names:
            yield from _members(value[name], above)
    elif isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == "O"):
        yield str(len(value))
        for member in value:
            yield from _members(member, above)
    elif isinstance(value, np.ndarray):
        yield _of_array(value)
    elif isinstance(value, (bool, int, float, complex, str, bytes, bytearray, np.generic)):
        yield repr(value)
    elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        yield value.__qualname__
    else:
        yield type(value).__qualname__
        yield from _members(_state(value), above | {id(value)})


def _state(value: Any) -> Any:
    try:
        state = value.__getstate__() or ()
    except (TypeError, AttributeError, NotImplementedError):  # one that can't be saved
        return ()
    if isinstance(state, tuple):  # compiled; beside its arrays stand counts of its visits
        return [member for member in state if isinstance(member, np.ndarray)]
    return state


def _source(reference: str) -> str:
    return reference.lstrip("^").partition(":")[0]


def _all_nodes(graph: Any) -> list:
    return [*graph.node, *(node for one in graph.library.function for node in one.node_def)]


def _captured_values(captured: list, variables: Iterable[Any], graph: Any) -> list[str]:
    """A digest of each thing from outside that a function reads: variables, tensors, tables."""
    handles = parts_by_handle(variables)
    found = []
    for tensor in captured:
        if id(tensor) in handles:
            found.append(_of_array(handles[id(tensor)].numpy()))
        elif tensor.dtype == tf.resource:
            found.append(_of_table(tensor, graph))
        else:
            found.append(_of_array(tensor.numpy()))
    return found


def _of_table(handle: Any, graph: Any) -> str:
    """A digest of a lookup table's rows, in no order; of its place alone where it is no table."""
    kinds = {
        (node.attr["Tin"].type, node.attr["Tout"].type)
        for node in _all_nodes(graph)
        if node.op == "LookupTableFindV2"
    }
    for keys, values in sorted(kinds):
        try:
            rows = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=keys, Tvalues=values)
        except tf.errors.OpError:  # a table of other types
            continue
        keys, values = (part.numpy() for part in rows)
        order = np.argsort(keys)
        return digest((_of_array(keys[order]), _of_array(values[order])))
    return "resource"


def _probe(spec: tf.TensorSpec) -> Any:
    shape = [_PROBE_ROWS, *(_OPEN_AXIS if size is None else size for size in spec.shape[1:])]
    values = np.random.default_rng(0).normal(size=shape)
    if spec.dtype == tf.string:
        return np.full(shape, b"0")
    if spec.dtype.is_floating:
        return values.astype(spec.dtype.as_numpy_dtype)
    return (values > 0).astype(spec.dtype.as_numpy_dtype)


def _of_array(value: Any) -> str:
    value = np.asarray(value)
    if value.dtype == object:  # strings
        return digest([repr(value.tolist())])
    found = hashlib.blake2b(f"{value.dtype} {value.shape} ".encode(), digest_size=16)
    found.update(content_of(value))
    return found.hexdigest()


def content_of(array: np.ndarray) -> Any:
    """An array's bytes, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
