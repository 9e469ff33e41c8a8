"""Named layers' outputs, read in the one forward pass that happens anyway.

A tapped layer's `call` is recorded while `recording` is open, in nested, subclassed, jitted and
frozen models alike, and is the layer's own again afterwards. What is recorded is thread-local, so
that replicas that run in threads do not mix.
"""

import collections
import contextlib
import dataclasses
import difflib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._pages import see
from keras_distill.functional.tensors import Tensor

__all__ = ["Tap", "find", "layer_paths", "recording"]

_state = threading.local()
_lock = threading.Lock()
_open_recorders: collections.Counter[int] = collections.Counter()


@dataclasses.dataclass(frozen=True)
class Tap:
    """A layer's output, found.

    Attributes:
      layer: whose output it is.
      call: which of the layer's calls, from 0.
      path: of the layer in the model.
      owner: of an InputLayer, which is never called, the model that is; else None.
    """

    layer: Any
    call: int
    path: str
    owner: Any = None

    @property
    def called(self) -> Any:
        """The layer whose calls tell."""
        return self.layer if self.owner is None else self.owner


def find(model: Any, tap: Any) -> Tap:
    """The layer that `tap` names in `model`.

    Args:
      model: a model of either Keras generation.
      tap: a layer object; or a name, or the end of a path `"outer/inner"`, or either with `":n"`
        for the layer's n-th call (from 0). An input of the model counts as a layer of the input's
        name. The last name of a path may leave out a number that Keras gave it:
        `"attention/softmax"` finds `attention/softmax_3` where there is no other.

    Raises:
      ValueError: no layer or more than one answers to the name, or a layer on the path
        recomputes its forward (remat), where a recorded output would carry no gradient.
    """
    layers = layer_paths(model)
    name, call = _split_call(tap)
    matches = _matches(layers, name)
    if not matches:
        raise ValueError(_not_found(model, tap, layers))
    if len(matches) > 1:
        raise ValueError(
            f"{name!r} names {len(matches)} layers of {model.name!r}: {', '.join(matches)}. "
            f"Give the path, or the layer object."
        )
    path = matches[0]
    for step in _steps(path):
        if _keras.recomputes(layers[step]):
            raise ValueError(
                f"The layer {step!r} of {model.name!r} recomputes its forward (RematScope): an "
                f"output recorded inside it has no gradient. Tap a layer outside it."
            )
    layer, parent = layers[path], layers.get(path.rpartition("/")[0], model)
    return Tap(layer, call, path, parent if _is_input(layer) else None)


@contextlib.contextmanager
def recording(taps: Sequence[Tap]) -> Iterator["Recorder"]:
    """Record the outputs of the tapped layers while open.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="inner")])
    >>> with recording([find(model, "inner")]) as recorder:
    ...     y = model(keras.ops.ones((1, 2)))
    >>> recorder.outputs(y)[0].shape
    TensorShape([1, 3])
    """
    recorder = Recorder(taps)
    outer = getattr(_state, "recorder", None)
    layers = {id(tap.called): tap.called for tap in taps}
    for layer in layers.values():
        _install(layer)
    _state.recorder = recorder
    try:
        yield recorder
    finally:
        _state.recorder = outer
        for layer in layers.values():
            _uninstall(layer)


class Recorder:
    """What the tapped layers returned, call by call."""

    def __init__(self, taps: Sequence[Tap]):
        self._taps = tuple(taps)
        self._calls: dict[int, list[Tensor]] = {id(tap.layer): [] for tap in taps}
        self._inputs: dict[int, dict[int, Any]] = {}
        for tap in taps:
            if tap.owner is not None:
                self._inputs.setdefault(id(tap.owner), {})[id(tap.layer)] = tap.layer

    def note(self, layer: Any, inputs: Tensor, outputs: Tensor) -> None:
        """Keep what `layer` was called with, if it is a model with a tapped input, and returned."""
        for key, tapped in self._inputs.get(id(layer), {}).items():
            self._calls[key].append(_input_tensor(layer, tapped, inputs))
        if id(layer) in self._calls:
            self._calls[id(layer)].append(outputs)

    def outputs(self, model_outputs: Tensor) -> list[Tensor]:
        """One tensor a tap, in order.

        Args:
          model_outputs: what the model returned in the same forward.

        Raises:
          ValueError: a tapped layer did not run, ran in a graph of its own (a `tf.function` of
            the model's, an RNN cell), or returned more than one tensor.
        """
        graph = getattr(keras.tree.flatten(model_outputs)[0], "graph", None)
        return [self.output(tap, graph) for tap in self._taps]

    def output(self, tap: Tap, graph: Any) -> Tensor:
        """What one layer gave, in the graph (None for eagerly) of the model's outputs."""
        calls = self._calls[id(tap.layer)]
        if tap.call >= len(calls):
            raise ValueError(
                f"The layer {tap.path!r} ran {len(calls)} times in the model's forward; the tap "
                f"asks for call {tap.call} (from 0). Name a layer that the model calls, and "
                f"not from within a tf.function of its own."
            )
        tensors = keras.tree.flatten(calls[tap.call])
        if len(tensors) != 1:
            raise ValueError(
                f"The layer {tap.path!r} returns {len(tensors)} tensors, and a tap reads one. "
                f"Tap a layer of one output, for instance a keras.layers.Identity behind it."
            )
        if getattr(tensors[0], "graph", None) is not graph:
            raise ValueError(
                f"The layer {tap.path!r} runs inside a graph of its own (a tf.function of the "
                f"model's, an RNN cell, a mapped function): its output can't be read from "
                f"outside. Tap a layer outside it, or drop the inner tf.function."
            )
        return tensors[0]


def _install(layer: Any) -> None:
    with _lock:
        _open_recorders[id(layer)] += 1
        if _open_recorders[id(layer)] == 1:
            # Past __setattr__, which both Keras generations use to track what a layer holds.
            layer.__dict__["call"] = _recorded(layer, layer.call, layer.__dict__.get("call"))


def _uninstall(layer: Any) -> None:
    with _lock:
        _open_recorders[id(layer)] -= 1
        if _open_recorders[id(layer)] == 0:
            del _open_recorders[id(layer)]
            own = layer.__dict__.pop("call").own_call
            if own is not None:
                layer.__dict__["call"] = own


def _recorded(layer: Any, call: Any, own_call: Any) -> Callable[..., Any]:
    @functools.wraps(call)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        recorder = getattr(_state, "recorder", None)
        if recorder is not None:
            recorder.note(layer, args[0] if args else kwargs.get("inputs"), outputs)
        return outputs

    recorded.own_call = own_call  # type: ignore[attr-defined]
    return recorded


def layer_paths(model: Any) -> dict[str, Any]:
    """The layers of a model and of the models nested in it, by path."""
    paths: dict[str, Any] = {}

    def walk(parent: Any, prefix: str, above: tuple[int, ...]) -> None:
        for layer in _children(parent):
            path = f"{prefix}{layer.name}"
            if id(layer) in above:
                continue
            paths.setdefault(path, layer)
            walk(layer, f"{path}/", (*above, id(layer)))

    walk(model, "", (id(model),))
    return paths


def _children(layer: Any) -> Sequence[Any]:
    layers = getattr(layer, "layers", None)
    if isinstance(layers, (list, tuple)):
        return [*_input_layers(layer), *layers]
    return _keras.children(layer)


def _input_layers(model: Any) -> list[Any]:
    """Where a model's graph begins, which a Sequential hides; empty for a model without a graph."""
    tensors = keras.tree.flatten(getattr(model, "inputs", None))
    histories = [_keras.history(tensor) for tensor in tensors]
    return [history[0] for history in histories if history and _is_input(history[0])]


def _is_input(layer: Any) -> bool:
    # By name, as both Keras generations call it so.
    return type(layer).__name__ == "InputLayer"


def _input_tensor(model: Any, layer: Any, inputs: Tensor) -> Tensor:
    """What an input of a model is in one call, cast and shaped as its layers get it."""
    tensors = _keras.standardized(model, inputs)
    return tensors[[id(_keras.history(tensor)[0]) for tensor in model.inputs].index(id(layer))]


def _matches(layers: dict[str, Any], name: Any) -> list[str]:
    if not isinstance(name, str):
        return [path for path, layer in layers.items() if layer is name][:1]
    if name in layers:
        return [name]
    found = {id(layers[p]): p for p in reversed(layers) if p.endswith(f"/{name}")}
    # A wrapper and the layer inside it may have one name: the wrapper's output is the model's.
    within = {p for p in found.values() if any(p.startswith(f"{q}/") for q in found.values())}
    return [p for p in reversed(found.values()) if p not in within] or _numbered(layers, name)


def _numbered(layers: dict[str, Any], path: str) -> list[str]:
    """Layers at a path but for the number that Keras gave the last, another one in every model."""
    if "/" not in path:
        return []
    pattern = re.compile(rf"(.+/)?{re.escape(path)}_\d+")
    # Keras makes a name up from the class'; a number that a user gave counts.
    kind = path.rpartition("/")[2].replace("_", "")
    made_up = [p for p, layer in layers.items() if type(layer).__name__.lower() == kind]
    return [p for p in made_up if pattern.fullmatch(p)]


def _split_call(tap: Any) -> tuple[Any, int]:
    if isinstance(tap, str) and ":" in tap:
        name, _, call = tap.rpartition(":")
        if call.isdigit():
            return name, int(call)
    return tap, 0


def _steps(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[: i + 1]) for i in range(len(parts)))


def _not_found(model: Any, tap: Any, layers: dict[str, Any]) -> str:
    if not isinstance(tap, str):
        return f"The layer object {tap.name!r} is no part of the model {model.name!r}."
    name, _ = _split_call(tap)
    last = {path.rpartition("/")[2]: path for path in layers}
    near = difflib.get_close_matches(name, layers, 3, 0.4) or [
        last[n] for n in difflib.get_close_matches(name.rpartition("/")[2], last, 3, 0.4)
    ]
    hint = f"The nearest names are {', '.join(near)}." if near else f"It has {', '.join(layers)}."
    if not _input_layers(model):
        hint += (
            " Its inputs have no names, as it is no functional model: for one of them, tap a "
            "keras.layers.Identity that the model calls on it."
        )
    return f"No layer of {model.name!r} is called {name!r}. {hint}{see('layers')}"
