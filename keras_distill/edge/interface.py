"""How a Keras 3 model is called from outside: named, shaped inputs and named outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill.data import no_keras3_model, qualified_name
from keras_distill.edge.reads import is_read_whole
from keras_distill.graph.copying import copy_of, rebuild
from keras_distill.graph.float_only import check_float
from keras_distill.litert.quiet import quiet_tensorflow
from keras_distill.signals.specs import at_open_sizes, input_spec_of, settled, with_dtypes

_HALF = ("float16", "bfloat16")
# What a model that takes no real numbers may take, the likeliest first.
_WHOLE = ("int32", "int64", "bool", "string")


@dataclass(frozen=True)
class Interface:
    """A model as a function of named tensors.

    `specs` has a `tf.TensorSpec` an input, batch first and None, in the model's order, and
    `own_names` what the model itself calls them. `structure` is the model's input structure with
    the input's name at each leaf.
    """

    specs: dict[str, tf.TensorSpec]
    own_names: tuple[str, ...]
    structure: Any
    call: Callable[[dict[str, Any]], dict[str, Any]]

    def flat_inputs(self, x: Any) -> list[Any]:
        """The arrays of `x`, in the order of `specs`.

        Raises:
          ValueError: `x` has not the model's structure.
        """
        for names in (self.own_names, tuple(self.specs)):
            if isinstance(x, dict) and set(x) == set(names):
                return [x[name] for name in names]
        leaves, names = keras.tree.flatten(x), keras.tree.flatten(self.structure)
        if len(leaves) != len(names) or isinstance(x, dict) != isinstance(self.structure, dict):
            came = f"the keys {list(x)}" if isinstance(x, dict) else f"{len(leaves)} array(s)"
            raise ValueError(f"Expected the inputs {list(self.own_names)}; got {came}.")
        found = dict(zip(names, leaves, strict=True))
        return [found[name] for name in self.specs]


def interface_of(
    model: keras.Model,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Interface:
    """Names a model's inputs and outputs: a dict's keys, else the layers' names, else numbers.

    Args:
      model: a built Keras 3 model.
      input_names, output_names: other names, in the model's order.

    Raises:
      TypeError: not a Keras 3 model.
      ValueError: not built, or the wrong number of names.
    """
    check_model(model)
    structure, specs = _inputs(model)
    own_names = tuple(specs)
    names = _asked(input_names, list(specs), "input")
    renamed = dict(zip(specs, names, strict=True))
    structure = keras.tree.map_structure(lambda name: renamed[name], structure)
    specs = {renamed[name]: spec for name, spec in specs.items()}

    def call(tensors: dict[str, Any]) -> dict[str, Any]:
        x = keras.tree.map_structure(lambda name: tensors[name], structure)
        return _named_outputs(model, model(x, training=False), output_names)

    return Interface(specs, own_names, structure, call)


def check_model(model: Any) -> None:
    """Refuses whatever is not a built Keras 3 model."""
    _refuse_distiller(model)
    if not isinstance(model, keras.Model):
        raise TypeError(no_keras3_model(model))
    if not model.built:
        raise ValueError(
            f"Expected a built model; {model.name!r} has no weights yet. Call it once on a batch "
            f"or give it an Input layer."
        )


def _inputs(model: keras.Model) -> tuple[Any, dict[str, tf.TensorSpec]]:
    if isinstance(model, keras.Sequential):
        found = model.inputs[0]
    elif isinstance(model, Functional):
        found = model.input
    else:
        return _subclassed_inputs(model)
    if isinstance(found, dict):
        structure: Any = {key: key for key in found}
        tensors = found
    else:
        structure = keras.tree.map_structure(_input_name, found)
        tensors = {_input_name(tensor): tensor for tensor in keras.tree.flatten(found)}
    return structure, {
        name: tf.TensorSpec(tensor.shape, _full(tensor.dtype)) for name, tensor in tensors.items()
    }


def _input_name(tensor: keras.KerasTensor) -> str:
    # A Sequential's input tensor has a running number for a name; its layer has a real one.
    return _keras.history(tensor).operation.name


def _subclassed_inputs(model: keras.Model) -> tuple[Any, dict[str, tf.TensorSpec]]:
    shapes = _keras.built_with(model)
    if not shapes or len(shapes) != 1:
        raise ValueError(
            f"Expected a model whose call takes one argument x (an array, a list or a dict); "
            f"{qualified_name(model)} was built with {list(shapes or [])}. Wrap it in a Functional "
            f"model."
        )
    spec = _taken(model, input_spec_of(model))
    structure: Any
    named: dict[str, Any]
    if isinstance(spec, dict):
        # Keras' trees sort their keys.
        (shape,) = shapes.values()
        named, structure = {key: spec[key] for key in shape}, {key: key for key in shape}
    elif keras.tree.is_nested(spec):
        structure = [f"input_{index}" for index in range(len(spec))]
        named = dict(zip(structure, spec, strict=True))
    else:
        named, structure = {"input_0": spec}, "input_0"
    return structure, {
        name: tf.TensorSpec(one.shape, _full(one.dtype.name)) for name, one in named.items()
    }


def _taken(model: keras.Model, spec: Any) -> Any:
    """The specs with the dtypes that a model takes: what it was called on, it keeps the shapes of.

    Real numbers, unless it refuses them or all that reads them makes whole ones of them first.
    """

    def trace(asked: Any) -> list[Any]:
        def call(*flat: Any) -> Any:
            return model(keras.tree.pack_sequence_as(asked, list(flat)), training=False)

        return tf.function(call).get_concrete_function(*keras.tree.flatten(asked)).inputs

    def traced(asked: Any) -> list[Any]:
        return at_open_sizes(asked, trace, repr(model.name))[0]

    try:
        with quiet_tensorflow():
            found, tensors = settled(spec, traced, _WHOLE)
            flat = zip(keras.tree.flatten(found), tensors, strict=False)
            dtypes = ["int32" if is_read_whole(tensor) else one.dtype for one, tensor in flat]
            return settled(with_dtypes(found, dtypes), traced, ())[0]
    except Exception:  # The export says what fails, in its own trace.
        return spec


def _full(dtype: str) -> str:
    return "float32" if dtype in _HALF else dtype


def _named_outputs(model: keras.Model, outputs: Any, asked: Sequence[str] | None) -> dict[str, Any]:
    if isinstance(outputs, dict):
        found = list(outputs.items())
    else:
        leaves = keras.tree.flatten(outputs)
        if isinstance(model, (keras.Sequential, Functional)):
            names = _layer_names(model, len(leaves))
        else:
            names = [f"output_{index}" for index in range(len(leaves))]
        found = list(zip(names, leaves, strict=True))
    names = _asked(asked, [name for name, _ in found], "output")
    # The same tensor under two names would be one output to the converter.
    return {name: tf.identity(value) for name, (_, value) in zip(names, found, strict=True)}


def _layer_names(model: keras.Model, count: int) -> list[str]:
    layers = [model.layers[-1].name] if isinstance(model, keras.Sequential) else model.output_names
    if len(set(layers)) == count:
        return list(layers)
    return [f"output_{index}" for index in range(count)]


def _asked(asked: Sequence[str] | None, own: list[str], side: str) -> list[str]:
    if asked is None:
        return own
    if isinstance(asked, str) or len(asked) != len(own) or len(set(asked)) != len(own):
        raise ValueError(
            f"Expected {side}_names as a list of {len(own)} different names, for {own}; "
            f"got {asked!r}."
        )
    return list(asked)


def as_keras3(model: Any) -> Any:
    """The model itself, or the Keras 3 twin of one of tf_keras or of TFMOT's wrappers.

    Raises:
      TypeError: it is no Keras model.
      ValueError: Keras' own `quantize()` made it.
    """
    _refuse_distiller(model)
    from keras_distill.edge.bridge import legacy_layer, to_keras3, to_legacy

    if isinstance(model, keras.Model):
        check_float(model)
        return to_keras3(to_legacy(model)) if legacy_layer.has_wrappers(model) else model
    if qualified_name(model).startswith("tf_keras."):
        return to_keras3(model)
    raise TypeError(no_keras3_model(model, "Expected a Keras model"))


def _refuse_distiller(model: Any) -> None:
    if hasattr(model, "student") and hasattr(model, "teacher"):
        raise TypeError(
            f"Expected the model itself; got {qualified_name(model)}: give its .student."
        )


def without_float16(model: keras.Model) -> keras.Model:
    """The model itself, or a float32 copy where layers compute in float16.

    Roundings to int8's steps need more bits than float16 has; bfloat16 models keep their policy.

    Raises:
      ValueError: as `in_float32`.
    """
    return in_float32(model, ("float16",))


def in_float32(model: keras.Model, kinds: Sequence[str] = _HALF) -> keras.Model:
    """The model itself, or a float32 copy of one trained in mixed or half precision.

    Args:
      model: a built Keras 3 model.
      kinds: the compute dtypes that call for a copy.

    Raises:
      ValueError: it is subclassed, so that it cannot be built again from its layers.
    """
    check_model(model)
    check_float(model)
    half = [
        layer for layer in _keras.layers_of(model, itself=False) if layer.compute_dtype in kinds
    ]
    if not half:
        return model
    if not isinstance(model, (keras.Sequential, Functional)):
        raise ValueError(
            f"{qualified_name(model)} computes in {half[0].compute_dtype} (layer "
            f"{half[0].name!r}), and a .tflite holds float32. Build the model under "
            f'keras.config.set_dtype_policy("float32"), set_weights() it, and export that.'
        )
    return rebuild(model, _float32_layer, anew=lambda _: True)


def _float32_layer(path: str, operation: Any) -> Any:
    return copy_of(operation, path, _float32_config)


def _float32_config(config: Any) -> Any:
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return "float32" if "float16" in config["config"]["name"] else config
        return {
            key: "float32"
            if key == "dtype" and isinstance(value, str) and "float16" in value
            else _float32_config(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_float32_config(value) for value in config)
    return config
