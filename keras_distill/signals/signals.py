"""What a model said of a batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_distill._keras import reshaped

__all__ = ["Signals"]


@dataclasses.dataclass(frozen=True)
class Signals:
    """What one model said about one batch.

    Attributes:
      logits: `(batch, ..., classes)`; in a model of several outputs a dict of them by head.
      taps: layer outputs, keyed as the objectives named them.
      from_probabilities: True where `logits` are log-probabilities, because the model ends in a
        softmax whose input could not be reached; a dict by head like `logits`.
      from_sigmoid: True where `logits` are what a final sigmoid gave; a dict by head, too.
    """

    logits: Any
    taps: Mapping[Any, Any] = dataclasses.field(default_factory=dict)
    from_probabilities: Any = False
    from_sigmoid: Any = False

    @classmethod
    def of_heads(
        cls,
        logits: Mapping,
        taps: Mapping[Any, Any],
        from_probabilities: Mapping,
        from_sigmoid: Mapping,
    ) -> "Signals":
        """Signals of a model's heads; a single output's head is called None."""
        if list(logits) == [None]:
            return cls(logits[None], taps, from_probabilities[None], from_sigmoid[None])
        return cls(dict(logits), taps, dict(from_probabilities), dict(from_sigmoid))

    @property
    def kind(self) -> str:
        """What a single head says: "logits", "probabilities" (by their logarithms) or "sigmoid"."""
        if self.from_sigmoid:
            return "sigmoid"
        return "probabilities" if self.from_probabilities else "logits"

    def log_probs(self, temperature: Any = 1.0):
        """`log softmax(logits / temperature)`, `(batch, ..., classes)`."""
        logits = ops.cast(self.logits, "float32")
        return ops.log_softmax(logits / ops.cast(temperature, logits.dtype), axis=-1)

    @property
    def heads(self) -> tuple:
        """Names of the model's outputs; empty for a model of one."""
        return tuple(self.logits) if isinstance(self.logits, Mapping) else ()

    def head(self, name: str | None) -> "Signals":
        """These signals with one head's logits; a model of one output has only that to give."""
        if not self.heads:
            return self
        if name not in self.logits:
            raise ValueError(
                f"output={name!r} names no output of the model; its outputs are "
                f"{', '.join(map(repr, self.heads))}."
            )
        sigmoid = self.from_sigmoid
        sigmoid = sigmoid[name] if isinstance(sigmoid, Mapping) else sigmoid
        return Signals(self.logits[name], self.taps, self.from_probabilities[name], sigmoid)

    def folded(self, positions: int) -> "Signals":
        """One head's signals with `positions` axes of positions in the batch, without taps."""

        def fold(logits):
            return ops.reshape(logits, (-1, *logits.shape[positions + 1 :]))

        logits = reshaped(self.logits, fold)
        return Signals(logits, {}, self.from_probabilities, self.from_sigmoid)

    def speaking_for(self, heads: Mapping[str, str]) -> "Signals":
        """These signals with other heads: each name with the head that answers for it."""
        return Signals(
            {name: self.logits[said] for name, said in heads.items()},
            self.taps,
            {name: self.from_probabilities[said] for name, said in heads.items()},
            {name: self.from_sigmoid[said] for name, said in heads.items()},
        )
