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
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import keras

__all__ = ["Tap", "find", "recording"]

_state = threading.local()
_lock = threading.Lock()
_open_recorders: collections.Counter = collections.Counter()


@dataclasses.dataclass(frozen=True)
class Tap:
    """A layer's output, found: the layer, which of its calls, and its path in the model."""

    layer: Any
    call: int
    path: str


def find(model: Any, tap: Any) -> Tap:
    """The layer that `tap` names in `model`.

    Args:
      model: a model of either Keras generation.
      tap: a layer object; or a name, or the end of a path `"outer/inner"`, or either with `":n"`
        for the layer's n-th call (from 0).

    Raises:
      ValueError: no layer or more than one answers to the name, or a layer on the path
        recomputes its forward (remat), where a recorded output would carry no gradient.
    """
    layers = _layer_paths(model)
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
        if getattr(layers[step], "_remat_mode", None) is not None:
            raise ValueError(
                f"The layer {step!r} of {model.name!r} recomputes its forward (RematScope): an "
                f"output recorded inside it has no gradient. Tap a layer outside it."
            )
    return Tap(layers[path], call, path)


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
    layers = {id(tap.layer): tap.layer for tap in taps}
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
        self._calls: dict[int, list] = {id(tap.layer): [] for tap in taps}

    def note(self, layer: Any, outputs: Any) -> None:
        """Keep what `layer` returned, if it is tapped."""
        if id(layer) in self._calls:
            self._calls[id(layer)].append(outputs)

    def outputs(self, model_outputs: Any) -> list:
        """One tensor a tap, in order.

        Args:
          model_outputs: what the model returned in the same forward.

        Raises:
          ValueError: a tapped layer did not run, ran in a graph of its own (a `tf.function` of
            the model's, an RNN cell), or returned more than one tensor.
        """
        graph = getattr(keras.tree.flatten(model_outputs)[0], "graph", None)
        return [self._output(tap, graph) for tap in self._taps]

    def _output(self, tap: Tap, graph: Any):
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


def _recorded(layer: Any, call: Any, own_call: Any):
    @functools.wraps(call)
    def recorded(*args, **kwargs):
        outputs = call(*args, **kwargs)
        recorder = getattr(_state, "recorder", None)
        if recorder is not None:
            recorder.note(layer, outputs)
        return outputs

    recorded.own_call = own_call  # type: ignore[attr-defined]
    return recorded


def _layer_paths(model: Any) -> dict[str, Any]:
    paths: dict[str, Any] = {}

    def walk(parent: Any, prefix: str, above: tuple) -> None:
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
        return layers
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _matches(layers: dict[str, Any], name: Any) -> list[str]:
    if not isinstance(name, str):
        return [path for path, layer in layers.items() if layer is name][:1]
    if name in layers:
        return [name]
    found = {id(layers[p]): p for p in reversed(layers) if p.endswith(f"/{name}")}
    # A wrapper and the layer inside it may have one name: the wrapper's output is the model's.
    within = {p for p in found.values() if any(p.startswith(f"{q}/") for q in found.values())}
    return [p for p in reversed(found.values()) if p not in within]


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
    return f"No layer of {model.name!r} is called {name!r}. {hint}"
