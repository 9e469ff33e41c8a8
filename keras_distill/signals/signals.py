"""What a model said of a batch."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keras import ops

from keras_distill._keras import reshaped
from keras_distill.functional.tensors import Tensor

__all__ = ["Head", "Signals"]


@dataclasses.dataclass(frozen=True)
class Head:
    """What a model said at one of its outputs.

    Attributes:
      logits: `(batch, ..., classes)`.
      kind: "logits"; "probabilities", where `logits` are log-probabilities, because the model ends
        in a softmax whose input could not be reached; "sigmoid", where they are what that gave.
      top_k: how many of the largest logits are the model's own, where a cache kept these alone and
        the others share what it knows of the rest; None for all.
    """

    logits: Tensor
    kind: str = "logits"
    top_k: int | None = None


@dataclasses.dataclass(frozen=True, init=False)
class Signals:
    """What one model said about one batch.

    Args:
      logits: `(batch, ..., classes)`; in a model of several outputs a dict of them by head.
      taps: layer outputs, keyed as the objectives named them.
      from_probabilities: True where `logits` are log-probabilities; a dict by head like `logits`.
      from_sigmoid: True where `logits` are what a final sigmoid gave; a dict by head, too.
      heads: `Head`s by name in place of these; `logits` beside them takes the place of theirs.

    Attributes:
      heads: a `Head` for each output of the model by its name, None for an only one.
      taps: as above.

    >>> Signals({"kind": 1.0, "size": 2.0}, from_sigmoid={"kind": True}).heads["kind"]
    Head(logits=1.0, kind='sigmoid', top_k=None)
    """

    heads: Mapping[Any, Head]
    taps: Mapping[Any, Any]

    def __init__(
        self,
        logits: Any = None,
        taps: Mapping[Any, Any] | None = None,
        from_probabilities: Any = False,
        from_sigmoid: Any = False,
        *,
        heads: Mapping[Any, Head] | None = None,
    ):
        if heads is None or logits is not None:
            logits = logits if isinstance(logits, Mapping) else {None: logits}
            before = heads or {}
            heads = {
                name: dataclasses.replace(
                    before.get(name, Head(one)),
                    logits=one,
                    kind=_kind(heads, name, from_probabilities, from_sigmoid),
                )
                for name, one in logits.items()
            }
        object.__setattr__(self, "heads", dict(heads))
        object.__setattr__(self, "taps", taps or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the model's outputs; empty for a model of one."""
        return () if list(self.heads) == [None] else tuple(self.heads)

    @property
    def logits(self) -> Any:
        """Those of the one head, or a dict of them by head."""
        return self._by_head(lambda head: head.logits)

    @property
    def from_probabilities(self) -> Any:
        """Whether `logits` are log-probabilities; a dict by head like `logits`."""
        return self._by_head(lambda head: head.kind == "probabilities")

    @property
    def from_sigmoid(self) -> Any:
        """Whether `logits` are what a final sigmoid gave; a dict by head like `logits`."""
        return self._by_head(lambda head: head.kind == "sigmoid")

    @property
    def kind(self) -> Any:
        """What the one head says, as `Head.kind`; a dict by head like `logits`."""
        return self._by_head(lambda head: head.kind)

    @property
    def top_k(self) -> Any:
        """How many of the one head's largest logits are its own; a dict by head like `logits`."""
        return self._by_head(lambda head: head.top_k)

    def log_probs(self, temperature: float | Tensor = 1.0) -> Tensor:
        """`log softmax(logits / temperature)`, `(batch, ..., classes)`."""
        logits = ops.cast(self.logits, "float32")
        return ops.log_softmax(logits / ops.cast(temperature, logits.dtype), axis=-1)

    def head(self, name: str | None) -> "Signals":
        """These signals with one head's logits; a model of one output has only that to give."""
        if not self.names:
            return self
        if name not in self.heads:
            raise ValueError(
                f"output={name!r} names no output of the model; its outputs are "
                f"{', '.join(map(repr, self.heads))}."
            )
        return Signals(heads={None: self.heads[name]}, taps=self.taps)

    def folded(self, positions: int) -> "Signals":
        """One head's signals with `positions` axes of positions in the batch, without taps."""

        def fold(logits: Tensor) -> Tensor:
            return ops.reshape(logits, (-1, *logits.shape[positions + 1 :]))

        return Signals(heads=self.changed(lambda head: reshaped(head.logits, fold)).heads)

    def speaking_for(self, heads: Mapping[str, str]) -> "Signals":
        """These signals with other heads: each name with the head that answers for it."""
        found = {name: self.heads[said] for name, said in heads.items()}
        return Signals(heads=found, taps=self.taps)

    def changed(self, logits_of: Callable[[Head], Tensor]) -> "Signals":
        """These signals with other logits, of the same kinds."""
        return Signals(
            heads={
                name: dataclasses.replace(head, logits=logits_of(head))
                for name, head in self.heads.items()
            },
            taps=self.taps,
        )

    def tensors(self) -> list[Tensor]:
        """Every head's logits and every tap."""
        return [*(head.logits for head in self.heads.values()), *self.taps.values()]

    def holding(self, tensors: Iterable[Tensor]) -> "Signals":
        """These signals with others in the place of `tensors`."""
        rest = iter(tensors)
        return Signals(
            heads=self.changed(lambda _: next(rest)).heads,
            taps=dict(zip(self.taps, rest, strict=True)),
        )

    def _by_head(self, read: Callable[[Head], Any]) -> Any:
        if not self.names:
            return read(self.heads[None])
        return {name: read(head) for name, head in self.heads.items()}


def _kind(
    heads: Mapping[Any, Head] | None, name: Any, from_probabilities: Any, from_sigmoid: Any
) -> str:
    def of_head(given: Any) -> Any:
        return given.get(name, False) if isinstance(given, Mapping) else given

    if of_head(from_sigmoid):
        return "sigmoid"
    if of_head(from_probabilities):
        return "probabilities"
    return heads[name].kind if heads and name in heads else "logits"
