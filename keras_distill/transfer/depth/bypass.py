"""A model's copy without some of its calls: who read a left-out one's output reads its input."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill.graph.copying import copy_of, copy_variables, input_like, rebuild, weight_paths
from keras_distill.graph.remaking import build_by_call, from_own_config, without_build
from keras_distill.graph.replay import functional, trace
from keras_distill.transfer.depth.wires import (
    Wire,
    check_found,
    check_shapes,
    distinct,
    is_merge,
    mend,
    misfit,
    shapes,
    sources,
    union,
)
from keras_distill.transfer.report import COPIED, INITIALISED, LEFT, TransferRow


def without(
    teacher: Any, left_out: frozenset[int], *, name: str, seed: int, why: Mapping[str, str]
) -> tuple[Any, list[TransferRow]]:
    """A copy of `teacher` without the calls at these places, bypassed.

    Args:
      teacher: a built Functional or Sequential model. It is not changed.
      left_out: places in `trace(teacher).steps`.
      name: the copy's.
      seed: for the layers that have to be made anew.
      why: by a layer's path, what its row is to say.

    Returns:
      The copy, and a row for each layer with weights or left out.

    Raises:
      ValueError: what is left does not fit together, or no longer makes the teacher's outputs.
    """
    with _own_random_state():
        return _Bypass(teacher, left_out, seed, why).build(name)


@contextlib.contextmanager
def _own_random_state() -> Iterator[None]:
    """Leaves Python's generator as it was: Keras draws the seeds of new layers from it."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


class _Bypass:
    """One walk through the teacher, and what has been made on it."""

    def __init__(
        self, teacher: Any, left_out: frozenset[int], seed: int, why: Mapping[str, str]
    ) -> None:
        self._teacher = teacher
        self._source = functional(teacher)
        self._left_out = left_out
        self._seed = seed
        self._why = why
        self._place = 0
        self._made: dict[int, Any] = {}
        self._renaming: dict[str, Any] = {}
        self._names = {operation.name for operation in self._source.operations}
        self._rows: dict[str, TransferRow] = {}

    def build(self, name: str) -> tuple[Any, list[TransferRow]]:
        source = self._source
        inputs = [input_like(tensor, tensor.shape) for tensor in source.inputs]
        wires = self._run(source, [Wire(tensor) for tensor in inputs], "")
        pairs = zip(source.outputs, wires, strict=True)
        outputs = [self._named_output(tensor, wire) for tensor, wire in pairs]
        student = Functional(
            keras.tree.pack_sequence_as(_keras.input_structure(source), inputs),
            keras.tree.pack_sequence_as(_keras.output_structure(source), outputs),
            name=name,
        )
        if not self._teacher.trainable:
            student.trainable = False
        self._check_inputs(student)
        return student, self._reached(student)

    def _run(self, model: Functional, wires: Sequence[Wire], prefix: str) -> list[Wire]:
        found = {id(tensor): wire for tensor, wire in zip(model.inputs, wires, strict=True)}
        for node in _keras.nodes(model):
            path = f"{prefix}{node.operation.name}"
            read = [found[id(tensor)] for tensor in node.input_tensors]
            nested = isinstance(node.operation, (keras.Sequential, Functional))
            made = (self._nested if nested else self._step)(node, read, path)
            found.update({id(x): wire for x, wire in zip(node.outputs, made, strict=True)})
        return [found[id(tensor)] for tensor in model.outputs]

    def _nested(self, node: Any, read: Sequence[Wire], path: str) -> list[Wire]:
        """A nested model copied whole where all of it stays as it is, else taken apart."""
        places = range(self._place, self._place + len(trace(node.operation).steps))
        if not self._left_out.isdisjoint(places) or _is_changed(node, read):
            inside = functional(node.operation)
            return self._run(inside, read[: len(inside.inputs)], f"{path}/")
        self._place = places.stop
        if id(node.operation) not in self._made:
            self._made[id(node.operation)] = self._whole(node.operation, path)
        return self._called(node, read, path)

    def _whole(self, model: Any, path: str) -> Any:
        def substitute(inner: str, operation: Any) -> Any:
            return self._copied(operation, f"{path}/{inner}", f"{name}/{inner}")

        name = self._free_name(model.name, path)
        whole = rebuild(model, substitute, anew=lambda _: True)
        whole.name = name
        return whole

    def _step(self, node: Any, read: Sequence[Wire], path: str) -> list[Wire]:
        place, self._place = self._place, self._place + 1
        if place in self._left_out:
            return self._bypassed(node, read, path)
        if is_merge(node):
            return self._merged(node, read, path)
        return self._kept(node, read, path)

    def _bypassed(self, node: Any, read: Sequence[Wire], path: str) -> list[Wire]:
        if id(node.operation) not in self._made:
            self._rows.setdefault(path, TransferRow(path, LEFT, path, "left out"))
        first, shape = node.input_tensors[0], node.outputs[0].shape
        several = len({id(wire.tensor) for wire in read}) > 1
        if several and (is_merge(node) or first.shape != shape):
            check_found(read, path)
            raise ValueError(
                f"keep leaves out {path!r}, where {sources(read)} meet: which of them goes on is "
                f"not said. Keep it too, or leave out what leads to all but one of them."
            )
        own = {path} if first.shape != shape else set()
        reshaping = union(read) | own
        lost = [Wire(None, reshaping, path)] * (len(node.outputs) - 1)
        return [Wire(read[0].tensor, reshaping, read[0].lost), *lost]

    def _merged(self, node: Any, read: Sequence[Wire], path: str) -> list[Wire]:
        """A merge of what still differs: a tensor that a bypass hands to it twice enters once."""
        check_found(read, path)
        places = distinct(node, read)
        if len(places) == 1:
            why = "what it joined is one tensor now"
            self._rows.setdefault(path, TransferRow(path, LEFT, path, why))
            own = {path} if read[0].tensor.shape != node.outputs[0].shape else set()
            return [Wire(read[0].tensor, union(read) | own)]
        check_shapes(node, read, path)
        return self._kept(node, read, path, places)

    def _kept(
        self, node: Any, read: Sequence[Wire], path: str, places: Sequence[int] | None = None
    ) -> list[Wire]:
        operation = node.operation
        if id(operation) in self._made:
            return self._called(node, read, path, places)
        name = self._free_name(operation.name, path)
        if not isinstance(operation, keras.layers.Layer) or not _is_changed(node, read):
            self._copied(operation, path, name).name = name
            return self._called(node, read, path, places)
        random.seed(f"{self._seed}/{path}")
        layer = self._made[id(operation)] = from_own_config(operation, path, without_build)
        layer.name = name
        made = self._called(node, read, path, places)
        if len(layer.variables) < len(operation.variables):
            build_by_call(layer, _keras.first_call(layer))
        self._take_over(operation, layer, path, name)
        return made

    def _copied(self, operation: Any, path: str, student_path: str) -> Any:
        if id(operation) not in self._made:
            layer = isinstance(operation, keras.layers.Layer)
            twin = copy_of(operation, path) if layer else _keras.operation_like(operation)
            self._made[id(operation)] = twin
            self._note_copied(twin, path, student_path)
        return self._made[id(operation)]

    def _take_over(self, source: Any, layer: Any, path: str, name: str) -> None:
        """Weights for a layer that was made anew, where they still have the teacher's shapes."""
        if [v.shape for v in source.variables] == [v.shape for v in layer.variables]:
            copy_variables(source, layer, path)
            self._note_copied(layer, path, name)
            return
        pairs = zip(weight_paths(layer).items(), weight_paths(source).values(), strict=True)
        differing = ((key, a.shape, b.shape) for (key, a), b in pairs if a.shape != b.shape)
        key, ours, theirs = next(differing)
        why = f"{key} {_words(ours)}, the teacher's {_words(theirs)}"
        self._rows[path] = TransferRow(name, INITIALISED, path, why)

    def _note_copied(self, layer: Any, path: str, student_path: str) -> None:
        self._rows.pop(path, None)
        if weight_paths(layer):
            why = self._why.get(path, "")
            self._rows[path] = TransferRow(student_path, COPIED, path, why, layer.count_params())

    def _called(
        self, node: Any, read: Sequence[Wire], path: str, places: Sequence[int] | None = None
    ) -> list[Wire]:
        check_found(read, path)
        pairs = zip(node.input_tensors, read, strict=True)
        args, kwargs = node.arguments.fill_in({id(x): wire.tensor for x, wire in pairs})
        if places is not None and len(places) < len(read):
            args = ([args[0][place] for place in places], *args[1:])
        try:
            outputs = self._made[id(node.operation)](*args, **kwargs)
        except Exception as error:
            raise misfit(node, read, path, f"can't read {shapes(read)}", error) from error
        return [Wire(tensor, union(read)) for tensor in keras.tree.flatten(outputs)]

    def _free_name(self, name: str, path: str) -> str:
        """The name in the student of what the teacher has at `path`: two models may come apart."""
        if "/" not in path:
            return name
        flat = path.replace("/", "_")
        numbered = (f"{flat}_{number}" for number in itertools.count(1))
        candidates = itertools.chain((name, flat), numbered)
        free = next(candidate for candidate in candidates if candidate not in self._names)
        self._names.add(free)
        return free

    def _named_output(self, tensor: Any, wire: Wire) -> Any:
        """The student's tensor for an output, under the name that it has in the teacher."""
        name = _keras.history(tensor).operation.name
        check_found([wire], name)
        if wire.tensor.shape != tensor.shape:
            raise ValueError(
                f"The output {name!r} would have the shape {wire.tensor.shape}; the teacher's has "
                f"{tensor.shape}.{mend(wire.reshaping)}"
            )
        if _keras.history(wire.tensor).operation.name == name:
            return wire.tensor
        if name not in self._renaming:
            self._renaming[name] = keras.layers.Identity(name=name, dtype=tensor.dtype)
        return self._renaming[name](wire.tensor)

    def _check_inputs(self, student: Any) -> None:
        lost = _used_inputs(self._teacher) - _used_inputs(student)
        if lost:
            raise ValueError(
                f"keep leaves no path from the input {', '.join(map(repr, sorted(lost)))} to the "
                f"outputs of {self._teacher.name!r}. Keep a layer that reads what comes from it."
            )

    def _reached(self, student: Any) -> list[TransferRow]:
        """The rows, of what is in the student and what is not."""
        paths = {step.path for step in trace(student).steps}
        unread = "kept, but nothing reads it any more"
        return [
            row
            if row.action == LEFT or row.layer in paths
            else TransferRow(path, LEFT, path, unread)
            for path, row in self._rows.items()
        ]


def _is_changed(node: Any, read: Sequence[Wire]) -> bool:
    pairs = zip(node.input_tensors, read, strict=True)
    return any(wire.tensor is None or wire.tensor.shape != x.shape for x, wire in pairs)


def _used_inputs(model: Any) -> set[str]:
    """The names of the inputs that an output depends on."""
    graph = trace(model)
    live = {id(value) for value in graph.outputs}
    for step in reversed(graph.steps):
        if any(id(value) in live for value in step.outputs):
            live |= {id(value) for value in step.inputs}
    names = (_keras.history(tensor).operation.name for tensor in functional(model).inputs)
    return {name for name, value in zip(names, graph.inputs, strict=True) if id(value) in live}


def _words(shape: Any) -> str:
    return "x".join(map(str, shape))
