"""Several teachers as one."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_distill.objectives.base import Signals
from keras_distill.outputs import spec
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.model import as_teacher

__all__ = ["Ensemble"]


class Ensemble(Teacher):
    """The weighted mean of several teachers' logits.

    Logits are averaged, not probabilities, so that any temperature can be applied afterwards; a
    member that gives probabilities joins with their logarithms. Each member sees the same input:
    put a resizing layer in front of one that wants another size.

    Args:
      teachers: models, callables or `Teacher`s with the same outputs over the same classes.
      weights: one non-negative number a teacher, scaled to the sum of 1; None for equal ones; or
        `"confidence"`: per example in proportion to `log(classes) - entropy` of each member's
        answer, so that a member that does not know is not heard.
      taps_from: the place of the member whose layers objectives tap.

    Raises:
      ValueError: fewer than two members, weights of another number, negative or all zero; at
        build, members that disagree in outputs or classes.

    Source: Hinton, Vinyals, Dean 2015, section 5; the weights of each example after Zhang et al.,
    "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022, which needs labels where
    this looks at the entropy.

    >>> import keras
    >>> members = [lambda x: x, lambda x: 3 * x]
    >>> from keras_distill.teachers import Model
    >>> input_spec = keras.KerasTensor((None, 2))
    >>> teacher = Ensemble([Model(f, input_spec=input_spec) for f in members], weights=[3, 1])
    >>> teacher.build(None, ()).logits.shape
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
        self._members = [as_teacher(teacher) for teacher in teachers]
        if len(self._members) < 2:
            raise ValueError(f"An ensemble has two teachers or more; got {len(self._members)}.")
        if not 0 <= taps_from < len(self._members):
            raise ValueError(
                f"taps_from must be the place of a teacher, 0 to {len(self._members) - 1}; got "
                f"{taps_from}."
            )
        self._weights = _checked(weights, len(self._members))
        self._taps_from = taps_from

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers."""
        return tuple(self._members)

    def meet(self, student: Any) -> None:
        for member in self._members:
            member.meet(student)

    def build(self, input_spec: Any, taps: tuple) -> Signals:
        found = [
            member.build(input_spec, taps if place == self._taps_from else ())
            for place, member in enumerate(self._members)
        ]
        _check_agreement(found)
        return self._joined(found, lambda logits: spec(logits[0]))

    def __call__(self, x: Any) -> Signals:
        return self._joined([member(x) for member in self._members], self._mean)

    def answer(self, x: Any, labels: Any) -> Signals:
        return self._joined([member.answer(x, labels) for member in self._members], self._mean)

    @property
    def state(self) -> tuple:
        return tuple(variable for member in self._members for variable in member.state)

    def after_update(self, iterations: Any) -> None:
        for member in self._members:
            member.after_update(iterations)

    def fingerprint(self) -> str:
        digests = ",".join(member.fingerprint() for member in self._members)
        return f"ensemble({digests};{self._weights})"

    def refresh(self) -> bool:
        return any([member.refresh() for member in self._members])

    def count_params(self) -> int | None:
        counts = [member.count_params() for member in self._members]
        return None if None in counts else sum(count or 0 for count in counts)

    def jit_compile(self, asked: Any) -> Any:
        answers = [member.jit_compile(asked) for member in self._members]
        return next((answer for answer in answers if answer != asked), asked)

    def _joined(self, signals: list[Signals], join: Any) -> Signals:
        names = signals[0].heads or (None,)
        heads = {name: [one.head(name) for one in signals] for name in names}
        return Signals.of_heads(
            {name: join([one.logits for one in found]) for name, found in heads.items()},
            signals[self._taps_from].taps,
            {name: any(one.from_probabilities for one in found) for name, found in heads.items()},
            {name: any(one.from_sigmoid for one in found) for name, found in heads.items()},
        )

    def _mean(self, logits: list) -> Any:
        stacked = ops.stack([ops.cast(one, "float32") for one in logits])
        if self._weights == "confidence":
            return ops.sum(_confidence(stacked) * stacked, axis=0)
        weights = ops.cast(ops.array(self._weights), stacked.dtype)
        return ops.tensordot(weights, stacked, axes=1)


def _confidence(logits: Any) -> Any:
    """`(teachers, batch, ..., 1)`, summing to 1 over the teachers."""
    log_probs = ops.log_softmax(logits, axis=-1)
    entropy = -ops.sum(ops.exp(log_probs) * log_probs, axis=-1, keepdims=True)
    # The small number makes equals of teachers none of which knows anything.
    known = ops.relu(ops.log(float(logits.shape[-1])) - entropy) + 1e-6
    return known / ops.sum(known, axis=0, keepdims=True)


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
                f"The ensemble's teacher 0 has the outputs {first.heads or 'one'} and teacher "
                f"{place} {other.heads or 'one'}. Give teachers of the same outputs."
            )
        for name in first.heads or (None,):
            ours, theirs = first.head(name).logits.shape, other.head(name).logits.shape
            if tuple(ours[1:]) != tuple(theirs[1:]):
                raise ValueError(
                    f"The ensemble's teacher 0 answers {tuple(ours)} and teacher {place} "
                    f"{tuple(theirs)}. All must answer over the same classes."
                )
