"""Whether answers are right as often as they are sure."""

from __future__ import annotations

import numpy as np

from keras_distill.measures.metric import CLASSES, YES_OR_NO, Answered, Metric, quotient

__all__ = ["calibration_bins", "expected_calibration_error"]


def calibration_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each probability: of equal width, each open below and closed above.

    >>> calibration_bins(np.array([0.0, 0.5, 0.51, 1.0]), 2)
    array([0, 0, 1, 1])
    """
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def expected_calibration_error(bins: int = 15) -> Metric:
    """How far probabilities lie from frequencies: sum of shares of |accuracy - confidence|.

    Over bins of equal width of the chosen class' probability, each open below; of yes or no of the
    probability of yes.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """

    def under(answered: Answered, weights: np.ndarray) -> np.ndarray:
        sure, right = answered.answers, answered.labels
        if answered.task == CLASSES:
            sure, right = sure.max(-1), answered.choices == answered.labels
        place = calibration_bins(sure, bins)
        inside = [place == one for one in range(bins)]
        gaps = np.stack([answered.by_row(one * (sure - right)) for one in inside], -1)
        count = answered.by_row(np.ones(answered.labels.shape))
        return quotient(np.abs(weights @ gaps).sum(-1), weights @ count)

    return Metric("ECE", under, better=-1, share=True, tasks=(CLASSES, YES_OR_NO))
