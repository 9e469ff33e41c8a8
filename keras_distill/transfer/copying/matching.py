"""Which layer of the student takes over from which layer of the teacher."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._keras import Functional

from ...data import qualified_name
from ...graph.replay import trace

BY_NAME, BY_ORDER = "name", "order"
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
        for weight in self.owner._trainable_variables:
            weight.trainable = value


def weighted_layers(model: Any) -> dict[str, Any]:
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
        raise TypeError(
            f"Expected a model of Keras or tf_keras; got {qualified_name(model)}. Give the model "
            f"itself, not what stands for it."
        )
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for path, layer in _leaves(model, ""):
        held = holder_of(layer)
        if id(held) not in seen:
            seen.add(id(held))
            found[_free(path, found)] = layer
    if not found and not model.built:
        raise ValueError(_unbuilt(f"The model {model.name!r}"))
    for path, layer in found.items():
        if not layer.built:
            raise ValueError(_unbuilt(f"The layer {path!r} of {model.name!r}"))
    return {path: layer for path, layer in found.items() if weights_of(layer)}


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
    return [] if isinstance(layer, OwnWeights) else list(_keras.layers_of(layer))


def kind(layer: Any) -> str:
    """The class's name, equal in both Keras generations."""
    return type(holder_of(unwrapped(layer))).__name__


def holder_of(layer: Any) -> Any:
    """The layer, or whom its `OwnWeights` belong to."""
    return layer.owner if isinstance(layer, OwnWeights) else layer


def match(
    teacher_layers: Mapping[str, Any], student_layers: Mapping[str, Any], mapping: Any
) -> dict[str, str]:
    """Finds for each layer of the student its partner in the teacher. Shapes are not looked at.

    Args:
      teacher_layers, student_layers: as `weighted_layers` gives them.
      mapping: "name": of equal path, else of a last name that is unique on both sides; "order": the
        i-th of each class with the i-th; or a mapping from student layers to teacher layers, each a
        path, the end of one, or the layer.

    Returns:
      The teacher's path by the student's, one to one, in the student's order.

    Raises:
      TypeError: `mapping` is none of these.
      ValueError: it names a layer that is not there, or one layer twice.

    >>> layers = {"a/conv": keras.layers.Conv2D(2, 3), "a/out": keras.layers.Dense(2)}
    >>> match(layers, {"b/conv": layers["a/conv"]}, "name")
    {'b/conv': 'a/conv'}
    """
    if isinstance(mapping, Mapping):
        pairs = _by_map(teacher_layers, student_layers, mapping)
    elif mapping == BY_NAME:
        pairs = _by_name(teacher_layers, student_layers)
    elif mapping == BY_ORDER:
        pairs = _by_order(teacher_layers, student_layers)
    else:
        error = ValueError if isinstance(mapping, str) else TypeError
        raise error(
            f'mapping is "name", "order" or a dict of student layers to teacher layers; got '
            f"{mapping!r}."
        )
    return {path: pairs[path] for path in student_layers if path in pairs}


def find(layers: Mapping[str, Any], asked: Any, whose: str) -> str:
    """The path of the one layer that `asked` names: a path, the end of one, or the layer.

    Args:
      layers: as `weighted_layers` gives them.
      asked: what the user wrote.
      whose: "student" or "teacher", for the error.

    Raises:
      ValueError: none or several answer to it.
    """
    hits = _hits(layers, asked)
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise ValueError(
            f"{asked!r} names {len(hits)} layers of the {whose}: {', '.join(hits)}. Give the path."
        )
    raise ValueError(_missing(layers, asked, whose))


def find_all(layers: Mapping[str, Any], asked: Any, whose: str) -> list[str]:
    """As `find`, and where `asked` is a nested model or its name, the paths of all in it."""
    if isinstance(asked, str):
        inside = [path for path in layers if f"/{asked}/" in f"/{path}"]
    else:
        parts = {id(part) for part in parts_of(asked)} if hasattr(asked, "weights") else set()
        inside = [path for path, layer in layers.items() if id(holder_of(layer)) in parts]
    if not inside or asked in layers:
        return [find(layers, asked, whose)]
    return inside


def _missing(layers: Mapping[str, Any], asked: Any, whose: str) -> str:
    name = asked if isinstance(asked, str) else getattr(asked, "name", str(asked))
    last = {path.rpartition("/")[2]: path for path in layers}
    near = difflib.get_close_matches(name, layers, 3, 0.4) or [
        last[close] for close in difflib.get_close_matches(name.rpartition("/")[2], last, 3, 0.4)
    ]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"The {whose} has no layer with weights called {name!r}.{hint} Its layers with weights are "
        f"{', '.join(layers)}."
    )


def _hits(layers: Mapping[str, Any], asked: Any) -> list[str]:
    if not isinstance(asked, str):
        return [path for path, layer in layers.items() if layer is asked]
    if asked in layers:
        return [asked]
    return [path for path in layers if path.endswith(f"/{asked}")]


def _by_name(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> dict[str, str]:
    pairs = {path: path for path in student if path in teacher}
    theirs, mine = _unique_last_names(teacher), _unique_last_names(student)
    for name, path in mine.items():
        if path not in pairs and name in theirs and theirs[name] not in pairs.values():
            pairs[path] = theirs[name]
    return pairs


def _unique_last_names(layers: Mapping[str, Any]) -> dict[str, str]:
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for path in layers:
        paths[path.rpartition("/")[2]].append(path)
    return {name: found[0] for name, found in paths.items() if len(found) == 1}


def _by_order(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> dict[str, str]:
    queues: defaultdict[str, list[str]] = defaultdict(list)
    for path, layer in teacher.items():
        queues[kind(layer)].append(path)
    pairs: dict[str, str] = {}
    for path, layer in student.items():
        if queue := queues[kind(layer)]:
            pairs[path] = queue.pop(0)
    return pairs


def _by_map(
    teacher: Mapping[str, Any], student: Mapping[str, Any], mapping: Mapping[Any, Any]
) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for mine, theirs in mapping.items():
        target, source = find(student, mine, "student"), find(teacher, theirs, "teacher")
        if target in pairs:
            raise ValueError(
                f"The mapping names the student's layer {target!r} twice, for the teacher's "
                f"{pairs[target]!r} and {source!r}. One layer takes over from one."
            )
        if source in pairs.values():
            other = next(path for path, taken in pairs.items() if taken == source)
            raise ValueError(
                f"The mapping is many-to-one: the teacher's layer {source!r} is given to "
                f"{other!r} and {target!r}. Give each student layer a teacher layer of its own."
            )
        pairs[target] = source
    return pairs


def _leaves(holder: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every layer that is taken whole, with its path, once for each call."""
    own = _own_weights(holder)
    if own:
        path = prefix.rstrip("/") or "(the model's own)"
        yield path, OwnWeights(holder, path.rpartition("/")[2], own)
    for path, part in _parts(holder, prefix):
        if not hasattr(part, "weights"):
            continue  # An operation, no layer.
        if _is_whole(part):
            yield path, part
        else:
            yield from _leaves(part, f"{path}/")


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


def _is_model(value: Any) -> bool:
    # Either generation's: only models have it, and tf_keras is not to be imported here.
    return callable(getattr(value, "get_layer", None))


def _is_whole(layer: Any) -> bool:
    if _is_model(layer):
        return False
    if type(layer).__module__.partition(".")[0] in _WHOLE:
        return True
    return not any(True for _ in _keras.children(layer))


def _own_weights(holder: Any) -> list[Any]:
    if isinstance(holder, keras.layers.Layer):
        return _keras.own_variables(holder)
    return holder._trainable_weights + holder._non_trainable_weights


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
