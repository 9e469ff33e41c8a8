"""How alike two layers represent the same examples, and which layers so belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

# The unbiased estimate divides by n - 3.
FEWEST_ROWS = 4


@dataclass(frozen=True, eq=False)
class Similarity:
    """Layers of both models, compared pair by pair.

    Attributes:
      student_layers, teacher_layers: as taps name them, in order of depth.
      cka: `(student layers, teacher layers)`, about 0 to 1; NaN where a layer gives the same for
        every example. An unbiased estimate of a small number can be below 0.
      layer_map: for layers of the student, the teacher's layer that suits each as a hint.
    """

    student_layers: tuple[str, ...]
    teacher_layers: tuple[str, ...]
    cka: np.ndarray
    layer_map: Mapping[str, str]

    def of(self, student_layer: str, teacher_layer: str) -> float:
        """The CKA of one pair."""
        row = self.student_layers.index(student_layer)
        return float(self.cka[row, self.teacher_layers.index(teacher_layer)])


def gram(features: tf.Tensor) -> tf.Tensor:
    """Inner products of a batch's examples with each other.

    Args:
      features: `(batch, ...)`, any dtype.

    Returns:
      `(batch, batch)` float32, of the centred features: HSIC does not see a shift, float32 does.
    """
    flat = tf.reshape(tf.cast(features, "float32"), [tf.shape(features)[0], -1])
    flat -= tf.reduce_mean(flat, axis=0)
    return tf.matmul(flat, flat, transpose_b=True)


class MinibatchCKA:
    """Linear CKA of all pairs of layers, from batches: memory does not grow with the data.

    `CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`, where K and L are two layers' Gram matrices
    and each HSIC is the mean over batches of its unbiased estimate, the inner product of the
    U-centred matrices over `n (n - 3)`. A batch counts by its rows.

    Args:
      students, teachers: how many layers there are of each model.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019;
    over batches: Nguyen, Raghu, Kornblith, ICLR 2021, with the estimate of Song et al., JMLR 2012.

    >>> x = np.random.default_rng(0).normal(size=(8, 3))
    >>> cka = MinibatchCKA(1, 1)
    >>> cka.add([x @ x.T], [4.0 * x @ x.T])
    >>> round(float(cka.result()[0, 0]), 6)
    1.0
    """

    def __init__(self, students: int, teachers: int):
        self._cross = np.zeros((students, teachers))
        self._students, self._teachers = np.zeros(students), np.zeros(teachers)
        self.rows = 0

    def add(self, students: Sequence[np.ndarray], teachers: Sequence[np.ndarray]) -> None:
        """Take one batch's Gram matrices in; a batch of fewer than four rows says nothing."""
        rows = len(students[0])
        if rows < FEWEST_ROWS:
            return
        ours = np.stack([u_centred(matrix).ravel() for matrix in students])
        theirs = np.stack([u_centred(matrix).ravel() for matrix in teachers])
        # rows / (n (n - 3)): each batch's estimate, weighted by its rows.
        weight = 1.0 / (rows - 3)
        self._cross += weight * ours @ theirs.T
        self._students += weight * np.square(ours).sum(axis=1)
        self._teachers += weight * np.square(theirs).sum(axis=1)
        self.rows += rows

    def result(self) -> np.ndarray:
        """`(students, teachers)`; NaN where a layer does not tell examples apart."""
        scale = np.sqrt(np.outer(self._students, self._teachers))
        nothing = np.full_like(self._cross, np.nan)
        return np.divide(self._cross, scale, out=nothing, where=scale > 0)


def u_centred(matrix: np.ndarray) -> np.ndarray:
    """A symmetric matrix with diagonal and row sums brought to zero, `(n, n)` float64.

    Raises:
      ValueError: fewer than four rows.

    Source: Székely and Rizzo, "Partial Distance Correlation with Methods for Dissimilarities",
    Annals of Statistics 2014, definition 2.
    """
    rows = len(matrix)
    if rows < FEWEST_ROWS:
        raise ValueError(f"Expected a matrix of {FEWEST_ROWS} rows or more; got {rows}.")
    hollow = np.array(matrix, "float64")
    np.fill_diagonal(hollow, 0.0)
    sums = hollow.sum(axis=0)
    hollow -= (sums[:, None] + sums[None, :]) / (rows - 2)
    hollow += sums.sum() / ((rows - 1) * (rows - 2))
    np.fill_diagonal(hollow, 0.0)
    return hollow


def match_in_order(scores: np.ndarray) -> list[tuple[int, int]]:
    """The pairs (row, column), rising in both, whose scores add up to the most.

    Args:
      scores: `(rows, columns)`. What is not above 0, or is NaN, is never chosen.

    >>> match_in_order(np.array([[0.9, 0.8, 0.1], [0.2, 0.9, 0.8]]))
    [(0, 0), (1, 1)]
    """
    gains = np.where(scores > 0, scores, 0.0)
    best = np.zeros((gains.shape[0] + 1, gains.shape[1] + 1))
    for row, column in np.ndindex(*gains.shape):
        paired = best[row, column] + gains[row, column]
        best[row + 1, column + 1] = max(paired, best[row, column + 1], best[row + 1, column])
    pairs = []
    row, column = gains.shape
    while row and column:
        if best[row, column] == best[row - 1, column]:
            row -= 1
        elif best[row, column] == best[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            pairs.append((row, column))
    return pairs[::-1]


def propose_map(
    cka: np.ndarray,
    student_shapes: Mapping[str, tuple],
    teacher_shapes: Mapping[str, tuple],
) -> dict[str, str]:
    """Which of the teacher's layers should teach which of the student's.

    The order-preserving pairing of the highest CKA in total, among the pairs that a hint can be
    made of: outputs of equal rank and, but for the length of sequences, of known size.

    Args:
      cka: `(student layers, teacher layers)`.
      student_shapes, teacher_shapes: by layer, in the matrix' order, with the batch axis.
    """
    fits = [
        [_can_be_hinted(ours, theirs) for theirs in teacher_shapes.values()]
        for ours in student_shapes.values()
    ]
    ours, theirs = list(student_shapes), list(teacher_shapes)
    pairs = match_in_order(np.where(fits, cka, 0.0))
    return {ours[row]: theirs[column] for row, column in pairs}


def _can_be_hinted(ours: tuple, theirs: tuple) -> bool:
    sized = len(ours) == 3 or None not in (*ours[1:], *theirs[1:])
    return len(ours) == len(theirs) and sized
