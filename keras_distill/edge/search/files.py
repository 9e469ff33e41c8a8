"""Trial files of a model under some choice of bits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_distill.edge.export.tflite import export_tflite
from keras_distill.edge.quantize.aware import quantize_aware

__all__ = ["TrialFiles"]


class TrialFiles:
    """Writes the int8 files of a float model, each once; a context that removes them at its end.

    Args:
      model: of Keras 3, in float.
      data: what each is calibrated on.
    """

    def __init__(self, model: Any, data: Any):
        self._model, self._data = model, data
        self._folder = tempfile.TemporaryDirectory()
        self._written: dict[frozenset[tuple[str, int]], Path] = {}

    def __enter__(self) -> TrialFiles:
        return self

    def __exit__(self, *_: Any) -> None:
        self._folder.cleanup()

    def path(self, bits: Mapping[str, int]) -> Path:
        """The file of a choice: what is not named has 8 bits."""
        key = frozenset((name, number) for name, number in bits.items() if number != 8)
        if key not in self._written:
            small = quantize_aware(self._model, calibration_data=self._data, weight_bits=dict(key))
            path = Path(self._folder.name) / f"{len(self._written)}.tflite"
            self._written[key] = Path(export_tflite(small, path, precision="int8").path)
        return self._written[key]

    def bytes(self, bits: Mapping[str, int]) -> int:
        """How large the file of a choice is."""
        return self.path(bits).stat().st_size
