"""The layers of a model that have weights, and by what they are compared with another's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill.data import no_keras3_model
from keras_distill.graph.replay import trace

# Between the kind and the number of a layer that nobody has named: no name of Keras' has it.
NUMBERED = ":"
# Their layers are taken whole; what else holds layers is taken apart.
_WHOLE = ("keras", "tf_keras", "tensorflow_model_optimization", "keras_distill")


class OwnWeights:
    """What a model or a user's layer holds besides its layers, a class token for instance.

    It stands among layers: `name`, `weights`, `trainable`; `owner` is whom the weights belong to.
    """

    built = True

    def __init__(self, owner: Any, name: str, weights: Sequence[Any]):
        self.owner = owner
        self.name = name
        self.weights = list(weights)

    @property
    def trainable(self) -> bool:
        """Whether any of them is trained; setting it leaves the owner's layers alone."""
        return any(weight.trainable for weight in self.weights)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for weight in _keras.trained_variables(self.owner):
            weight.trainable = value


class Layers(dict[str, Any]):
    """Layers by path. `places` has each one's path again, counted where Keras may have named it.

    `"block/dense_7"` is at `"block/dense:0"`, the first such Dense of a user's own layer: names
    that nobody gave differ from one copy of the layer to the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}


def weighted_layers(model: Any) -> Layers:
    """The layers of a model that have weights, by path, in the order of execution.

    Nested models and layers of a user's own that are made of layers are taken apart: their layers'
    paths are "outer/inner". A shared layer is there once. A model without a graph (subclassed, or
    of tf_keras) is walked as it holds its layers. Of layers with one path the later get "path#2".

    Args:
      model: a built model of either Keras generation.

    Raises:
      TypeError: not a model.
      ValueError: it, or one of its layers, is not built.

    >>> inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="a")], name="body")
    >>> list(weighted_layers(keras.Sequential([inner, keras.layers.Dense(1, name="b")])))
    ['body/a', 'b']
    """
    if not _is_model(model):
        raise TypeError(no_keras3_model(model, "Expected a model of Keras or tf_keras"))
    found = Layers()
    seen: set[int] = set()
    for path, place, layer in _leaves(model, "", "", not _is_graph(model)):
        held = holder_of(layer)
        if id(held) not in seen:
            seen.add(id(held))
            path = _free(path, found)
            found[path], found.places[path] = layer, place
    if not found and not model.built:
        raise ValueError(_unbuilt(f"The model {model.name!r}"))
    for path, layer in list(found.items()):
        # What a graph has not built in passing is never called.
        if not layer.built and not _is_graph(model):
            raise ValueError(_unbuilt(f"The layer {path!r} of {model.name!r}"))
        if not weights_of(layer):
            del found[path], found.places[path]
    return found


def weights_of(layer: Any) -> list[Any]:
    """A layer's weights; those of the tf_keras layer where it is a wrapped one."""
    return list(unwrapped(layer).weights)


def identity(variable: Any) -> int:
    """Of the variable beneath: two Keras variables may share one."""
    return id(variable.value if isinstance(variable, keras.Variable) else variable)


def unwrapped(layer: Any) -> Any:
    """The tf_keras layer inside what `wrap_legacy` made, whose names tell more; else the layer."""
    return layer.inner if type(layer).__name__ == "LegacyLayer" else layer


def parts_of(layer: Any) -> list[Any]:
    """A layer and all that it is made of; none of weights that are no layer's."""
    return [] if isinstance(layer, OwnWeights) else _keras.layers_of(layer)


def kind(layer: Any) -> str:
    """The class's name, equal in both Keras generations."""
    return type(holder_of(unwrapped(layer))).__name__


def holder_of(layer: Any) -> Any:
    """The layer, or whom its `OwnWeights` belong to."""
    return layer.owner if isinstance(layer, OwnWeights) else layer


def _leaves(holder: Any, prefix: str, place: str, inside: bool) -> Iterator[tuple[str, str, Any]]:
    """Every layer that is taken whole, with its path and its place, once for each call.

    `inside` says whether what holds it is no graph, so that nobody need have named it.
    """
    own = _keras.own_variables(holder)
    if own:
        path, there = prefix.rstrip("/"), place.rstrip("/")
        whole = "(the model's own)"
        yield path or whole, there or whole, OwnWeights(holder, path.rpartition("/")[2], own)
    unnamed: Counter[str] = Counter()
    for path, part in _parts(holder, prefix):
        if not hasattr(part, "weights"):
            continue  # An operation, no layer.
        name = path.removeprefix(prefix)
        if inside and (kind_name := _kind_in_name(part)):
            name = f"{kind_name}{NUMBERED}{unnamed[kind_name]}"
            unnamed[kind_name] += 1
        if _is_whole(part):
            yield path, f"{place}{name}", part
        else:
            below = inside or not _is_graph(part)
            yield from _leaves(part, f"{path}/", f"{place}{name}/", below)


def _kind_in_name(layer: Any) -> str | None:
    """`dense` of a Dense called `dense_7`, as both Keras generations name; None of another name."""
    kind_name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    kind_name = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind_name).lower()
    return kind_name if re.fullmatch(rf"{re.escape(kind_name)}(_\d+)?", layer.name) else None


def _parts(holder: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if _has_graph(holder):
        yield from ((f"{prefix}{step.path}", step.operation) for step in trace(holder).steps)
        return
    layers = getattr(holder, "layers", None) if _is_model(holder) else None
    if layers is None:
        layers = _keras.children(holder)
    yield from ((f"{prefix}{layer.name}", layer) for layer in layers)


def _has_graph(model: Any) -> bool:
    if isinstance(model, keras.Sequential):
        return _keras.sequential_graph(model) is not None
    return isinstance(model, Functional)


def _is_graph(model: Any) -> bool:
    """As `_has_graph`, of either Keras generation."""
    return _has_graph(model) or _keras.legacy.is_graph(model)


def _is_model(value: Any) -> bool:
    # Either generation's: only models have it, and tf_keras is not to be imported here.
    return callable(getattr(value, "get_layer", None))


def _is_whole(layer: Any) -> bool:
    if _is_model(layer):
        return False
    if type(layer).__module__.partition(".")[0] in _WHOLE:
        return True
    return not _keras.children(layer)


def _free(path: str, taken: Mapping[str, Any]) -> str:
    number = 2
    free = path
    while free in taken:
        free = f"{path}#{number}"
        number += 1
    return free


def _unbuilt(what: str) -> str:
    return (
        f"{what} is not built and has no weights yet. Call the model once on a batch, or give it "
        f"its input shape."
    )
