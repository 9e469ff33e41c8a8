"""Copies of Functional models and of layers, some of them replaced on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill.graph.remaking import build_by_call, from_own_config
from keras_distill.graph.replay import functional


def rebuild(
    model: Any,
    substitute: Callable[[str, Any], Any],
    *,
    on_input: Callable[[str, Any], Any] | None = None,
    kind: type[Functional] = Functional,
    anew: Callable[[str], bool] = lambda path: False,
    shapes: Sequence[tuple[int | None, ...]] | None = None,
) -> Any:
    """A copy of `model`, weights included, with `substitute`'s layers in their places.

    Args:
      model: a built Functional or Sequential model, nested models included.
      substitute: given an operation's path and a copy of it with the same weights (the operation
        itself where it is no layer), returns what is to stand in its place. A layer that is
        called twice is asked for once.
      on_input: given an input's name and its symbolic tensor, returns the tensor to go on with.
      kind: the class of the copy and of the nested models in it.
      anew: for which paths `substitute` makes a layer itself: it gets the original, uncopied.
      shapes: of the inputs, batch included, where they are not the model's own.

    Returns:
      A model of the same name, layer names and structures of inputs and outputs.

    Raises:
      TypeError, ValueError: as `functional`; or a layer can't be copied from its config.
    """

    def make(path: str, operation: keras.Operation) -> Any:
        return substitute(path, operation if anew(path) else copy_of(operation, path))

    source = functional(model)
    own = [tuple(x.shape) for x in source.inputs]
    return _rebuilt(model, shapes or own, make, on_input, kind, "", {})


def _rebuilt(
    model: Any, shapes: Any, make: Any, on_input: Any, kind: Any, prefix: str, made: dict
) -> Any:
    source = functional(model)
    inputs = [input_like(x, shape) for x, shape in zip(source.inputs, shapes, strict=True)]
    fed = [x if on_input is None else on_input(_keras.history(x).operation.name, x) for x in inputs]
    found = {id(x): new for x, new in zip(source.inputs, fed, strict=True)}
    for node in _keras.nodes(source):
        operation = node.operation
        args, kwargs = node.arguments.fill_in(found)
        if id(operation) not in made:
            path = f"{prefix}{operation.name}"
            if isinstance(operation, (keras.Sequential, Functional)):
                # Of what a nested model is given, masks come after its inputs.
                read = [
                    (*x.shape[:-1], *found[id(y)].shape[-1:])
                    for x, y in zip(functional(operation).inputs, node.input_tensors, strict=False)
                ]
                made[id(operation)] = _rebuilt(operation, read, make, None, kind, f"{path}/", made)
            else:
                made[id(operation)] = make(path, operation)
        outputs = made[id(operation)](*args, **kwargs)
        new = keras.tree.flatten(outputs)
        found.update({id(x): y for x, y in zip(node.outputs, new, strict=True)})
    outputs = keras.tree.map_structure(lambda x: found[id(x)], _keras.output_structure(source))
    places = {id(x): new for x, new in zip(source.inputs, inputs, strict=True)}
    structure = keras.tree.map_structure(lambda x: places[id(x)], _keras.input_structure(source))
    copy = kind(structure, outputs, name=model.name)
    copy.trainable = model.trainable
    return copy


def input_like(tensor: Any, shape: tuple[int | None, ...]) -> Any:
    """A model's input again, of the batch shape `shape`."""
    layer = _keras.history(tensor).operation
    # Keras 3.10 leaves `optional` out of the config.
    config = {"optional": layer.optional, **layer.get_config(), "batch_shape": shape}
    return type(layer).from_config(config).output


def copy_of(operation: keras.Operation, path: str, change: Callable[[dict], dict] = dict) -> Any:
    """A layer built again from its config, with the same values in all its variables.

    Args:
      operation: the layer; what is no layer is given back itself.
      path: names it in errors.
      change: as `from_own_config`.

    Raises:
      ValueError: its config does not rebuild it; `path` names it.
    """
    if not isinstance(operation, keras.layers.Layer):
        return operation
    copy = from_own_config(operation, path, change)
    if operation.built and not copy.built:
        copy.built = True
    if len(copy.variables) < len(operation.variables):
        build_by_call(copy, _keras.first_call(operation))
    copy_variables(operation, copy, path)
    return copy


def copy_variables(source: Any, target: Any, path: str) -> None:
    """Sets each variable of `target` from the one at its place in `source`.

    Raises:
      ValueError: their numbers or shapes differ.
    """
    ours, theirs = source.variables, target.variables
    if [tuple(v.shape) for v in ours] != [tuple(v.shape) for v in theirs]:
        raise ValueError(
            f"The layer {path!r} was rebuilt with weights of {[tuple(v.shape) for v in theirs]}; "
            f"the original has {[tuple(v.shape) for v in ours]}."
        )
    for old, new in zip(ours, theirs, strict=True):
        new.assign(old)
    settle(target)


def settle(layer: Any) -> None:
    """Lets what answers from a copy of its weights, in it however deep, make that copy again."""
    for part in _keras.layers_of(layer):
        if isinstance(part, keras.layers.Normalization) and part.input_mean is None:
            part.finalize_state()


def weight_at(layer: Any, path: str) -> Any:
    """The variable of `layer` whose path inside it is `path`.

    Raises:
      ValueError: there is none.
    """
    found = weight_paths(layer)
    if path not in found:
        raise ValueError(f"The layer {layer.name!r} has no weight {path!r}; it has {list(found)}.")
    return found[path]


def weight_paths(layer: Any) -> dict[str, Any]:
    """Every weight of a layer by its path inside the layer: `kernel`, `cell/recurrent_kernel`."""
    paths: dict[str, Any] = {}

    def walk(owner: Any, prefix: str) -> None:
        own = _keras.own_variables(owner)
        for variable in own:
            paths[f"{prefix}{variable.name}"] = variable
        for child in _keras.children(owner):
            walk(child, f"{prefix}{child.name}/")

    if isinstance(layer, keras.layers.Layer):
        walk(layer, "")
    return paths
