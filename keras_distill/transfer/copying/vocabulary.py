"""An embedding for another vocabulary, from the teacher's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_distill.data import qualified_name
from keras_distill.transfer.copying.weighted import identity
from keras_distill.transfer.report import COPIED, INITIALISED, LEFT, TransferReport, TransferRow

KEEP = "keep"
_CONTINUES = "##"
_STARTS = ("\u2581", "\u0120")
# [PAD], <s>, <|endoftext|>, <0x0A>, and the empty string of a lookup layer's mask.
_SPECIAL = re.compile(r"\[[A-Za-z_]+\d*\]|<[^<>\s]+>|")
_EXAMPLES = 3

Tokenize = Callable[[str], Sequence[Any]]


def copy_vocabulary(
    teacher_embedding: Any,
    student_embedding: Any,
    teacher_vocab: Any,
    student_vocab: Any,
    *,
    tokenize: Tokenize | None = None,
    initializer: Any = None,
    seed: int = 0,
) -> tuple[Any, TransferReport]:
    """Fills the student's embedding with the teacher's rows, token by token.

    A token of both vocabularies takes the teacher's row to the bit. Any other is taken to pieces
    that the teacher knows and takes the mean of their rows. One without pieces starts afresh.
    Special tokens (`[PAD]`, `<s>`, the empty string) are only ever taken by name.

    Args:
      teacher_embedding: a built `Embedding` layer of Keras or tf_keras. It is not changed.
      student_embedding: the same, written into in place; as wide as the teacher's.
      teacher_vocab, student_vocab: the tokens in the order of their rows; or a dict of tokens to
        rows; or a `TextVectorization` or `StringLookup` layer.
      tokenize: takes a token of the student to a list of tokens of the teacher, as the teacher's
        own tokeniser would; an empty list where there is none. By default the longest piece that
        the teacher knows is taken, again and again. WordPiece's "##" and the "\u2581" of
        SentencePiece or "\u0120" of GPT-2 are read as what they mean, each in the vocabulary that
        uses it: "##ing" is the "ing" of "\u2581do", "ing".
      initializer: what starts afresh: a Keras initialiser or its name, or "keep" for the student's
        own rows. None draws each dimension from a normal distribution with the mean and the
        standard deviation of the teacher's rows.
      seed: of the draw, and of an initialiser given by name.

    Returns:
      The student's embedding, and a `TransferReport` of a row for each of the three cases.

    Raises:
      TypeError, ValueError: no built embedding with one table; widths that differ; a vocabulary
        that is not as long as its table, or names a token twice; vocabularies without a token in
        common; a `tokenize` that gives what the teacher does not know. Nothing has been written.

    Source: Gee, Zugarini, Rigutini, Torroni 2022, "Fast Vocabulary Transfer for Language Model
      Compression".

    >>> teacher, student = keras.layers.Embedding(3, 2), keras.layers.Embedding(2, 2)
    >>> teacher.build(None), student.build(None)
    (None, None)
    >>> teacher.set_weights([np.array([[0., 0.], [1., 2.], [3., 6.]])])
    >>> _, report = copy_vocabulary(teacher, student, ["[PAD]", "play", "##ing"],
    ...                             ["[PAD]", "playing"])
    >>> student.get_weights()[0].tolist()
    [[0.0, 0.0], [2.0, 4.0]]
    """
    source, target = _table(teacher_embedding, "teacher"), _table(student_embedding, "student")
    _check_apart(source, target)
    theirs = Vocabulary.read(teacher_vocab, source.shape[0], "teacher")
    mine = Vocabulary.read(student_vocab, target.shape[0], "student")
    known, table = source.numpy(), target.numpy().copy()
    plan = _planned(theirs, mine, tokenize)
    for row, other in plan.shared.items():
        table[row] = known[other]
    for row, others in plan.pieces.items():
        table[row] = known[others].astype("float64").mean(axis=0)
    if plan.fresh and not _keeps(initializer):
        table[plan.fresh] = _fresh(known, len(plan.fresh), initializer, seed)
    target.assign(table)
    return student_embedding, _report(teacher_embedding, student_embedding, mine, plan, initializer)


@dataclass(frozen=True)
class Piece:
    """What a token means: its letters, and whether a word starts with them."""

    text: str
    starts: bool


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their rows, and how they mark where a word starts or goes on."""

    tokens: tuple[Hashable, ...]
    marker: str

    @classmethod
    def read(cls, given: Any, rows: int, whose: str) -> Vocabulary:
        """What the user gave as a vocabulary, checked against its table."""
        tokens = _tokens(given, whose)
        if twice := [token for token, count in Counter(tokens).items() if count > 1]:
            raise ValueError(
                f"The {whose}'s vocabulary has {_some(twice)} more than once. A token has one row: "
                f"give spare rows names of their own."
            )
        if len(tokens) != rows:
            raise ValueError(
                f"The {whose}'s vocabulary has {len(tokens)} tokens and its embedding {rows} rows. "
                f"Name every row ('[unused0]' and so on for spare ones), or build the embedding "
                f"with input_dim={len(tokens)}."
            )
        return cls(tuple(tokens), _marker(tokens))

    def meaning(self, token: Hashable) -> Hashable:
        """A `Piece`; a special token is itself."""
        if not isinstance(token, str) or _SPECIAL.fullmatch(token):
            return token
        if self.marker == _CONTINUES:
            goes_on = _goes_on(token)
            return Piece(token.removeprefix(_CONTINUES) if goes_on else token, not goes_on)
        return Piece(token.removeprefix(self.marker), token.startswith(self.marker))

    def rows(self) -> dict[Any, int]:
        """Each token's row, by what the token means and, where that is free, by its letters."""
        named = {token: row for row, token in enumerate(self.tokens)}
        return named | {self.meaning(token): row for token, row in named.items()}


@dataclass(frozen=True)
class Plan:
    """Rows of the student: those with a row of the teacher, with several, with none."""

    shared: dict[int, int]
    pieces: dict[int, list[int]]
    fresh: list[int]


def _planned(theirs: Vocabulary, mine: Vocabulary, tokenize: Tokenize | None) -> Plan:
    known = theirs.rows()
    pieces_of = _Greedy(known) if tokenize is None else _given(tokenize, theirs)
    plan = Plan({}, {}, [])
    for row, token in enumerate(mine.tokens):
        meaning = mine.meaning(token)
        same = known.get(meaning, known.get(token))
        if same is not None:
            plan.shared[row] = same
        elif isinstance(meaning, Piece) and (pieces := pieces_of(token, meaning)):
            plan.pieces[row] = pieces
        else:
            plan.fresh.append(row)
    if not plan.shared:
        raise ValueError(
            f"The vocabularies have no token in common: the teacher's begins "
            f"{_some(theirs.tokens)}, the student's {_some(mine.tokens)}. Give each embedding its "
            f"own vocabulary, in the order of its rows."
        )
    return plan


class _Greedy:
    """The longest piece that the teacher knows, again and again."""

    def __init__(self, known: Mapping[Any, int]):
        self._known = known
        self._longest = max((len(k.text) for k in known if isinstance(k, Piece)), default=0)

    def __call__(self, token: Any, word: Piece) -> list[int]:
        found: list[int] = []
        while word.text:
            piece = self._first(word)
            if piece is None:
                return []
            found.append(self._known[piece])
            word = Piece(word.text[len(piece.text) :], starts=False)
        return found

    def _first(self, word: Piece) -> Piece | None:
        for length in range(min(len(word.text), self._longest), 0, -1):
            for starts in (word.starts, not word.starts):
                piece = Piece(word.text[:length], starts)
                if piece in self._known:
                    return piece
        return None


def _given(tokenize: Tokenize, theirs: Vocabulary) -> Callable[[Any, Piece], list[int]]:
    rows = {token: row for row, token in enumerate(theirs.tokens)}

    def pieces(token: Any, _: Piece) -> list[int]:
        found = tokenize(token)
        if isinstance(found, str) or any(piece not in rows for piece in found):
            raise ValueError(
                f"tokenize({token!r}) gave {found!r}; expected a list of tokens of the teacher's "
                f"vocabulary, or an empty one."
            )
        return [rows[piece] for piece in found]

    return pieces


def _tokens(given: Any, whose: str) -> list[Hashable]:
    if isinstance(given, Mapping):
        return _in_order(given, whose)
    if hasattr(given, "get_vocabulary"):
        return _numbered([_plain(token) for token in given.get_vocabulary()])
    if isinstance(given, (list, tuple, np.ndarray)):
        return [_plain(token) for token in given]
    raise TypeError(
        f"Expected the {whose}'s vocabulary as a list of tokens in the order of their rows, a dict "
        f"of tokens to rows, or a layer with get_vocabulary(); got {qualified_name(given)}."
    )


def _plain(token: Hashable) -> Hashable:
    # NumPy's strings, of which a layer's vocabulary is made, would print with their type.
    if isinstance(token, bytes):
        return token.decode()
    return str(token) if isinstance(token, str) else token


def _in_order(given: Mapping[Hashable, int], whose: str) -> list[Hashable]:
    tokens = sorted(given, key=lambda token: given[token])
    for row, token in enumerate(tokens):
        if given[token] != row:
            raise ValueError(
                f"The {whose}'s vocabulary gives {token!r} the row {given[token]!r}, where row "
                f"{row} was expected: each row from 0 on has one token."
            )
    return tokens


def _numbered(tokens: list[Hashable]) -> list[Hashable]:
    """A lookup layer's several rows for the unknown have one name; the later get a number."""
    seen: dict[Hashable, int] = {}
    for place, token in enumerate(tokens):
        seen[token] = seen.get(token, 0) + 1
        if seen[token] > 1:
            tokens[place] = ("unknown", token, seen[token])
    return tokens


def _goes_on(token: str) -> bool:
    return token.startswith(_CONTINUES) and token != _CONTINUES


def _marker(tokens: Sequence[Hashable]) -> str:
    """The mark that most tokens of a vocabulary bear; empty for whole words."""
    words = [token for token in tokens if isinstance(token, str)]
    counts = {mark: sum(w.startswith(mark) for w in words) for mark in _STARTS}
    counts[_CONTINUES] = sum(map(_goes_on, words))
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else ""


def _table(embedding: Any, whose: str) -> Any:
    weights = list(getattr(embedding, "weights", ()))
    if hasattr(embedding, "embeddings_initializer") and not weights:
        raise ValueError(
            f"The {whose}'s embedding {embedding.name!r} is not built and has no rows yet. Call "
            f"its build(None), or the model once on a batch."
        )
    if len(weights) != 1 or len(weights[0].shape) != 2 or "float" not in _dtype(weights[0]):
        raise TypeError(
            f"Expected the {whose}'s embedding as a layer with one table, like "
            f"keras.layers.Embedding; got {qualified_name(embedding)} with the weights "
            f"{[(tuple(w.shape), _dtype(w)) for w in weights]}. Take compression or LoRA off first."
        )
    return weights[0]


def _dtype(weight: Any) -> str:
    return keras.backend.standardize_dtype(weight.dtype)


def _check_apart(source: Any, target: Any) -> None:
    if identity(source) == identity(target):
        raise ValueError(
            "The student's embedding is the teacher's: copying would write to the teacher. Make "
            "the student one of its own."
        )
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"The teacher's embedding is {source.shape[1]} wide and the student's "
            f"{target.shape[1]}. Expected equal widths: build the student's with "
            f"output_dim={source.shape[1]} and a Dense({target.shape[1]}) behind it."
        )


def _keeps(initializer: Any) -> bool:
    return isinstance(initializer, str) and initializer == KEEP


def _fresh(known: np.ndarray, count: int, initializer: Any, seed: int) -> np.ndarray:
    shape = (count, known.shape[1])
    if initializer is None:
        rows = known.astype("float64")
        return np.random.default_rng(seed).normal(rows.mean(axis=0), rows.std(axis=0), shape)
    made = keras.initializers.get(initializer)
    if isinstance(initializer, str) and "seed" in made.get_config():
        made = type(made).from_config({**made.get_config(), "seed": seed})
    return np.asarray(keras.ops.convert_to_numpy(made(shape)))


def _report(
    teacher: Any, student: Any, mine: Vocabulary, plan: Plan, initializer: Any
) -> TransferReport:
    taken = len(plan.shared) * _table(student, "student").shape[1]
    fresh = (LEFT, "left as they were") if _keeps(initializer) else (INITIALISED, "initialised")
    cases: list[tuple[str, str, Collection[int], str | None, int]] = [
        (COPIED, "shared tokens", plan.shared, teacher.name, taken),
        (INITIALISED, "the mean of the teacher's pieces", plan.pieces, teacher.name, 0),
        (fresh[0], f"no pieces, {fresh[1]}", plan.fresh, None, 0),
    ]
    rows = []
    for action, what, members, source, parameters in cases:
        if members:
            examples = _some([mine.tokens[row] for row in members])
            why = f"{len(members)} of {len(mine.tokens)} rows: {what} ({examples})"
            rows.append(TransferRow(student.name, action, source, why, parameters))
    return TransferReport(f"Vocabulary of {teacher.name!r} into {student.name!r}", tuple(rows))


def _some(tokens: Sequence[Hashable]) -> str:
    return ", ".join(map(repr, tokens[:_EXAMPLES]))
