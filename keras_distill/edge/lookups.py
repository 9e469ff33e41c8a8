"""Layers that look things up: what a file can hold of them, and the model behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill._pages import see
from keras_distill.graph.copying import copy_of, rebuild
from keras_distill.graph.replay import Graph, Step, Value, functional, trace
from keras_distill.graph.traits import LAYERS, does
from keras_distill.litert.converter import ConversionError

layers = keras.layers

LOOKUPS = [name for name, traits in LAYERS.items() if traits.does == "lookup"]
_WAY = "kd.edge.without_preprocessing(model) returns the model behind it"
__all__ = [
    "check_lookups",
    "has_kernel",
    "lookups_of",
    "tables_of",
    "without_preprocessing",
    "words",
]


def check_lookups(found: Sequence[Any], *, calibrated: bool) -> None:
    """Refuses lookups that no file can hold, or not while it is calibrated.

    Args:
      found: a model's, from `lookups_of`.
      calibrated: whether the converter finds ranges from data.

    Raises:
      ConversionError: it names the layers and the usual way.
    """
    without = [layer for layer in found if not has_kernel(layer)]
    if without:
        raise ConversionError(
            f"LiteRT has no operation for what {_named(without)} looks up: its tables map strings "
            f"to whole numbers or back, with one place for what is unknown and none for a mask. "
            f"Look up in the app: {_WAY}, with an input in the layer's place; or export with "
            f"allow_flex=True and ship the Flex delegate.{see('lookups')}"
        )
    if found and calibrated:
        raise ConversionError(
            f"The converter calibrates with empty tables, so that {_named(found)} would find "
            f"nothing. Look up in the app: {_WAY}, with an input in the layer's place; or export "
            f"kd.edge.quantize_aware(model, calibration_data=...), whose ranges are found before."
        )


def _named(found: Sequence[Any]) -> str:
    return ", ".join(f"{layer.name!r} ({type(layer).__name__})" for layer in found)


def has_kernel(layer: Any) -> bool:
    """Whether LiteRT looks up what a lookup does: its tables are of strings."""
    if not isinstance(layer, layers.StringLookup) or layer.sparse or layer.mask_token is not None:
        return False
    return layer.num_oov_indices == 1 and layer.output_mode in ("int", "one_hot")


def lookups_of(model: Any) -> list[Any]:
    """The layers of a model, subclassed or not, that look things up in tables of their own."""
    inside = [layer for layer in _keras.layers_of(model) if does(layer, "lookup")]
    # A TextVectorization holds a StringLookup.
    parts = {id(part) for layer in inside for part in _keras.layers_of(layer, itself=False)}
    return [layer for layer in inside if id(layer) not in parts]


def words(layer: Any) -> tuple[str, str] | None:
    """How a file holds a lookup, as `inspect` says it; None for any other layer."""
    if not does(layer, "lookup"):
        return None
    if has_kernel(layer):
        return "native", "LiteRT's own table of strings"
    return "no kernel", f"LiteRT has no such lookup: {_WAY}"


def tables_of(model: Any) -> list[Any]:
    """The lookup tables that a model's layers hold, alone or in a list or a dict, each once."""
    kind = tf.saved_model.experimental.TrackableResource
    held = (
        part
        for layer in _keras.layers_of(model)
        for value in vars(layer).values()
        for part in _one_by_one(value)
    )
    return list({id(part): part for part in held if isinstance(part, kind)}.values())


def _one_by_one(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def without_preprocessing(model: keras.Model) -> keras.Model:
    """A copy of the model behind its lookups, as a file can hold it.

    StringLookup, IntegerLookup, TextVectorization, Hashing, HashedCrossing and all that only they
    read are left out; what they answer comes in as an input of the layer's name. The app looks up,
    or a model of these layers does: `keras.Model(model.input, model.get_layer("words").output)`.

    Args:
      model: a built Functional or Sequential model; models nested in it that hold lookups are
        taken apart. It is not changed.

    Returns:
      A Functional model with the same weights, answers and layer names. Its inputs are a dict by
      name if there are several: the model's own that it still reads, then one for each lookup.

    Raises:
      TypeError, ValueError: not a model, subclassed or not built; it has no lookups, or nothing
        behind them.

    Example:
      core = without_preprocessing(model)  # its input "words" takes whole numbers
      export = export_tflite(core, "core.tflite")
    """
    source = functional(model)
    graph = trace(model, enters=lookups_of)
    made: dict[int, Any] = {}
    inputs: dict[str, Any] = {}
    names = [_keras.history(x).operation.name for x in source.inputs]
    needed = _needed(graph)
    if not any(_is_lookup(step) for step in graph.steps):
        raise ValueError(
            f"{model.name!r} has no lookups to leave out: none of its layers is one of "
            f"{', '.join(LOOKUPS)}. Export it as it is."
        )
    for name, value in zip(names, graph.inputs, strict=True):
        if id(value) in needed:
            inputs[name] = made[id(value)] = _input(name, value)
    copies: dict[int, Any] = {}
    for step in graph.steps:
        if not any(id(value) in needed for value in step.outputs):
            continue
        if _is_lookup(step):
            _take_in(step, inputs, made)
        else:
            _run(step, copies, made)
    if not copies:
        raise ValueError(f"{model.name!r} is nothing but lookups: there is no model behind them.")
    leaves = [made[id(value)] for value in graph.outputs]
    outputs = keras.tree.pack_sequence_as(_keras.output_structure(source), leaves)
    given = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    return keras.Model(given, outputs, name=model.name)


def _is_lookup(step: Step) -> bool:
    return does(step.operation, "lookup")


def _needed(graph: Graph) -> set[int]:
    """What the outputs are computed from, back to the lookups' answers, by `id`."""
    found = {id(value) for value in graph.outputs}
    for step in reversed(graph.steps):
        if not _is_lookup(step) and any(id(value) in found for value in step.outputs):
            found |= {id(value) for value in step.inputs}
    return found


def _input(name: str, value: Value) -> Any:
    return keras.Input(batch_shape=value.shape, dtype=value.dtype, name=name)


def _take_in(step: Step, inputs: dict[str, Any], made: dict[int, Any]) -> None:
    for value in step.outputs:
        name = next(name for name in _numbered(step.operation.name) if name not in inputs)
        inputs[name] = made[id(value)] = _input(name, value)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1


def _run(step: Step, copies: dict[int, Any], made: dict[int, Any]) -> None:
    operation = step.operation
    if id(operation) not in copies:
        nested = isinstance(operation, (keras.Sequential, Functional))
        copies[id(operation)] = (
            rebuild(operation, lambda _, layer: layer) if nested else copy_of(operation, step.path)
        )
    args, kwargs = step.filled(made)
    answers = keras.tree.flatten(copies[id(operation)](*args, **kwargs))
    made.update({id(value): new for value, new in zip(step.outputs, answers, strict=True)})
