"""Which layer of a Keras model each tensor of its .tflite is.

The converter names a tensor after operations of the graph it was given, so the model is traced
again, under the same names. A fused tensor bears the name of some of its operations only (a
convolution's where a BatchNormalization was folded into it), so the graph is followed from there
to the next tensor that the file names.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.edge.compress.layer import exporting
from keras_distill.edge.interface import Interface
from keras_distill.graph import replay
from keras_distill.graph.wrapping import Wrapping
from keras_distill.litert.kept_run import WrittenTensor
from keras_distill.litert.quiet import quiet_tensorflow
from keras_distill.signals import taps

_ACTIVATIONS = {
    *("Relu", "Relu6", "Minimum", "Maximum", "Identity"),
    *("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel"),
}
# What the converter folds into the weights of the operation before it.
_ARITHMETIC = {"BiasAdd", "Add", "AddV2", "Sub", "Mul", "RealDiv", "FusedBatchNormV3"}
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED"}
# IdentityN stands where an activation has a gradient of its own, as swish.
_VIEWS = {"Squeeze", "ExpandDims", "Reshape", "IdentityN"}


@dataclass(frozen=True)
class Match:
    """A tensor of the file and the layers, by index, that it may be the output of.

    The last is the likeliest: the others were probably folded into it. `sure` where an operation
    of the model bears the tensor's name, not a name scope alone.
    """

    tensor: int
    layers: tuple[int, ...]
    sure: bool


class LayerTrace:
    """A model traced once: the outputs of all its layers and operations, by path.

    Attributes:
      paths: where each output comes from; a layer's later calls are `path:1`, `path:2`.
      outputs: the operation that makes each of the model's outputs, in the interface's order.
    """

    def __init__(self, model: keras.Model, interface: Interface, batch: int | None):
        found = _every_tap(model)
        specs = [tf.TensorSpec((batch, *s.shape[1:]), s.dtype) for s in interface.specs.values()]
        self._batch = batch
        self.paths: list[str] = []
        self.outputs: list[Any] = []
        self._made: list[Any] = []
        self._body: dict[str, Any] = {}

        def forward(*inputs):
            with taps.recording(found) as recorder:
                outputs = interface.call(dict(zip(interface.specs, inputs, strict=True)))
            return self._keep(found, recorder, list(outputs.values()))

        # As the export traces: a quantised model's ranges have operations there.
        with exporting(), quiet_tensorflow():
            self._function = tf.function(forward).get_concrete_function(*specs)
        self._index = {op.name: i for i, op in enumerate(self._made)}
        order = {name: place for place, name in enumerate(self._body)}
        self._place = [order[op.name] for op in self._made]
        self._scopes = {
            scope: index
            for index, op in enumerate(self._made)
            if (scope := _scope(op.name, self.paths[index]))
        }
        self._on_data = _reached(self._body, self._function.inputs)

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, one a path, for the inputs in the interface's order."""
        tensors = [
            tf.cast(array, given.dtype)
            for array, given in zip(arrays, self._function.inputs, strict=False)
        ]
        return [np.asarray(value) for value in self._function(*tensors)]

    def _keep(self, found: list[taps.Tap], recorder: taps.Recorder, outputs: list[Any]) -> list:
        graph = outputs[0].graph
        # The interface puts an Identity behind each output.
        self.outputs = [tensor.op.inputs[0].op for tensor in outputs]
        made: dict[str, tuple[str, Any]] = {}
        for tap in found:
            for path, tensor in _calls(recorder, tap, graph):
                made.setdefault(tensor.name, (path, tensor))
        self.paths = [path for path, _ in made.values()]
        self._made = [tensor.op for _, tensor in made.values()]
        self._body = {op.name: op for op in graph.get_operations()}
        return [tensor for _, tensor in made.values()]

    def matches(self, tensors: Sequence[WrittenTensor]) -> list[Match]:
        """What each tensor of the file may be, by name and shape; those that are nothing left out.

        Args:
          tensors: the outputs of the file's operations, in its order.
        """
        claimed = {op.name for tensor in tensors for op in self._named(tensor.info.name)}
        found = []
        for tensor in tensors:
            starts = self._starts(tensor)
            layers = {i for op in starts for i in self._fused(op, tensor, claimed)}
            if not starts:
                layers = set(self._namesakes(tensor.info.name))
            fitting = [layer for layer in layers if self._fits(tensor, layer)]
            if fitting:
                order = tuple(sorted(fitting, key=lambda layer: self._place[layer]))
                found.append(Match(tensor.index, order, bool(starts)))
        return found

    def knows(self, tensors: Sequence[WrittenTensor]) -> bool:
        """Whether the file speaks of this model at all: outputs match by their place alone."""
        inner = [tensor.info.name for tensor in tensors if tensor.output is None]
        return not inner or any(self._named(name) or self._namesakes(name) for name in inner)

    def _starts(self, tensor: WrittenTensor) -> list[Any]:
        if tensor.output is not None and tensor.output < len(self.outputs):
            return [self.outputs[tensor.output]]
        return self._named(tensor.info.name)

    def _named(self, name: str) -> list[Any]:
        return [self._body[spelled] for spelled in _spellings(name) if spelled in self._body]

    def _fused(self, operation: Any, tensor: WrittenTensor, claimed: set[str]) -> list[int]:
        """The layers that end in `operation` or in what was folded into it."""
        foldable = _ACTIVATIONS | (_ARITHMETIC if tensor.op in _WEIGHTED else set())
        names = [op.name for op in self._chain(operation, foldable, claimed)]
        return [self._index[name] for name in names if name in self._index]

    def _fits(self, tensor: WrittenTensor, layer: int) -> bool:
        """Equal shapes; what was one-dimensional runs in two, with a size of 1 put in."""
        ours, theirs = (
            [size for size in shape[1:] if size != 1]
            for shape in (tensor.info.shape, self._made[layer].outputs[0].shape)
        )
        return tensor.info.shape[:1] == (self._batch or 1,) and ours == theirs

    def _namesakes(self, name: str) -> list[int]:
        """The layers in whose name scope a tensor lies, the innermost scope's."""
        for part in _parts(name):
            scopes = _scopes(part)
            known = [self._scopes[scope] for scope in scopes if scope in self._scopes]
            if known:
                return known[:1]
            for scope in scopes:
                found = [i for i, path in enumerate(self.paths) if _ends(scope, path)]
                if found:
                    return found
        return []

    def _chain(self, operation: Any, foldable: set[str], claimed: set[str]) -> Iterator[Any]:
        yield operation
        while (reader := self._only_reader(operation)) is not None:
            view = reader.type in _VIEWS and self._owner(reader) == self._owner(operation)
            others = [x.op for x in reader.inputs if x.op is not operation]
            folded = reader.type in foldable and not any(op.name in self._on_data for op in others)
            # A fake quantisation is a tensor's range, whatever other name the converter adds it to.
            taken = reader.name in claimed and not reader.type.startswith("FakeQuant")
            if not view and (not folded or taken):
                return
            operation = reader
            yield operation

    def _only_reader(self, operation: Any) -> Any:
        readers = self._readers(operation)
        # Custom gradients leave copies behind that nobody reads.
        read = [op for op in readers if op.name in self._index or self._readers(op)]
        return read[0] if len(read) == 1 else None

    def _readers(self, operation: Any) -> list[Any]:
        found = [reader for tensor in operation.outputs for reader in tensor.consumers()]
        known = {op.name: op for op in found if op.name in self._body and op.type != "Shape"}
        return list(known.values())

    def _owner(self, operation: Any) -> str:
        return next((scope for scope in _scopes(operation.name) if scope in self._scopes), "")


def _every_tap(model: keras.Model) -> list[taps.Tap]:
    """All layers and the operations that are no layers; for one tensor, the first counts."""
    layers = taps.layer_paths(model)
    # A nested model's output is its last layer's, which says more; a wrapper's says as much.
    named = [path for path in layers if not _is_wrapped(path, layers)]
    order = sorted(named, key=lambda p: (isinstance(layers[p], keras.Model), p.count("/")))
    found = [taps.Tap(layers[path], 0, path) for path in order]
    try:
        steps = replay.trace(model).steps
    except ValueError:  # Subclassed: no graph to walk.
        return found
    plain = {id(s.operation): s for s in steps if not isinstance(s.operation, keras.Layer)}
    return found + [taps.Tap(step.operation, 0, step.path) for step in plain.values()]


def _is_wrapped(path: str, layers: Mapping[str, Any]) -> bool:
    """Whether it is what a wrapper of the same name has inside."""
    parent = layers.get(path.rpartition("/")[0])
    return isinstance(parent, Wrapping) and parent.layer is layers[path]


def _calls(recorder: taps.Recorder, tap: taps.Tap, graph: Any) -> Iterator[tuple[str, Any]]:
    for call in itertools.count():
        try:
            tensor = recorder.output(dataclasses.replace(tap, call=call), graph)
        except ValueError:  # No further call, or nothing that a graph outside it can read.
            return
        yield (f"{tap.path}:{call}" if call else tap.path), tensor


def _reached(body: dict[str, Any], inputs: Sequence[Any]) -> set[str]:
    """The names of the operations that depend on the inputs, not on weights alone."""
    found = {tensor.op.name for tensor in inputs if tensor.dtype != tf.resource}
    for op in body.values():  # In the order of creation: what an operation reads comes first.
        if any(tensor.op.name in found for tensor in op.inputs):
            found.add(op.name)
    return found


def _parts(name: str) -> list[str]:
    return [part for part in name.split(";") if part]


def _spellings(name: str) -> Iterator[str]:
    """Each name that the converter joined, and what it may have numbered to make it unique.

    >>> list(_spellings("a/Relu;b/convolution1"))
    ['a/Relu', 'b/convolution1', 'b/convolution']
    """
    for part in _parts(name):
        yield part
        while part[-1:].isdigit():
            part = part[:-1]
            yield part


def _scopes(operation: str) -> list[str]:
    """The name scopes that an operation lies in, the innermost first.

    >>> _scopes("model/dense/BiasAdd")
    ['model/dense', 'model']
    """
    folders = operation.split("/")[:-1]
    return ["/".join(folders[:depth]) for depth in range(len(folders), 0, -1)]


def _scope(operation: str, path: str) -> str | None:
    """The name scope of the layer at `path`, read from the name of its output's operation."""
    return next((scope for scope in _scopes(operation) if _ends(scope, path)), None)


def _ends(scope: str, path: str) -> bool:
    """Whether a scope ends in a layer's path; TensorFlow numbers scopes of one name.

    >>> _ends("model_1/body_1/conv_2", "body/conv"), _ends("model_1/conv_2", "body/conv")
    (True, False)
    """
    steps = path.partition(":")[0].split("/")
    tail = scope.split("/")[-len(steps) :]
    return len(tail) == len(steps) and all(
        re.fullmatch(rf"{re.escape(step)}(_\d+)?", folder)
        for step, folder in zip(steps, tail, strict=True)
    )
