"""A file and the models beside it, asked the same batches of data."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_distill.data import no_keras3_model, qualified_name
from keras_distill.edge.interface import Interface, interface_of
from keras_distill.edge.verification.asking import Asked
from keras_distill.litert.runner import TFLiteRunner
from keras_distill.litert.session import has_rows

__all__ = ["Answers", "labels_of"]

_ROWS = 64


class Answers:
    """What a file and the models answered, batch by batch, beside the labels and a digest.

    `rows` counts the examples so far.
    """

    def __init__(self, runner: TFLiteRunner, models: dict[str, Any]):
        for role, model in models.items():
            if not callable(model) and (role == "reference" or model is not None):
                wanted = f"Expected {role} to be a Keras model or a callable"
                raise TypeError(no_keras3_model(model, wanted))
        self.rows = 0
        self._runner = runner
        self._models = {role: model for role, model in models.items() if model is not None}
        self._asked = {role: Asked(model) for role, model in self._models.items()}
        self._names = [info.name for info in runner.outputs]
        self._columns: dict[str, list[Any]] = {role: [] for role in ("file", *self._models)}
        self._labels: list[list[Any]] = []
        self._digests: list[Any] = []

    @property
    def batch_size(self) -> int:
        """Rows to ask at once: some, in whole runs of the file."""
        fixed = self._runner.inputs[0].shape[0] if has_rows(self._runner.inputs) else None
        return _ROWS if fixed is None else fixed * math.ceil(_ROWS / fixed)

    def add(self, x: Any, y: Any) -> None:
        """Asks all of them one batch."""
        inputs = self._for_file(x)
        self._columns["file"].append(_leaves(self._runner.predict(inputs), self._names))
        own = self._names
        for role, ask in self._asked.items():
            outputs = ask(x)
            self._columns[role].append(_leaves(outputs, self._names))
            if role == "reference" and isinstance(outputs, dict):
                own = list(outputs)
        labels = [None] * len(self._names) if y is None else labels_of(y, self._names, own)
        self._labels.append(labels)
        leaves = [np.asarray(one) for one in keras.tree.flatten((x, [] if y is None else y))]
        self.rows += len(leaves[0])
        self._digest(leaves)

    def _for_file(self, x: Any) -> Any:
        if len(self._runner.inputs) == 1:
            return keras.tree.flatten(x)[0]
        if isinstance(x, dict) and set(x) == {info.name for info in self._runner.inputs}:
            return x
        # The file's names may be others than the model's; the order is the same.
        return self._interface.flat_inputs(x) if self._interface else x

    @functools.cached_property
    def _interface(self) -> Interface | None:
        reference = self._models["reference"]
        return interface_of(reference) if isinstance(reference, keras.Model) else None

    def _digest(self, leaves: list[np.ndarray]) -> None:
        if not self._digests:
            self._digests = [hashlib.sha256(f"{a.dtype}{a.shape[1:]}".encode()) for a in leaves]
        for digest, leaf in zip(self._digests, leaves, strict=True):
            plain = leaf.dtype != object
            digest.update(np.ascontiguousarray(leaf) if plain else repr(leaf.tolist()).encode())

    def sha256(self) -> str:
        """The same however the rows were batched."""
        return hashlib.sha256(b"".join(one.digest() for one in self._digests)).hexdigest()

    def labels(self) -> list[np.ndarray | None]:
        """An array an output, None where it has no labels."""
        columns = zip(*self._labels, strict=True)
        return [None if column[0] is None else np.concatenate(column) for column in columns]

    def by_role(self) -> dict[str, list[np.ndarray]]:
        """The outputs of "file" and of each model, float32 or whole numbers.

        Raises:
          ValueError: a model answers in other shapes than the file.
        """
        found = {
            role: [_joined(parts) for parts in zip(*column, strict=True)]
            for role, column in self._columns.items()
        }
        for role, model in self._models.items():
            _check_alike(role, model, found["file"], found[role])
        return found


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.atleast_1d(part) for part in parts])


def _leaves(outputs: Any, names: list[str]) -> list[np.ndarray]:
    """Outputs in the file's order; Keras flattens a dict by its sorted keys."""
    if isinstance(outputs, dict):
        leaves = [outputs[name] for name in (names if set(outputs) == set(names) else outputs)]
    else:
        leaves = keras.tree.flatten(outputs)
    arrays = [keras.ops.convert_to_numpy(value) for value in leaves]
    return [
        array.astype("float32" if np.issubdtype(array.dtype, np.floating) else "int64", copy=False)
        for array in arrays
    ]


def labels_of(y: Any, names: list[str], own: list[str]) -> list[np.ndarray | None]:
    """The labels of each output, None where it has none.

    Args:
      y: what the data has for labels.
      names: of the outputs, in their order.
      own: names that a dict of labels may have instead.

    Raises:
      ValueError: labels for other outputs.
    """
    if isinstance(y, dict):
        known = names if set(y) <= set(names) else own
        if not set(y) <= set(known) or len(known) != len(names):
            raise ValueError(f"Expected labels by the names of outputs, {names}; got {list(y)}.")
        found = [y.get(name) for name in known]
    else:
        found = list(y) if isinstance(y, (list, tuple)) else [y]
        if len(found) != len(names):
            raise ValueError(
                f"Expected labels for the outputs {names}; got {len(found)} array(s), and which "
                f"output they are for is not told. Give a dict by name, or a list in that order "
                f"with None for an output that has none."
            )
    return [None if one is None else np.asarray(one) for one in found]


def _check_alike(role: str, model: Any, file: Any, other: Any) -> None:
    ours, theirs = [a.shape for a in file], [a.shape for a in other]
    if ours != theirs:
        raise ValueError(
            f"The file answers with arrays of {ours} and the {role} {qualified_name(model)} with "
            f"{theirs}. Both must have the same outputs."
        )
