"""What a repair has made of a layer's weights, and what they were before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Repaired"]


@dataclass(frozen=True, eq=False)
class Repaired:
    """Weights in memory by their paths inside a layer; a saved model holds those of after alone.

    Attributes:
      settings: all that decided the result, as JSON.
      before, after: the weights.
      words: what came out.
    """

    settings: str
    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    words: str
