"""Copies of Functional models with some layers replaced, and the model that trains them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras.src.models.functional import Functional  # Keras has no public name for it.

from ...step import notify
from ..replay import functional, nodes
from .layer import Compressed, inner


@keras.saving.register_keras_serializable("keras_distill")
class CompressedModel(Functional):
    """A Functional model whose layers hear of every update of the optimiser.

    Schedules follow `optimizer.iterations` under plain `fit` as under a `Distiller`; a custom
    training loop calls `after_update` itself.
    """

    def train_step(self, data: Any) -> Any:
        """Keras' own step, then `after_update`."""
        logs = super().train_step(data)
        self.after_update(self.optimizer.iterations)
        return logs

    def count_params(self) -> int:
        """The numbers that the deployed model holds: no masks, no ranges."""
        own = self._flatten_layers(include_self=False, recursive=False)
        return sum(layer.count_params() for layer in own)

    def after_update(self, iterations: Any) -> None:
        """Tells each layer that has an `after_update` how many updates there have been."""
        for layer in self._flatten_layers(include_self=False, recursive=False):
            notify(layer, iterations)


def rebuild(
    model: Any,
    substitute: Callable[[str, Any], Any],
    *,
    on_input: Callable[[str, Any], Any] | None = None,
) -> CompressedModel:
    """A copy of `model`, weights included, with `substitute`'s layers in their places.

    Args:
      model: a built Functional or Sequential model, nested models included.
      substitute: given an operation's path and a copy of it with the same weights (the operation
        itself where it is no layer), returns what is to stand in its place. A layer that is
        called twice is asked for once.
      on_input: given an input's name and its symbolic tensor, returns the tensor to go on with.

    Returns:
      A `CompressedModel` of the same name, layer names and structures of inputs and outputs.

    Raises:
      TypeError, ValueError: as `replay.functional`; or a layer can't be copied from its config.
    """
    return _rebuilt(model, substitute, on_input, "", {})


def _rebuilt(model: Any, substitute: Any, on_input: Any, prefix: str, made: dict) -> Any:
    source = functional(model)
    inputs = [_input_like(x) for x in source.inputs]
    fed = [x if on_input is None else on_input(x._keras_history.operation.name, x) for x in inputs]
    found = {id(x): new for x, new in zip(source.inputs, fed, strict=True)}
    for node in nodes(source):
        operation = node.operation
        if id(operation) not in made:
            path = f"{prefix}{operation.name}"
            if isinstance(operation, (keras.Sequential, Functional)):
                made[id(operation)] = _rebuilt(operation, substitute, None, f"{path}/", made)
            else:
                made[id(operation)] = substitute(path, copy_of(operation, path))
        args, kwargs = node.arguments.fill_in(found)
        outputs = made[id(operation)](*args, **kwargs)
        new = keras.tree.flatten(outputs)
        found.update({id(x): y for x, y in zip(node.outputs, new, strict=True)})
    outputs = keras.tree.map_structure(lambda x: found[id(x)], source._outputs_struct)
    places = {id(x): new for x, new in zip(source.inputs, inputs, strict=True)}
    structure = keras.tree.map_structure(lambda x: places[id(x)], source._inputs_struct)
    copy = CompressedModel(structure, outputs, name=model.name)
    copy.trainable = model.trainable
    return copy


def _input_like(tensor: Any) -> Any:
    layer = tensor._keras_history.operation
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        name=layer.name,
        sparse=layer.sparse,
        optional=getattr(layer, "optional", False),
    )


def copy_of(operation: Any, path: str) -> Any:
    """A layer built again from its config, with the same values in all its variables.

    Raises:
      ValueError: its config does not rebuild it; `path` names it.
    """
    if not isinstance(operation, keras.layers.Layer):
        return operation
    try:
        config = keras.saving.serialize_keras_object(operation)
        copy = keras.saving.deserialize_keras_object(
            config, custom_objects=_own_objects(operation), safe_mode=False
        )
    except Exception as error:
        raise ValueError(
            f"The layer {path!r} ({type(operation).__module__}.{type(operation).__qualname__}) "
            f"can't be copied from its config: {error}. Give it a get_config() that returns what "
            f"its __init__ takes."
        ) from error
    if operation.built and not copy.built:
        copy.built = True
    copy_variables(operation, copy, path)
    copy.trainable = operation.trainable
    return copy


def _own_objects(layer: Any) -> dict[str, Any]:
    """A layer's class and the functions that it holds, which nobody may have registered."""
    held = (value for value in vars(layer).values() if inspect.isfunction(value))
    return {type(layer).__name__: type(layer), **{one.__name__: one for one in held}}


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
    """Lets a layer that answers from a copy of its weights make that copy again."""
    if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
        layer.finalize_state()


def chosen(operations: Mapping[str, Any], skip: Any, ends: Sequence[str] = ()) -> set[str]:
    """The paths of the operations that `skip` names.

    Args:
      operations: by path; wrappers answer for the layer inside, too.
      skip: a name, path, regular expression of a path, class or layer, or several; "first" and
        "last" name the ends of `ends`, unless a layer is called so.
      ends: the paths that "first" and "last" are about, in order.

    Raises:
      ValueError: a part of `skip` names nothing.
    """
    single = isinstance(skip, (str, type, keras.layers.Layer))
    places = {"first": ends[:1], "last": ends[-1:]}
    found: set[str] = set()
    for asked in (skip,) if single else tuple(skip):
        hits = {
            path
            for path, operation in operations.items()
            if _answers(path, operation, asked) or _answers(path, inner(operation), asked)
        }
        if not hits and isinstance(asked, str):
            hits = set(places.get(asked, ()))
        if not hits:
            extra = "; and 'first' and 'last' of those with a kernel" if ends else ""
            raise ValueError(
                f"skip names {asked!r}, and no layer answers to it. There are "
                f"{', '.join(operations)}{extra}."
            )
        found |= hits
    return found


def _answers(path: str, operation: Any, asked: Any) -> bool:
    if isinstance(asked, str):
        return asked in (path, path.rpartition("/")[2]) or bool(re.fullmatch(asked, path))
    if isinstance(asked, type):
        return isinstance(operation, asked)
    return operation is asked


def without(model: Any, unwrap: Callable[[Compressed], Any]) -> Any:
    """A copy with each `Compressed` layer replaced by what `unwrap` makes of it."""

    def substitute(_: str, layer: Any) -> Any:
        return unwrap(layer) if isinstance(layer, Compressed) else layer

    return rebuild(model, substitute)
