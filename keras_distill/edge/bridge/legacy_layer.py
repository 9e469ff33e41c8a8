"""A tf_keras layer inside a Keras 3 layer, its variables shared; imports neither until needed."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _json, _keras
from keras_distill.data import qualified_name
from keras_distill.edge import legacy
from keras_distill.edge.bridge import closed_list
from keras_distill.edge.bridge.calls import PLAIN, Call, OwnText, packed, plain
from keras_distill.edge.bridge.tfmot import Wrapper, wrapper_of


@keras.saving.register_keras_serializable("keras_distill")
class LegacyLayer(keras.layers.Layer):
    """Calls a built tf_keras layer and has its variables for its own, by reference.

    Training under Keras 3 trains the tf_keras layer: its regularisers are this layer's losses, its
    constraints hold, its `trainable` follows, and what it updates in training it updates here.

    Args:
      inner: the tf_keras layer, built. It is `layer.inner` afterwards, seen by no Keras tracking.
      calls: how it is called, call by call; `call(tensors, index=n)` makes the n-th.
      signatures: the (shape, dtype) of the tensors of the first call, to build it again from.
      variables: Keras variables made for tf_keras variables so far, by their id, so that one that
        two layers share stays one.
    """

    def __init__(
        self,
        inner: Any,
        calls: Sequence[Call] = (),
        signatures: Sequence[Any] = (),
        *,
        variables: dict[Any, keras.Variable] | None = None,
        name: str | None = None,
    ) -> None:
        name = (name or inner.name).replace("/", "_")
        super().__init__(name=name, dtype=_policy(inner), autocast=False)
        # Past both Kerases' tracking: nothing may find the inner layer's variables a second time,
        # and no tap may find two layers of one name.
        self.__dict__.update(inner=inner, wrapper=wrapper_of(inner))
        self.__dict__.update(calls=list(calls), signatures=list(signatures))
        self.supports_masking = True
        with keras.name_scope(name):
            self._adopt({} if variables is None else variables)
        if not inner.trainable:
            self.trainable = False

    def _adopt(self, known: dict[Any, keras.Variable]) -> None:
        learnt, own = _learnt(self.inner), []
        penalties = dict(_penalties(self.inner))
        for variable in (*self.inner.weights, *_counted(self.wrapper)):
            key = _key(variable)
            if key not in known:
                known[key] = _shared(variable, key in learnt)
                known[key].regularizer = penalties.get(key)
            own.append(known[key])
        _keras.adopt(self, own)

    @property
    def trainable(self) -> bool:
        """Whether its variables are trained; the inner layer's flag follows."""
        return keras.layers.Layer.trainable.fget(self)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        self.inner.trainable = bool(value)

    def add_call(self, call: Call, tensors: Sequence[Any]) -> int:
        """Notes one more way in which it is called; returns its index."""
        if not self.signatures:
            self.signatures.extend([list(x.shape), _dtype_name(x)] for x in tensors)
        if call in self.calls:
            return self.calls.index(call)
        self.calls.append(call)
        return len(self.calls) - 1

    def arguments(self, inputs: Any, index: int = 0) -> tuple[tuple, dict[str, Any]]:
        """What the inner layer is called with, in the call `index`."""
        return (self.calls[index] if self.calls else PLAIN).fill(inputs)

    def call(self, inputs: Any, index: int = 0, training: Any = None) -> Any:
        args, kwargs = self.arguments(inputs, index)
        layer = self.wrapper.computing(bool(training))
        if _keras.legacy.takes_training(layer):
            kwargs.setdefault("training", bool(training))
        outputs = layer(*args, **kwargs)
        for loss in _noted_losses(self.inner):
            self.add_loss(loss)
        return outputs

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return None  # The inner layer has put its own on what it returned.

    def after_update(self, iterations: Any) -> None:
        """Called by train steps after each update of the optimiser, in the graph."""
        self.wrapper.after_update(tf.convert_to_tensor(getattr(iterations, "value", iterations)))

    def count_params(self) -> int:
        """The numbers of the layer inside TFMOT's wrapper: no masks, no ranges."""
        return sum(math.prod(variable.shape) for variable in self.wrapper.own_variables())

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "layer": to_json(self.inner),
            "calls": [call.to_json() for call in self.calls],
            "signatures": json.dumps(plain(self.signatures)),
            "wrapper": self.wrapper.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LegacyLayer:
        inner = from_json(config["layer"])
        calls = [Call.from_json(text) for text in config["calls"]]
        signatures = _json.loads(config["signatures"])
        _rebuild(inner, config.get("wrapper"), calls, signatures)
        layer = cls(inner, calls, signatures, name=config["name"])
        if layer.trainable != config["trainable"]:
            layer.trainable = config["trainable"]
        return layer

    def copied_inner(self) -> Any:
        """A tf_keras layer like the inner one, its weights copied; what is masked is 0."""
        copy = from_json(to_json(self.inner))
        _rebuild(copy, self.wrapper.get_config(), self.calls, self.signatures)
        wrapper = wrapper_of(copy)
        counted = (*copy.weights, *_counted(wrapper))
        for mine, theirs in zip(counted, self.weights, strict=True):
            mine.assign(theirs.value)
        wrapper.settle()
        return copy


def has_wrappers(model: keras.Model) -> bool:
    """Whether layers of a Keras 3 model are TFMOT's wrappers."""
    found = _keras.layers_of(model)
    return any(isinstance(layer, LegacyLayer) and layer.wrapper.is_one for layer in found)


def to_json(layer: Any) -> str:
    """A tf_keras layer's config, as a string that `from_json` makes a layer of.

    Raises:
      ValueError: it has none, as a subclassed model has not.
    """
    tf_keras = legacy.tf_keras()
    if isinstance(layer, tf_keras.Model) and not _keras.legacy.is_graph(layer):
        raise ValueError(
            f"{layer.name!r} ({qualified_name(layer)}) is a subclassed tf_keras model: it can't be "
            f"written into a .keras file. Use save_weights() and wrap_legacy() a new instance "
            f"before load_weights()."
        )
    config = _without_builds(plain(tf_keras.saving.serialize_keras_object(layer)))
    return OwnText(json.dumps(config))


def _without_builds(config: Any) -> Any:
    # TFMOT's layers don't note that build() was called, and would be built twice.
    if isinstance(config, list):
        return [_without_builds(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {k: _without_builds(item) for k, item in config.items() if k != "build_config"}


def from_json(text: str) -> Any:
    """The tf_keras layer of `to_json`, not built. Keras' custom objects and safe mode hold.

    Raises:
      ValueError: no config of a tf_keras layer, or, in a text from a file, something that is not
        on the closed list of classes and functions.
    """
    tf_keras, safe = legacy.tf_keras(), _keras.safe_mode()
    # As in Keras' own Lambda, unset means safe.
    foreign = not isinstance(text, OwnText) and safe is not False
    config = _json.loads(text) if foreign else json.loads(text)
    with scopes(text), _keras.legacy.safe_mode_scope(foreign or bool(safe)):
        named = closed_list.check(config) if foreign else {}
        with tf_keras.saving.custom_object_scope(named):
            layer = tf_keras.saving.deserialize_keras_object(config)
    if not isinstance(layer, tf_keras.layers.Layer):
        raise ValueError(f"Expected the config of a tf_keras layer; got {qualified_name(layer)}.")
    return layer


@contextlib.contextmanager
def scopes(text: str) -> Iterator[None]:
    """Inside, tf_keras knows what a config's text may name: ours, the user's, TFMOT's."""
    from keras_distill.edge.bridge import carried

    carried.register_all()
    with contextlib.ExitStack() as stack:
        tf_keras = legacy.tf_keras()
        custom = dict(keras.saving.get_custom_objects())
        legacy_ones = {k: v for k, v in custom.items() if not k.startswith("keras_distill>")}
        stack.enter_context(tf_keras.saving.custom_object_scope(legacy_ones))
        if "tensorflow_model_optimization" in text or "Quantize" in text or "Prune" in text:
            tfmot = legacy.tfmot()
            stack.enter_context(tfmot.quantization.keras.quantize_scope())
            stack.enter_context(tfmot.sparsity.keras.prune_scope())
            stack.enter_context(tfmot.clustering.keras.cluster_scope())
        yield


def _rebuild(layer: Any, wrapper: Any, calls: Sequence[Call], signatures: Sequence[Any]) -> None:
    if wrapper:
        wrapper_of(layer).configure(wrapper, tf.TensorShape(signatures[0][0]))
    _build(layer, calls[0] if calls else PLAIN, signatures)


def _counted(wrapper: Wrapper) -> list[Any]:
    """Variables in the place of a wrapper's own tensors, so that files have them."""
    found = []
    for table, key in list(wrapper.uncounted()):
        if not hasattr(table[key], "assign"):
            table[key] = tf.Variable(table[key], trainable=False, name=str(key))
        found.append(table[key])
    return found


def _build(inner: Any, call: Call, signatures: Sequence[Any]) -> None:
    tensors = [
        legacy.tf_keras().Input(shape=shape[1:], batch_size=shape[0], dtype=dtype)
        for shape, dtype in signatures
    ]
    args, kwargs = call.fill(packed(tensors))
    inner(*args, **kwargs)


def _policy(inner: Any) -> str:
    name = inner.dtype_policy.name
    return "float32" if name == "_infer" else name


def _dtype_name(tensor: Any) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


def _key(variable: Any) -> Any:
    return variable.ref() if hasattr(variable, "ref") else id(variable)


def _shared(variable: Any, trainable: bool) -> keras.Variable:
    made = keras.Variable(
        initializer=variable,
        trainable=trainable,
        dtype=variable.dtype.name,
        name=variable.name.partition(":")[0].replace("/", "_"),
    )
    if made.value is not variable:
        raise ValueError(f"{variable.name!r} could not be shared with Keras 3.")
    constraint = getattr(variable, "constraint", None)
    if constraint is not None:
        made.constraint = _keras.Constraint(lambda value: constraint(tf.convert_to_tensor(value)))
    return made


def _learnt(inner: Any) -> set:
    if inner.trainable:
        return {_key(variable) for variable in inner.trainable_weights}
    # A frozen layer lists none; those it had when it was built are marked.
    return {_key(variable) for variable in inner.weights if variable.trainable}


def _penalties(inner: Any) -> Iterator[tuple[Any, Any]]:
    """Each regularised variable and a function that gives its loss."""
    for layer in _keras.layers_of(inner):
        for variable, loss in _keras.legacy.penalties(layer):
            yield _key(variable), _keras.Regularizer(functools.partial(_asked, loss))


def _asked(loss: Callable[[], Any], _: Any) -> Any:
    return loss()


def _noted_losses(inner: Any) -> list:
    """What layers added in the call that just was: activity losses, their own add_loss."""
    return [loss for layer in _keras.layers_of(inner) for loss in _keras.legacy.noted_losses(layer)]
