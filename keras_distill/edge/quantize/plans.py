"""What quantisation does with one operation of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What quantisation does with one operation.

    Attributes:
      path, type: its path in the model and its class.
      how: "native" as TFMOT's scheme takes it, "rewritten" into what integers can compute,
        "own range" a range of ours on its output, "inside float" where only its output has one,
        "float" where exact values are computed, "no kernel" LiteRT has nothing that computes it,
        "skipped" on request.
      why: in words.
      weights: by the weight's path, its channel axes.
      activation: taken out of the layer, or None.
      outputs, between, affine, requantized, inputs: as `Quantized` takes them.
      behind: the path of the BatchNormalization that becomes part of its weights, or "".
      goes: the path of the layer whose part it becomes itself, or "".
      front: how many layers in front that scale and shift it takes up in the file.
    """

    path: str
    type: str
    how: str
    why: str
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    activation: str | None = None
    outputs: tuple[Any, ...] = ()
    between: int = 0
    affine: bool = False
    requantized: bool = False
    inputs: tuple[Any, ...] = ()
    behind: str = ""
    goes: str = ""
    front: int = 0

    @property
    def wraps(self) -> bool:
        """Whether anything is to be done to the operation."""
        return bool(self.outputs or self.weights or self.requantized or self.inputs)
