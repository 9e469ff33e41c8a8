"""A Keras 3 layer around one of the user's own, computing as the deployed file will."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge.compress.repaired import Repaired
from keras_distill.edge.compress.treatment import Treatment
from keras_distill.graph.copying import weight_at, weight_paths
from keras_distill.graph.remaking import (
    build_by_call,
    builds_by_call,
    call_config,
    call_of_config,
    remaking,
)
from keras_distill.graph.replay import Graph, Step
from keras_distill.graph.wrapping import Wrapping, inner

__all__ = ["Compressed", "exporting", "inner", "is_exporting"]

_state = threading.local()


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Inside, compressed layers trace what goes into the file: weights as finished constants."""
    outer, _state.exporting = is_exporting(), True
    try:
        yield
    finally:
        _state.exporting = outer


def is_exporting() -> bool:
    """Whether this thread is tracing a model for export."""
    return getattr(_state, "exporting", False)


@keras.saving.register_keras_serializable("keras_distill")
class Compressed(Wrapping):
    """The layer `layer` under its own name, its weights seen through treatments.

    Args:
      layer: a built Keras 3 layer, or a node's `keras.Operation`, which has no weights.
      treatments: by the weight's path inside `layer` (`"kernel"`, `"forward_layer/cell/kernel"`),
        the `Treatment`s in the order of their application.

    Attributes:
      repaired: what a repair has left here, or None.
      detour: on the way to a file, what is done to each tensor that `layer` reads; or None.
    """

    repaired: Repaired | None = None
    detour: Callable[[Any], Any] | None = None

    def __init__(
        self,
        layer: Any,
        treatments: Mapping[str, Sequence[Treatment]] | None = None,
        *,
        name: str | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("dtype", getattr(layer, "dtype_policy", None))
        super().__init__(name=name or layer.name, **kwargs)
        self.layer = layer
        # Where the inner layer lets a mask fall, it says so itself.
        self.supports_masking = True
        _keras.take_call_protocol(self, layer)
        self.treatments = {key: list(chain) for key, chain in (treatments or {}).items()}
        # Past __setattr__: Keras would track the inner layer's variables a second time.
        self.__dict__["_treated"] = {key: weight_at(layer, key) for key in self.treatments}
        self.__dict__["_own_constraints"] = {k: v.constraint for k, v in self._treated.items()}
        for key, chain in self.treatments.items():
            for treatment in chain:
                prefix = f"{key}_{type(treatment).__name__.lower()}"
                treatment.build(self, self._treated[key], prefix)
            own = self._treated[key].constraint
            steps = [*([] if own is None else [own]), *(one.constrain for one in chain)]
            constrain = functools.partial(_in_turn, steps)
            self._treated[key].constraint = _keras.Constraint(constrain)
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The inner layer's answer on the treated weights."""
        args = self.entered(args)
        if not self.treatments:
            return self.layer(*args, **kwargs)
        with self._swapped(self.treated_weights()):
            return self.layer(*args, **kwargs)

    def entered(self, args: Any) -> Any:
        """What the inner layer reads."""
        return args if self.detour is None else keras.tree.map_structure(self.detour, args)

    def treated_weights(self) -> dict[str, Any]:
        """The weights as the layer sees them; constants while a file is being traced."""
        if not is_exporting():
            return {key: self.treated(key) for key in self.treatments}
        with tf.init_scope():
            finished = {key: self.treated(key).numpy() for key in self.treatments}
        return {key: tf.constant(value) for key, value in finished.items()}

    def treated(self, key: str) -> Any:
        """One of them, by its path."""
        value = tf.convert_to_tensor(self._treated[key].value)
        for treatment in self.treatments[key]:
            value = treatment(value)
        return value

    @contextlib.contextmanager
    def _swapped(self, values: Mapping[str, Any]) -> Iterator[None]:
        """The inner layer's variables read as `values`; what it assigns meanwhile is kept."""
        mapping = [(weight_at(self.layer, key), value) for key, value in values.items()]
        swapped = {id(variable) for variable, _ in mapping}
        scope = keras.StatelessScope(mapping, collect_losses=True, initialize_variables=False)
        with scope:
            yield
        for variable in self.layer.variables:
            new = scope.get_current_value(variable)
            if new is not None and id(variable) not in swapped:
                variable.assign(new)
        for loss in scope.losses:
            self.add_loss(loss)

    def around(self, layer: Any) -> Compressed:
        """This wrapper, around another layer that computes the same."""
        self.layer = layer
        _keras.take_call_protocol(self, layer)
        return self

    def fresh_treatments(self) -> dict[str, list[Treatment]]:
        """The treatments again, without their state: a layer's treatments belong to it alone."""
        return {
            key: [type(one).from_config(one.get_config()) for one in chain]
            for key, chain in self.treatments.items()
        }

    def take_state(self, other: Compressed) -> None:
        """The state of another layer's treatments, where this one has them too, in their order."""
        for path, chain in other.treatments.items():
            ours = list(self.treatments.get(path, ()))
            for theirs in chain:
                mine = next((one for one in ours if type(one) is type(theirs)), None)
                if mine is not None:
                    ours.remove(mine)
                    for variable, value in zip(mine.state, theirs.state, strict=True):
                        variable.assign(value)

    def release(self) -> Any:
        """The layer inside, its weights as they are and its own constraints back."""
        for key, variable in self._treated.items():
            variable.constraint = self._own_constraints[key]
        return self.layer

    def stripped(self) -> Any:
        """The layer inside, its treated weights written into it and its own constraints back.

        The layer is taken out: nothing can be done with this wrapper afterwards.
        """
        for key, value in self.treated_weights().items():
            self._treated[key].assign(value)
        return self.release()

    def finished(self) -> Any:
        """The layer inside, its treated weights written into it; it stays in this wrapper."""
        layer = Compressed.stripped(self)
        self.treatments = {}
        return layer

    def connect(self, graph: Graph, steps: Sequence[Step]) -> None:
        """Called by a model when it is made, with its graph and all calls of the layer in it."""

    def after_update(self, iterations: Any) -> None:
        """Called by train steps after each update of the optimiser, in the graph."""
        for key, chain in self.treatments.items():
            for treatment in chain:
                treatment.after_update(self._treated[key], iterations)

    def count_params(self) -> int:
        """The inner layer's: its wrapper's own numbers are not deployed."""
        return self.layer.count_params() if isinstance(self.layer, keras.layers.Layer) else 0

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """The inner layer's."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The inner layer's; an operation hands no mask on."""
        if getattr(self.layer, "supports_masking", False):
            return self.layer.compute_mask(inputs, previous_mask)
        return None

    def get_config(self) -> dict[str, Any]:
        """The inner layer, what builds it, its weights' paths, and each treatment's config."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "layer": serialize(self.layer),
            **self._own_config(),
            "treatments": {
                key: [serialize(treatment) for treatment in chain]
                for key, chain in self.treatments.items()
            },
        }

    def _own_config(self) -> dict[str, Any]:
        """What a layer of the user's own needs beside its config: its weights' paths, a call."""
        if not builds_by_call(self.layer):
            return {}
        call = call_config(_keras.first_call(self))
        return {"weights": list(weight_paths(self.layer)), "called_on": call}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Compressed:
        """Inner layer first: its build config comes with it."""
        config = dict(config)
        config.update(cls.revived(config, custom_objects))
        return cls(**config)

    @staticmethod
    def revived(config: dict[str, Any], custom_objects: Any = None) -> dict[str, Any]:
        """The objects inside a config, deserialised; what serves that alone is taken out of it."""

        def revive(value: Any) -> Any:
            return keras.saving.deserialize_keras_object(value, custom_objects)

        with remaking(config["layer"]["config"].get("dtype")):
            layer = revive(config["layer"])
        build_by_call(layer, call_of_config(config.pop("called_on", None)))
        # What names no layer inside or weight gets another name each time it is made.
        now = dict(zip(config.pop("weights", ()), weight_paths(layer), strict=False))
        treatments = {
            now.get(key, key): [revive(treatment) for treatment in chain]
            for key, chain in config["treatments"].items()
        }
        return {"layer": layer, "treatments": treatments}

    def get_build_config(self) -> None:
        """None: it is built from its parts."""


def _in_turn(steps: Sequence[Callable[[Any], Any]], value: Any) -> Any:
    for step in steps:
        value = step(value)
    return value
