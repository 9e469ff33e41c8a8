"""What a file is held to: each tolerance is a `Check`, with its figures in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.edge.records import Check
from keras_distill.edge.verification.heads import Head
from keras_distill.measures.paired import mcnemar

__all__ = ["Tolerances", "checks_of"]

# By what a file computes in: parts of the range of the model's numbers, and correlations.
_MAX_ERROR = {"float32": 1e-3, "float16": 1e-2, "integers": math.inf}
_MIN_CORRELATION = {"float32": -math.inf, "float16": -math.inf, "integers": 0.9}
# Of class numbers, which have no error to speak of.
_MIN_KAPPA = {"float32": 0.99, "float16": 0.98, "integers": 0.9}
_MIN_QUANTIZED_CORRELATION = 0.98
# Of an integer file's numbers, as part of their range: two to three of 256 steps.
_NOISE = 0.01
# What a number's own rounding may add, as part of the largest one.
_ROUNDING = {"float32": 1e-6, "float16": 2e-3, "integers": 0.0}
# A reference that computes in these is itself no closer to the float32 model.
_COARSE = {"float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Tolerances:
    """See `verify`; None for the default of the file's precision."""

    max_drop: float
    min_agreement: float | None = None
    max_error: float | None = None
    min_correlation: float | None = None
    min_quantized_correlation: float | None = None

    def largest_error(self, precision: str, reference: Any) -> float:
        """As part of the range of the model's numbers."""
        if self.max_error is not None:
            return self.max_error
        layers = _keras.layers_of(reference) if isinstance(reference, keras.Model) else ()
        coarse = (_COARSE.get(layer.compute_dtype, 0.0) for layer in layers)
        return max(_MAX_ERROR[precision], *coarse, 0.0)


def checks_of(
    heads: list[Head],
    quantized: list[np.ndarray] | None,
    precision: str,
    reference: Any,
    tolerances: Tolerances,
) -> Iterator[Check]:
    """The checks on every output's answers; an output of several is named.

    Of a concatenation each part is judged as well: a small one does not show in the whole.
    """
    for number, head in enumerate(heads):
        where = f" ({head.name})" if len(heads) > 1 else ""
        rounded = None if quantized is None else quantized[number]
        for check in _head_checks(head, rounded, precision, reference, tolerances):
            yield Check(f"{check.name}{where}", check.words, check.passed)
        for part, alone in head.each_part():
            rounded_part = None if rounded is None else part.of(rounded)
            for check in _head_checks(alone, rounded_part, precision, reference, tolerances):
                yield Check(f"{check.name} ({alone.name})", check.words, check.passed)


def _head_checks(
    head: Head, rounded: np.ndarray | None, precision: str, reference: Any, asked: Tolerances
) -> Iterator[Check]:
    lost = [(who, head.rows_of_nan(a)) for who, a in _answers(head, rounded)]
    for who, rows in lost:
        if len(rows):
            words = f"{who} answers NaN in {len(rows)} of {len(head.file)} rows, first in {rows[0]}"
            yield Check("answers are numbers", words, False)
    drop = _drop(head, rounded, asked.max_drop)
    if drop is not None:
        yield drop
    if any(len(rows) for _, rows in lost):
        return
    if head.kind == "class numbers":
        limit = asked.min_correlation
        limit = _MIN_KAPPA[precision] if limit is None else limit
        yield _correlated(head, head.reference, "the model", "min_correlation", limit)
    else:
        yield from _numbers(head, precision, reference, asked)
    if rounded is not None:
        limit = asked.min_quantized_correlation
        limit = _MIN_QUANTIZED_CORRELATION if limit is None else limit
        whom = "the fake-quantised model"
        yield _correlated(head, rounded, whom, "min_quantized_correlation", limit)
    found = head.agreement(head.reference)
    if asked.min_agreement is not None and found is not None:
        words = f"same class on {found:.2%}, {asked.min_agreement:.2%} demanded (min_agreement)"
        yield Check("agreement with the model", words, _within(-found, -asked.min_agreement))


def _answers(head: Head, rounded: np.ndarray | None) -> list[tuple[str, np.ndarray]]:
    found = [("the file", head.file), ("the model", head.reference)]
    return found if rounded is None else [*found, ("the fake-quantised model", rounded)]


def _numbers(head: Head, precision: str, reference: Any, asked: Tolerances) -> Iterator[Check]:
    largest = asked.largest_error(precision, reference)
    if largest < math.inf:
        errors, scale = head.errors(), head.scale()
        row = int(np.argmax(errors))
        allowed = largest * scale + _ROUNDING[precision] * head.size()
        words = (
            f"row {row} is the worst, {errors[row]:.3g} from the model: {errors[row] / scale:.2%} "
            f"of the range of its numbers, {allowed / scale:.2%} allowed (max_error)"
        )
        yield Check("the model's numbers", words, bool(errors[row] <= allowed))
    limit = asked.min_correlation
    limit = _MIN_CORRELATION[precision] if limit is None else limit
    if limit > -math.inf:
        yield _correlated(head, head.reference, "the model", "min_correlation", limit)


def _correlated(head: Head, other: np.ndarray, whom: str, tolerance: str, limit: float) -> Check:
    found, row = head.correlation(other), int(np.argmax(head.errors()))
    around = ""
    # Where rows hardly differ, noise of a step or two alone would cost a right file as much.
    if abs(limit) < 1 and limit**2 * (1 + (_NOISE / (head.row_spread() or 1e-9)) ** 2) <= 1:
        alone = head.row_correlation(other)
        if not alone >= found:
            found, around = alone, "around the mean row, "
    words = (
        f"{around}answers correlate {found:.4f} with {whom}'s, {limit:.4f} demanded ({tolerance}); "
        f"the worst row is {row}"
    )
    # Turned round, so that NaN fails.
    return Check(f"correlation with {whom}", words, _within(-found, -limit))


def _drop(head: Head, rounded: np.ndarray | None, max_drop: float) -> Check | None:
    ours, theirs = head.hits(head.file), head.hits(head.reference)
    if ours is None or theirs is None:
        return None
    count, before, after = len(ours), int(theirs.sum()), int(ours.sum())
    drop = theirs.mean() - ours.mean()
    passed = _within(drop, max_drop)
    words = (
        f"the file is right on {after} of {count} rows ({ours.mean():.2%}), the model on {before} "
        f"({theirs.mean():.2%}): a drop of {100 * drop:.2f} points, {100 * max_drop:.2f} allowed "
        f"(max_drop)"
    )
    if not passed:
        chance = mcnemar(ours, theirs)
        noise = "within" if chance > 0.05 else "beyond"
        words += f"; {before - after} of {count} rows, {noise} noise (p = {chance:.2g})"
        middle = None if rounded is None else head.hits(rounded)
        if middle is not None:
            trained = int(middle.sum())
            words += f"; training lost {before - trained} of them, the conversion {trained - after}"
        else:
            words += "; quantized= tells whether training or the conversion lost them"
    return Check("accuracy against the model", words, passed)


def _within(value: float, limit: float) -> bool:
    # 0.97 - 0.96 is a little more than 0.01 in binary, and just met is met.
    return bool(value <= limit + 1e-9)
