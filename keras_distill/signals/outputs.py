"""A model's outputs: heads by name, and logits of what they are."""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill import _keras
from keras_distill.functional.tensors import Tensor
from keras_distill.signals import Head, Signals
from keras_distill.signals.meaning import kind_of, logits_behind

__all__ = [
    "KINDS",
    "by_head",
    "by_path",
    "check_kind",
    "finite",
    "given_names",
    "head_of",
    "kind",
    "opened",
    "output_names",
    "renamed",
    "spec",
    "swapped",
    "warn_of_distribution",
]

KINDS = ("auto", "logits", "probabilities", "sigmoid")

_SMALLEST_NORMAL = 1.1754944e-38
_LOWEST = -1e9
# How far from 1 a row of rounded probabilities may sum.
_ROUNDING = 1e-2


def by_head(outputs: Tensor, names: Any = None) -> dict[str | None, Tensor]:
    """A model's outputs by head; a single output has the head None.

    In a structure of several levels the path is the name: `"boxes/0"`.

    Args:
      outputs: a tensor, or lists and dicts of them.
      names: names for a list's members, where the model knows them.
    """
    found = by_path(outputs)
    if len(found) == 1:
        return {None: next(iter(found.values()))}
    containers = (list, tuple, Mapping)
    if isinstance(outputs, Mapping) or any(isinstance(part, containers) for part in outputs):
        return found
    if not names or len(names) != len(outputs):
        names = [f"output_{i}" for i in range(len(outputs))]
    return dict(zip(names, outputs, strict=True))


def by_path(structure: Any) -> dict[Any, Any]:
    """The leaves of lists and dicts by their paths, `"boxes/0"`; a leaf's own path is empty."""
    if isinstance(structure, (list, tuple)):
        structure = {str(index): part for index, part in enumerate(structure)}
    if not isinstance(structure, Mapping):
        return {"": structure}
    return {
        key if path == "" else f"{key}/{path}": leaf
        for key, part in structure.items()
        for path, leaf in by_path(part).items()
    }


def head_of(output: Tensor, kind: str) -> Head:
    """What a model's output says.

    Args:
      output: `(batch, ..., classes)`.
      kind: "logits", "probabilities" or "sigmoid", whose numbers stay: the objectives on yes and no
        take them back.
    """
    if kind == "probabilities":
        logits = logits_behind(output, "Softmax")
        if logits is not None:
            return Head(logits)
        logits = ops.log(ops.maximum(ops.cast(output, "float32"), _SMALLEST_NORMAL))
        return Head(logits, "probabilities")
    return Head(_with_logits(output), "sigmoid") if kind == "sigmoid" else Head(output)


def _with_logits(output: Tensor) -> Tensor:
    """A sigmoid's output that holds its input where Keras' own layers leave it for their losses."""
    logits = logits_behind(output, "Sigmoid")
    if logits is None or _keras.kept_logits(output) is not None:
        return output
    output = tf.identity(output)
    _keras.keep_logits(output, logits)
    return output


def kind(output: Tensor, head: str | None, said: Any) -> str:
    """What an output means: as it was said to, or as its graph tells.

    Args:
      output: `(batch, ..., classes)`.
      head: its name.
      said: one of KINDS, or a dict of them by head.
    """
    said = said.get(head, "auto") if isinstance(said, Mapping) else said
    return kind_of(output) if said == "auto" else said


def check_kind(said: Any, argument: str, kinds: Iterable[str] = KINDS) -> Any:
    """`said` itself, or ValueError where it is none of the kinds nor a dict of them."""
    for one in said.values() if isinstance(said, Mapping) else (said,):
        if one not in kinds:
            raise ValueError(
                f"{argument} must be one of {', '.join(map(repr, kinds))}, or a dict of them by "
                f"output; got {one!r}."
            )
    return said


def output_names(model: Any) -> list[str] | None:
    """The names that a Functional model gives its outputs."""
    names = getattr(model, "output_names", None)
    return list(names) if isinstance(names, (list, tuple)) else None


def given_names(model: Any) -> list[str] | None:
    """`output_names` but for those that Keras made up for a list, by which nothing can be paired.

    Keras counts through the process: another model's `dense_1` is another output.
    """
    names = output_names(model)
    if names is None or isinstance(getattr(model, "output", None), Mapping):
        return names
    return None if all(_is_made_up(model, name) for name in names) else names


def renamed(heads: dict[Any, Tensor], names: Mapping[str, str], owner: str) -> dict[Any, Tensor]:
    """Outputs by head, some under another name.

    Args:
      heads: what `by_head` gives.
      names: old names and new ones.
      owner: whose outputs these are, for the error.

    Raises:
      ValueError: a name that no output has, or one that two would have.
    """
    found = {names.get(head, head): output for head, output in heads.items()}
    if not set(names) <= set(heads) or len(found) < len(heads):
        raise ValueError(
            f"{owner}: heads={ {new: old for old, new in names.items()} } does not fit its "
            f"outputs, {', '.join(map(repr, heads))}: each gets one name of its own."
        )
    return found


def swapped(heads: Mapping[str, str]) -> dict[str, str]:
    """`{old name: new name}` of `{new: old}`; ValueError where one output would get two names."""
    found = {theirs: ours for ours, theirs in heads.items()}
    if len(found) < len(heads):
        raise ValueError(f"heads: one output of the model has two names in {dict(heads)}.")
    return found


def warn_of_distribution(answer: Tensor, head: str | None, owner: str) -> None:
    """Warn where an answer that counts as logits is made of probabilities.

    Args:
      answer: `(batch, ..., classes)`, numbers.
      head: its name.
      owner: who answered.
    """
    answer = np.asarray(answer, "float64")
    if answer.ndim < 2 or answer.shape[-1] < 2 or answer.min() < 0 or answer.max() > 1:
        return
    if np.abs(answer.sum(-1) - 1).max() < _ROUNDING:
        where = "" if head is None else f" at its output {head!r}"
        warnings.warn(
            f"{owner} answers{where} with rows that sum to 1: probabilities, it seems, and they "
            f"are taken as logits. Say which: teachers.Model(teacher, output='probabilities'), or "
            f"output='logits'.",
            stacklevel=2,
        )


def finite(signals: Signals, owner: Any) -> Signals:
    """A teacher's Signals with no logit of -inf, a probability of 0, left: it becomes -1e9.

    What else is not finite (NaN, +inf, a row of nothing but -inf) fails the step with an
    `InvalidArgumentError` that names `owner`; XLA leaves that out, and the value becomes NaN.
    """
    message = (
        f"The teacher {owner!r} answered with numbers that are not finite. Look for NaN in the "
        f"data, or in its weights"
    )
    return signals.changed(lambda head: _finite(head.logits, message))


def _finite(logits: Tensor, message: str) -> Tensor:
    logits = tf.convert_to_tensor(logits)
    if not logits.dtype.is_floating:
        return logits
    lowest = tf.cast(max(_LOWEST, float(logits.dtype.min)), logits.dtype)
    out = (logits == -np.inf) & (tf.reduce_max(logits, axis=-1, keepdims=True) > -np.inf)
    return tf.debugging.check_numerics(tf.where(out, lowest, logits), message)


def _is_made_up(model: Any, name: str) -> bool:
    try:
        kind = type(model.get_layer(name)).__name__
    except ValueError:
        return False
    return re.sub(r"_\d+$", "", name).replace("_", "") == kind.lower()


def spec(tensor: Tensor) -> keras.KerasTensor:
    """A tensor's shape and dtype, batch None."""
    shape = (None, *tuple(tensor.shape)[1:])
    return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(tensor.dtype))


def opened(first: Tensor, second: Tensor) -> keras.KerasTensor:
    """The spec of a tensor that a model gave at two sizes: open where the two differ."""
    pairs = zip(first.shape, second.shape, strict=True)
    shape = tuple(ours if ours == theirs else None for ours, theirs in pairs)
    return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(first.dtype))
