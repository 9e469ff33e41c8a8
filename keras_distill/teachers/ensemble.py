"""Several teachers as one."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_distill.functional.tensors import inverse_sigmoid
from keras_distill.signals import Head, Signals
from keras_distill.signals.outputs import spec
from keras_distill.teachers.composite import Composite

__all__ = ["Ensemble"]


class Ensemble(Composite):
    """The weighted mean of several teachers' logits.

    Logits are averaged, not probabilities, so that any temperature can be applied afterwards; a
    member that gives probabilities joins with their logarithms, one that ends in a sigmoid with its
    log odds, and the mean is then a sigmoid's, too. Each member sees the same input:
    put a resizing layer in front of one that wants another size.

    Args:
      teachers: models, callables or `Teacher`s with the same outputs over the same classes.
      weights: one non-negative number a teacher, scaled to the sum of 1; None for equal ones; or
        `"confidence"`: per example in proportion to `log(classes) - entropy` of each member's
        answer, so that a member that does not know is not heard; label by label where they say
        yes or no for each.
      taps_from: the place of the member whose layers objectives tap.

    Raises:
      ValueError: fewer than two members, weights of another number, negative or all zero; at
        build, members that disagree in outputs or classes, or of which some end in a sigmoid and
        others in a softmax.

    Source: Hinton, Vinyals, Dean 2015, section 5; the weights of each example after Zhang et al.,
    "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022, which needs labels where
    this looks at the entropy.

    >>> import keras
    >>> members = [lambda x: x, lambda x: 3 * x]
    >>> from keras_distill.teachers import Model
    >>> input_spec = keras.KerasTensor((None, 2))
    >>> teacher = Ensemble([Model(f, input_spec=input_spec) for f in members], weights=[3, 1])
    >>> teacher.prepare(None, ()).logits.shape
    (None, 2)
    >>> [float(v) for v in teacher(ops.array([[2.0, 0.0]])).logits[0]]
    [3.0, 0.0]
    """

    def __init__(
        self,
        teachers: Sequence[Any],
        weights: Sequence[float] | str | None = None,
        *,
        taps_from: int = 0,
    ):
        super().__init__(teachers)
        if len(self._members) < 2:
            raise ValueError(f"An ensemble has two teachers or more; got {len(self._members)}.")
        if not 0 <= taps_from < len(self._members):
            raise ValueError(
                f"taps_from must be the place of a teacher, 0 to {len(self._members) - 1}; got "
                f"{taps_from}."
            )
        self._weights = _checked(weights, len(self._members))
        self._taps_from = taps_from
        self._kinds: dict[str | None, str] = {}

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        found = [
            member.prepare(input_spec, taps if place == self._taps_from else ())
            for place, member in enumerate(self._members)
        ]
        _check_agreement(found)
        told = [member.kinds() for member in self._members]
        self._kinds = {head: _common_kind(head, told, found) for head in found[0].heads}
        return self._joined(found, lambda answers, _: spec(answers[0].logits))

    def join(self, answers: Sequence[Signals]) -> Signals:
        return self._joined(answers, self._mean)

    def kinds(self) -> dict[str | None, str]:
        return dict(self._kinds)

    def settings(self) -> str:
        return str(self._weights)

    def _joined(self, answers: Sequence[Signals], mean: Callable) -> Signals:
        found = {name: [one.heads[name] for one in answers] for name in answers[0].heads}
        return Signals(
            heads={name: _joined_head(heads, mean) for name, heads in found.items()},
            taps=answers[self._taps_from].taps,
        )

    def _mean(self, answers: Sequence[Head], yes_or_no: bool) -> Any:
        stacked = ops.stack([_logits(one) for one in answers])
        if self._weights == "confidence":
            mean = ops.sum(_confidence(stacked, yes_or_no) * stacked, axis=0)
        else:
            weights = ops.cast(ops.array(self._weights), stacked.dtype)
            mean = ops.tensordot(weights, stacked, axes=1)
        return ops.sigmoid(mean) if yes_or_no else mean


def _joined_head(heads: Sequence[Head], mean: Callable) -> Head:
    kinds = {head.kind for head in heads}
    kind = next((one for one in ("sigmoid", "probabilities") if one in kinds), "logits")
    return Head(mean(heads, kind == "sigmoid"), kind)


def _logits(answer: Head) -> Any:
    logits = ops.cast(answer.logits, "float32")
    return inverse_sigmoid(logits) if answer.kind == "sigmoid" else logits


def _confidence(logits: Any, yes_or_no: bool) -> Any:
    """`(teachers, batch, ..., 1)`, or one a label, summing to 1 over the teachers."""
    if yes_or_no:
        yes = ops.sigmoid(logits)
        entropy = -(yes * ops.log_sigmoid(logits) + (1 - yes) * ops.log_sigmoid(-logits))
        most = ops.log(2.0)
    else:
        log_probs = ops.log_softmax(logits, axis=-1)
        entropy = -ops.sum(ops.exp(log_probs) * log_probs, axis=-1, keepdims=True)
        most = ops.log(float(logits.shape[-1]))
    # The small number makes equals of teachers none of which knows anything.
    known = ops.relu(most - entropy) + 1e-6
    return known / ops.sum(known, axis=0, keepdims=True)


def _common_kind(head: str | None, told: Sequence[dict], found: Sequence[Signals]) -> str:
    """What the members' mean is.

    Raises:
      ValueError: some say yes or no for each label, others choose one class.
    """
    kinds = [
        kinds.get(head, signals.head(head).kind) for kinds, signals in zip(told, found, strict=True)
    ]
    if {"sigmoid", "probabilities"} <= set(kinds):
        where = "" if head is None else f" at the output {head!r}"
        raise ValueError(
            f"The ensemble's teachers end{where} in {', '.join(kinds)}: a sigmoid says yes or no "
            f"for each label, a softmax chooses one class, and their mean is neither. Give "
            f"teachers of one kind; teachers.Model(model, output=) says it where it is mistaken."
        )
    return next((kind for kind in kinds if kind != "logits"), "logits")


def _checked(weights: Any, count: int) -> Any:
    if weights is None:
        return (1.0 / count,) * count
    if isinstance(weights, str):
        if weights != "confidence":
            raise ValueError(
                f"weights must be numbers, 'confidence' or None for equal ones; got {weights!r}."
            )
        return weights
    numbers = [float(weight) for weight in weights]
    if len(numbers) != count:
        raise ValueError(f"Expected {count} weights, one a teacher; got {len(numbers)}.")
    if min(numbers) < 0 or not 0 < sum(numbers) < float("inf"):
        raise ValueError(f"weights must be non-negative, finite and not all 0; got {numbers}.")
    return tuple(number / sum(numbers) for number in numbers)


def _check_agreement(found: list[Signals]) -> None:
    first = found[0]
    for place, other in enumerate(found[1:], start=1):
        if set(first.heads) != set(other.heads):
            raise ValueError(
                f"The ensemble's teacher 0 has the outputs {first.names or 'one'} and teacher "
                f"{place} {other.names or 'one'}. Give teachers of the same outputs."
            )
        for name in first.heads:
            ours, theirs = first.heads[name].logits.shape, other.heads[name].logits.shape
            if tuple(ours[1:]) != tuple(theirs[1:]):
                raise ValueError(
                    f"The ensemble's teacher 0 answers {tuple(ours)} and teacher {place} "
                    f"{tuple(theirs)}. All must answer over the same classes."
                )
