"""What a model's output means: heads by name, and logits or probabilities."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_distill.objectives.base import Signals

__all__ = [
    "KINDS",
    "as_logits",
    "by_head",
    "by_path",
    "check_kind",
    "kind_of",
    "output_names",
    "signals_spec",
    "softmax_input",
    "spec",
]

KINDS = ("auto", "logits", "probabilities")

# Ops that hand a tensor on without changing what it means.
_TRANSPARENT = {"Identity", "StopGradient", "Cast", "PreventGradient"}
_SMALLEST_NORMAL = 1.1754944e-38


def by_head(outputs: Any, names: Any = None) -> dict[str | None, Any]:
    """A model's outputs by head; a single output has the head None.

    In a structure of several levels the path is the name: `"boxes/0"`.

    Args:
      outputs: a tensor, or lists and dicts of them.
      names: names for a list's members, where the model knows them.
    """
    found = by_path(outputs)
    if len(found) == 1:
        return {None: next(iter(found.values()))}
    containers = (list, tuple, Mapping)
    if isinstance(outputs, Mapping) or any(isinstance(part, containers) for part in outputs):
        return found
    if not names or len(names) != len(outputs):
        names = [f"output_{i}" for i in range(len(outputs))]
    return dict(zip(names, outputs, strict=True))


def by_path(structure: Any) -> dict[Any, Any]:
    """The leaves of lists and dicts by their paths, `"boxes/0"`; a leaf's own path is empty."""
    if isinstance(structure, (list, tuple)):
        structure = {str(index): part for index, part in enumerate(structure)}
    if not isinstance(structure, Mapping):
        return {"": structure}
    return {
        key if path == "" else f"{key}/{path}": leaf
        for key, part in structure.items()
        for path, leaf in by_path(part).items()
    }


def kind_of(output: Any) -> str:
    """What the op behind a graph tensor tells: "probabilities", "sigmoid" or "logits".

    It looks into functions that the graph calls (a SavedModel's signature, a model's own
    `tf.function`). What can't be seen through (an eager tensor) counts as logits.
    """
    op = _producer(_inside_functions(output))
    types = {"Softmax": "probabilities", "Sigmoid": "sigmoid"}
    return types.get(op.type, "logits") if op is not None else "logits"


def softmax_input(output: Any):
    """The logits behind a softmax's output, or None where they can't be reached."""
    op = _producer(output)
    if op is not None:
        return op.inputs[0] if op.type == "Softmax" else None
    # Keras keeps a softmax's input on its eager output for its own losses.
    return getattr(output, "_keras_logits", None)


def as_logits(output: Any, kind: str) -> tuple[Any, bool]:
    """Logits of a model's output, and whether they are log-probabilities.

    Args:
      output: `(batch, ..., classes)`.
      kind: "logits" or "probabilities".
    """
    if kind != "probabilities":
        return output, False
    logits = softmax_input(output)
    if logits is not None:
        return logits, False
    return ops.log(ops.maximum(ops.cast(output, "float32"), _SMALLEST_NORMAL)), True


def check_kind(kind: str, argument: str) -> str:
    """`kind` itself, or ValueError where it is none of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, KINDS))}; got {kind!r}.")
    return kind


def output_names(model: Any) -> list[str] | None:
    """The names that a Functional model gives its outputs."""
    names = getattr(model, "output_names", None)
    return list(names) if isinstance(names, (list, tuple)) else None


def spec(tensor: Any) -> keras.KerasTensor:
    """A tensor's shape and dtype, batch None."""
    shape = (None, *tuple(tensor.shape)[1:])
    return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(tensor.dtype))


def signals_spec(signals: Signals) -> Signals:
    """The same Signals with every tensor's spec in its place."""
    logits = keras.tree.map_structure(spec, signals.logits)
    taps = {key: spec(tensor) for key, tensor in signals.taps.items()}
    return Signals(logits, taps, signals.from_probabilities, signals.from_sigmoid)


def _inside_functions(tensor: Any):
    """The tensor, in the body of the called function that computes it, however deep."""
    op = _producer(tensor)
    while op is not None and op.type in ("PartitionedCall", "StatefulPartitionedCall"):
        body = op.graph._get_function(op.get_attr("f").name)
        if body is None:
            break
        tensor = body.graph.outputs[_source(tensor).value_index]
        op = _producer(tensor)
    return tensor


def _source(tensor: Any):
    while tensor.op.type in _TRANSPARENT:
        tensor = tensor.op.inputs[0]
    return tensor


def _producer(tensor: Any):
    try:
        return _source(tensor).op
    except AttributeError:  # an eager tensor
        return None
