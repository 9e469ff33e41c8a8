"""Whether a model is right as often as it is sure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_distill.measures.calibration import calibration_bins


@dataclass(frozen=True, eq=False)
class Calibration:
    """Labelled examples by the probability of the model's answer, in bins of equal width.

    Attributes:
      counts: `(bins,)`, examples whose confidence is above the bin's lower end and not above its
        upper one.
      confidence, accuracy: `(bins,)`, their means there, 0 to 1; 0 in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error, 0 to 1.

        `sum over bins of share of examples x |accuracy - confidence|`.

        Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
        """
        gaps = np.abs(self.accuracy - self.confidence)
        return float(self.counts @ gaps / self.counts.sum())


class CalibrationTally:
    """Fills the bins batch by batch.

    Args:
      bins: how many.

    >>> tally = CalibrationTally(2)
    >>> tally.add(np.array([0.9, 0.7]), np.array([True, False]))
    >>> round(tally.result().ece, 6)
    0.3
    """

    def __init__(self, bins: int):
        self._counts = np.zeros(bins, "int64")
        self._confidence, self._right = np.zeros(bins), np.zeros(bins)

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Take in some examples.

        Args:
          confidence: `(batch,)`, the probability of the model's answer, in (0, 1].
          right: `(batch,)`, whether it is the label.
        """
        bins = len(self._counts)
        places = calibration_bins(confidence, bins)
        self._counts += np.bincount(places, minlength=bins)
        self._confidence += np.bincount(places, weights=confidence, minlength=bins)
        self._right += np.bincount(places, weights=right, minlength=bins)

    def result(self) -> Calibration | None:
        """What was counted; None where nothing was."""
        if not self._counts.any():
            return None
        filled = np.maximum(self._counts, 1)
        return Calibration(self._counts, self._confidence / filled, self._right / filled)
