"""Token by token, from a teacher that answers over another vocabulary."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_distill import functional
from keras_distill._records import Record, Table
from keras_distill.functional.tensors import Tensor
from keras_distill.functional.vocabularies import UNSHARED
from keras_distill.objectives.base import Objective, layer_name
from keras_distill.objectives.logits_base import check_kinds, check_positive
from keras_distill.objectives.sequences import check_mask, padding_mask
from keras_distill.signals import Signals

__all__ = ["SharedVocabulary", "VocabularyCoverage"]


@dataclasses.dataclass(frozen=True)
class VocabularyCoverage(Record):
    """How far two vocabularies meet.

    Attributes:
      student_tokens, teacher_tokens: how many each has.
      shared: how many are in both.
      student_only, teacher_only: the others, unknown tokens among them.
      mean_unshared_teacher_mass: what the teacher gives its own others, of 1, on the data; None
        where no data was given.
    """

    student_tokens: int
    teacher_tokens: int
    shared: int
    student_only: tuple[str, ...]
    teacher_only: tuple[str, ...]
    mean_unshared_teacher_mass: float | None = None

    def parts(self) -> Iterator[str | Table]:
        """A sentence a set of tokens."""
        yield (
            f"{self.shared:,} tokens shared, of the student's {self.student_tokens:,} and the "
            f"teacher's {self.teacher_tokens:,}"
        )
        yield f"the student's alone: {_some(self.student_only)}"
        yield f"the teacher's alone: {_some(self.teacher_only)}"
        if self.mean_unshared_teacher_mass is not None:
            yield f"the teacher's mass on these: {self.mean_unshared_teacher_mass:.1%}"


@keras.saving.register_keras_serializable("keras_distill")
class SharedVocabulary(Objective):
    """The teacher's distribution over tokens teaches a student that has other tokens.

    Token strings that both vocabularies hold are compared; see `functional.shared_token_kl`.
    Positions are compared one by one, so both models must cut the text at the same places (as with
    words, of which the smaller vocabulary knows fewer).

    Args:
      student_vocab, teacher_vocab: tokens in the order of each model's logits, or dicts from token
        to place.
      unshared: what becomes of the teacher's mass on tokens that the student has not. "bucket": it
        teaches the student's mass on its own other tokens, as one event. The divergence of these
        coarse distributions is exact; it bounds from below the divergence of any finer ones that
        agree with them, and says nothing else of these. "renormalise": it is dropped, and so is the
        student's.
      unknown: tokens that stand for whatever a vocabulary lacks. They mean another thing in either,
        so they are never shared and belong in the bucket.
      temperature: T > 0.
      mask: a layer or an input of the student, as in `HiddenStates`.
      weight, output, name: see `Objective`.

    Raises:
      ValueError: no token shared, a token twice, a bucket that the student can't fill; logits that
        do not fit the vocabularies, or each other's length; a mask of another length.

    Source: the coarse-graining is that of Cover and Thomas, "Elements of Information Theory", 2006.

    >>> objective = SharedVocabulary(["[UNK]", "the", "cat"], ["the", "[UNK]", "cat", "sat"])
    >>> objective.coverage([[2.0, 0.0, 1.0, 0.0]]).shared
    2
    """

    examples = (
        {"student_vocab": list("abcde"), "teacher_vocab": list("abcde")},
        {"student_vocab": list("abcde"), "teacher_vocab": list("abcde"), "unknown": ["d", "e"]},
        {
            "student_vocab": list("abcde"),
            "teacher_vocab": list("abcde"),
            "unknown": ["a"],
            "unshared": "renormalise",
        },
    )

    def __init__(
        self,
        student_vocab: Sequence[str] | Mapping[str, int],
        teacher_vocab: Sequence[str] | Mapping[str, int],
        *,
        unshared: str = "bucket",
        unknown: Sequence[str] = ("[UNK]",),
        temperature: float = 1.0,
        mask: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_positive(self.name, temperature=temperature)
        if unshared not in UNSHARED:
            raise ValueError(f"{self.name}: unshared must be one of {UNSHARED}; got {unshared!r}.")
        self.student_vocab = _tokens(self.name, "student_vocab", student_vocab)
        self.teacher_vocab = _tokens(self.name, "teacher_vocab", teacher_vocab)
        self.unshared = unshared
        self.unknown = tuple(unknown)
        self.temperature = temperature
        self.mask = mask
        self.student_taps = () if mask is None else (mask,)
        self._student_shared, self._teacher_shared = self._places()

    def build(self, student: Signals, teacher: Signals) -> dict[str, keras.layers.Layer]:
        check_kinds(self, student, teacher)
        ours, theirs = tuple(student.logits.shape), tuple(teacher.logits.shape)
        for who, shape, vocabulary in (
            ("student", ours, self.student_vocab),
            ("teacher", theirs, self.teacher_vocab),
        ):
            if shape[-1] != len(vocabulary):
                raise ValueError(
                    f"{self.name}: the {who} answers over {shape[-1]} tokens and its vocabulary "
                    f"has {len(vocabulary)} (outputs: student {ours}, teacher {theirs}). Give the "
                    f"tokens in the order of its logits, special ones included."
                )
        if len(ours) != len(theirs) or any(
            a != b for a, b in zip(ours[1:-1], theirs[1:-1], strict=True) if None not in (a, b)
        ):
            raise ValueError(
                f"{self.name}: the student answers with {ours} and the teacher with {theirs}, and "
                f"positions are compared one by one. Both must cut the text at the same places."
            )
        if self.mask is not None:
            shape = tuple(student.taps[self.mask].shape)
            check_mask(self.name, layer_name(self.mask), shape, ours[1] if len(ours) == 3 else 0)
        return {}

    def __call__(self, student: Signals, teacher: Signals, labels: Tensor) -> Tensor:
        return functional.shared_token_kl(
            student.logits,
            teacher.logits,
            student_shared=self._student_shared,
            teacher_shared=self._teacher_shared,
            unshared=self.unshared,
            temperature=self.temperature,
            mask=None if self.mask is None else padding_mask(student.taps[self.mask]),
        )

    def coverage(self, teacher_logits: Tensor | None = None) -> VocabularyCoverage:
        """What the two vocabularies share.

        Args:
          teacher_logits: `(..., teacher's tokens)`, the teacher's answers on some data, on which
            its mass on other tokens is measured. Leave padded positions out.

        Raises:
          ValueError: logits over another number of tokens.
        """
        shared = {self.student_vocab[place] for place in self._student_shared}
        return VocabularyCoverage(
            student_tokens=len(self.student_vocab),
            teacher_tokens=len(self.teacher_vocab),
            shared=len(shared),
            student_only=tuple(t for t in self.student_vocab if t not in shared),
            teacher_only=tuple(t for t in self.teacher_vocab if t not in shared),
            mean_unshared_teacher_mass=self._unshared_mass(teacher_logits),
        )

    def _places(self) -> tuple[list[int], list[int]]:
        theirs = {token: place for place, token in enumerate(self.teacher_vocab)}
        pairs = [
            (place, theirs[token])
            for place, token in enumerate(self.student_vocab)
            if token in theirs and token not in self.unknown
        ]
        if not pairs:
            raise ValueError(
                f"{self.name}: the vocabularies share no token. The student's: "
                f"{_some(self.student_vocab)}. The teacher's: {_some(self.teacher_vocab)}. Bring "
                f"both to one spelling first (case, marks such as '##' that begin or join words)."
            )
        if self.unshared == "bucket" and len(self.teacher_vocab) > len(pairs) == len(
            self.student_vocab
        ):
            raise ValueError(
                f"{self.name}: the teacher has {len(self.teacher_vocab) - len(pairs)} tokens that "
                f"the student has not, and all of the student's are shared: nothing of it can "
                f"stand for them. Use unshared='renormalise', or name its unknown token in "
                f"unknown=."
            )
        return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]

    def _unshared_mass(self, teacher_logits: Tensor) -> float | None:
        if teacher_logits is None:
            return None
        logits = np.asarray(teacher_logits, "float64")
        if logits.shape[-1] != len(self.teacher_vocab):
            raise ValueError(
                f"{self.name}: teacher_logits of shape {logits.shape} are not over the teacher's "
                f"{len(self.teacher_vocab)} tokens."
            )
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return float(1 - np.mean(weights[..., self._teacher_shared].sum(-1) / weights.sum(-1)))


def _tokens(owner: str, argument: str, vocabulary: Any) -> tuple[str, ...]:
    """The tokens by their place."""
    tokens = list(vocabulary)
    if isinstance(vocabulary, Mapping):
        if sorted(vocabulary.values()) != list(range(len(tokens))):
            raise ValueError(
                f"{owner}: {argument} must give each token a place of its own from 0 to "
                f"{len(tokens) - 1}, as the logits have them."
            )
        tokens.sort(key=vocabulary.__getitem__)
    counts = collections.Counter(tokens)
    if len(counts) < len(tokens):
        twice = [token for token, count in counts.items() if count > 1]
        raise ValueError(f"{owner}: {argument} holds tokens twice: {_some(twice)}.")
    # A TextVectorization's tokens are NumPy's strings, and would print with their type.
    return tuple(str(token) if isinstance(token, str) else token for token in tokens)


def _some(tokens: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(map(repr, tokens[:limit]))
    return f"{shown} and {len(tokens) - limit:,} more" if len(tokens) > limit else shown or "none"
