"""What is used of a layer's private parts."""

import collections
import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.saving import serialization_lib

_CALL_PROTOCOL = (
    "_call_signature",
    "call_signature_parameters",
    "_call_has_training_arg",
    "_call_has_mask_arg",
    "_call_has_context_arg",
    "_call_context_args",
    "_allow_non_tensor_positional_args",
    "_convert_input_args",
)


def holds_layers(value: Any) -> bool:
    """Whether it is a layer or model of either generation, for `layers_of`."""
    return hasattr(value, "_flatten_layers")


def layers_of(layer: Any, *, itself: bool = True) -> list[Any]:
    """A layer or model of either generation and every layer that it tracks, however deep.

    `Layer._flatten_layers`: `Model.layers` stops at the first level, and no layer has it.
    """
    return list(layer._flatten_layers(include_self=itself))


def children(layer: Any) -> list[Any]:
    """The layers that a layer or model of either generation tracks itself, not those in them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def own_variables(layer: Any) -> list[Any]:
    """The variables that a layer of either generation tracks itself, not those of layers in it.

    `_trainable_variables` and `_non_trainable_variables`, in tf_keras 2.21 `_trainable_weights` and
    `_non_trainable_weights`: `variables` has all.
    """
    if isinstance(layer, keras.layers.Layer):
        return [*layer._trainable_variables, *layer._non_trainable_variables]
    return [*layer._trainable_weights, *layer._non_trainable_weights]


def trained_variables(layer: keras.layers.Layer) -> list[Any]:
    """Of its own variables those that are trained while it is not frozen.

    `_trainable_variables`: `trainable_variables` of a frozen layer is empty.
    """
    return list(layer._trainable_variables)


def flag(layer: Any) -> bool:
    """A layer's `trainable` as it was set on itself, of either generation (`_trainable`)."""
    return layer._trainable


def set_flag(layer: Any, value: bool) -> None:
    """Sets a layer's own `trainable`, where the property sets that of all layers in it too."""
    layer._trainable = value


def built_with(layer: keras.layers.Layer) -> Any:
    """What a layer was built with, by argument (`_build_shapes_dict`); None where nobody knows."""
    return layer._build_shapes_dict


def seed_generators(layer: Any) -> Sequence[Any]:
    """A layer's own seed generators (`_seed_generators`).

    Keras' weight files have no states of them: without it a resumed Dropout would draw otherwise.
    """
    return getattr(layer, "_seed_generators", ())


def recomputes(layer: Any) -> bool:
    """Whether a layer computes its forward again for the gradient: `_remat_mode`, of RematScope."""
    return getattr(layer, "_remat_mode", None) is not None


def takes_training(operation: Any) -> bool:
    """Whether a layer's `call` has the argument `training` (`_call_has_training_arg`)."""
    return getattr(operation, "_call_has_training_arg", False)


def called(
    layer: keras.layers.Layer, training: bool, args: tuple, kwargs: dict[str, Any]
) -> tuple[Any, list[Any]]:
    """A layer's answer outside any model, and the losses that the call added in it.

    `_clear_losses`, `_get_own_losses`: `losses` has the regularisers' as well. Layers inside read
    `training` from the context of the outermost call (`_get_call_context`), which this is.
    """
    layer._clear_losses()
    if takes_training(layer):
        outputs = layer(*args, **{"training": training, **kwargs})
    else:
        layer._get_call_context().set_value("training", training)
        try:
            outputs = layer(*args, **kwargs)
        finally:
            layer._maybe_reset_call_context()
    return outputs, [loss for one in layers_of(layer) for loss in one._get_own_losses()]


def is_training() -> bool:
    """Whether the call under way is one of training, for a layer whose `call` is not told.

    Keras hands `training` to those alone whose `call` has the argument. `current_call_ctx` is
    read, for `_get_call_context` makes one outside any call that stays and misleads later ones.
    """
    context = global_state.get_global_attribute("current_call_ctx")
    return context is not None and bool(context.get_value("training"))


@contextlib.contextmanager
def fresh_names() -> Iterator[None]:
    """Layers and models are named as in a new process, so that their files are the same bytes.

    Afterwards Keras goes on with the numbers that it had.
    """
    numbers = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", numbers)


def adopt(layer: keras.layers.Layer, variables: Sequence[keras.Variable]) -> None:
    """Has a layer track variables made elsewhere, and takes it for built.

    `_track_variable`: assigned to attributes each would need a name. `_build_at_init`, as where
    `build` is not overridden.
    """
    for variable in variables:
        layer._track_variable(variable)
    layer._build_at_init()


def take_call_protocol(wrapper: keras.layers.Layer, operation: Any) -> None:
    """Has a layer called exactly as the layer or operation inside it.

    Keras reads these attributes off the signature of `call` when a layer is made. Without them a
    wrapper is not given `training`, masks, or arguments that are no tensors.
    """
    if isinstance(operation, keras.layers.Layer):
        found: Mapping[str, Any] = vars(operation)
    else:
        signature = inspect.signature(operation.call)
        found = {
            "_call_signature": signature,
            "call_signature_parameters": list(signature.parameters),
            "_call_has_training_arg": False,
            "_call_has_mask_arg": False,
            "_call_has_context_arg": {"training": False},
            "_allow_non_tensor_positional_args": True,
            "_convert_input_args": False,
        }
    for name in _CALL_PROTOCOL:
        if name in found:
            setattr(wrapper, name, found[name])


class Constraint(keras.constraints.Constraint):
    """A function as a variable's constraint: Keras 3.10 takes no bare one."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def __call__(self, value: Any) -> Any:
        """The value, constrained."""
        return self._function(value)


class Regularizer(keras.regularizers.Regularizer):
    """A function as a variable's regulariser, likewise."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def __call__(self, value: Any) -> Any:
        """The value's penalty."""
        return self._function(value)


def safe_mode() -> bool | None:
    """Whether Keras is loading in safe mode; None where nobody said (`serialization_lib`).

    Without it a layer's `from_config` can't tell whether its file is trusted.
    """
    return serialization_lib.in_safe_mode()
