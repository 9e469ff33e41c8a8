"""A .tflite in which vectors that are equal lie once: the zero points of channels above all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

__all__ = ["share"]

# What the schema asks for a tensor's numbers; Python's builder does not know of it.
_ALIGNMENT = 16


def share(path: Path) -> None:
    """Writes a .tflite anew, each vector once; what it says stays the same.

    The converter writes the zero points of a kernel's channels, 8 bytes each and all zero, for
    every kernel and once more for every bias.

    Args:
      path: the file. One that would not become smaller stays as it is.
    """
    content = path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    # Above 2 GB the numbers lie behind the flatbuffer, at places that it names.
    if any(one.offset for one in model.buffers):
        return
    builder = _Sharing()
    builder.Finish(model.Pack(builder), b"TFL3")
    smaller = bytes(builder.Output())
    if len(smaller) < len(content):
        path.write_bytes(smaller)


class _Sharing(flatbuffers.Builder):
    """A builder that writes a vector of numbers where it has none like it."""

    def __init__(self) -> None:
        super().__init__(1024)
        self.places: dict[tuple[str, bytes], Any] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> Any:  # noqa: N802
        """As its base, which calls it so."""
        key = (x.dtype.str, x.tobytes())
        if key not in self.places:
            if x.dtype == np.uint8:
                self.Prep(_ALIGNMENT, x.size)
            self.places[key] = super().CreateNumpyVector(x)
        return self.places[key]
