"""The model that compressed layers make: a Functional one that tells them of every update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill._keras import Functional
from keras_distill.edge.compress.layer import Compressed
from keras_distill.graph import copying
from keras_distill.graph.replay import Step, trace
from keras_distill.training.step import notify

_ROWS, _INPUT = "calibration_rows.npz", "input_"


@keras.saving.register_keras_serializable("keras_distill")
class CompressedModel(Functional):
    """A Functional model whose layers hear of every update of the optimiser, and where they stand.

    Schedules follow `optimizer.iterations` under plain `fit` as under a `Distiller`; a custom
    training loop calls `after_update` itself.
    """

    _rows: Mapping[str, np.ndarray] | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        graph = trace(self)
        calls: dict[int, list[Step]] = {}
        for step in graph.steps:
            calls.setdefault(id(step.operation), []).append(step)
        for steps in calls.values():
            if isinstance(steps[0].operation, Compressed):
                steps[0].operation.connect(graph, steps)

    @property
    def calibration_rows(self) -> Mapping[str, np.ndarray] | None:
        """The first rows that `calibrate` saw, an array for each input by its name, or None.

        Export settles on them what has no range in the model: the insides of attention, of
        recurrent layers and of layers of one's own. A `.keras` file holds them, so that a loaded
        model becomes the same file; None, assigned before saving, leaves them out.
        """
        return self._rows

    @calibration_rows.setter
    def calibration_rows(self, rows: Mapping[str, np.ndarray] | None) -> None:
        # A proxy, for Keras tracks what is in a dict.
        self._rows = None if rows is None else MappingProxyType(dict(rows))

    def save_assets(self, dir_path: Any) -> None:
        """The calibration rows; Keras calls it for a `.keras` file."""
        rows = self.calibration_rows or {}
        if rows:
            arrays: dict[str, Any] = {
                f"{_INPUT}{name}": _storable(array) for name, array in rows.items()
            }
            np.savez_compressed(Path(dir_path, _ROWS), **arrays)

    def load_assets(self, dir_path: Any) -> None:
        """The calibration rows of a file that has some."""
        if dir_path and (path := Path(dir_path, _ROWS)).exists():
            with np.load(path, allow_pickle=False) as held:
                found = {name.removeprefix(_INPUT): held[name] for name in held.files}
            self.calibration_rows = found

    def train_step(self, data: Any) -> Any:
        """Keras' own step, then `after_update`."""
        logs = super().train_step(data)
        self.after_update(self.optimizer.iterations)
        return logs

    def count_params(self) -> int:
        """The numbers that the deployed model holds: no masks, no ranges."""
        own = _keras.children(self)
        return sum(layer.count_params() for layer in own)

    def after_update(self, iterations: Any) -> None:
        """Tells each layer that has an `after_update` how many updates there have been."""
        for layer in _keras.children(self):
            notify(layer, iterations)


def _storable(array: np.ndarray) -> np.ndarray:
    """As NumPy's files hold it without code: strings as bytes, bfloat16 as float32."""
    return array.astype({"O": "S", "V": "float32"}.get(array.dtype.kind, array.dtype))


def rebuild(
    model: Any,
    substitute: Callable[[str, Any], Any],
    *,
    on_input: Callable[[str, Any], Any] | None = None,
) -> CompressedModel:
    """A copy as `copying.rebuild` makes it, that tells its layers of every update."""
    return copying.rebuild(model, substitute, on_input=on_input, kind=CompressedModel)
