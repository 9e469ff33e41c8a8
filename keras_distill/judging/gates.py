"""Demands on a judgement in words: "b.accuracy >= a.accuracy - 0.5pt"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keras_distill.edge.records import Check
from keras_distill.judging.record import CLEAN, Judgement

__all__ = ["Gate"]

_COMPARED: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}
_EXAMPLE = '"b.accuracy >= a.accuracy - 0.5pt", "b.accuracy@noise 3 >= 0.8", "b.ECE <= 5%"'
_UNITS = {"": 1.0, "%": 0.01, "pt": 0.01}
_NUMBER = re.compile(r"(\d+\.?\d*(?:e-?\d+)?|\.\d+)\s*(%|pt|)")
# Just met is met, and 0.97 - 0.005 is not quite what it says in binary.
_SLACK = 1e-9


@dataclass(frozen=True)
class _Named:
    """A figure: a model's metric under a condition."""

    model: str
    metric: str
    condition: str = CLEAN


@dataclass(frozen=True)
class Gate:
    """A demand that holds or not.

    Attributes:
      text: as it was written.
      left: the figure.
      comparison: ">=" or "<=".
      right: another figure, or None for a number alone.
      number: what is added to it.

    >>> Gate.of("b.accuracy >= a.accuracy - 0.5pt", ["a", "b"]).number
    -0.005
    """

    text: str
    left: _Named
    comparison: str
    right: _Named | None
    number: float

    @classmethod
    def of(cls, text: str, models: Sequence[str]) -> Gate:
        """Read a demand: FIGURE >= FIGURE, a number, or a figure plus or minus a number.

        A figure is MODEL.METRIC or MODEL.METRIC@CONDITION; a number may end in "%" or "pt", points
        of a hundred. Before a plus or minus is a space, for metrics have names like top-5.

        Args:
          text: the demand.
          models: the names that there are; a name may have dots.

        Raises:
          ValueError: it can't be read, or names another model.
        """
        signs = list(re.finditer(">=|<=", text))
        if not signs:
            other = re.search("[<>=]+", text)
            why = f'"{other[0]}" is neither' if other else "it has neither"
            place = other.start() if other else len(text)
            raise ValueError(_unread(text, f'{why} ">=" nor "<="', place))
        if len(signs) > 1:
            raise ValueError(_unread(text, f'a second "{signs[1][0]}"', signs[1].start()))
        (sign,) = signs
        left, comparison, right = text[: sign.start()].strip(), sign[0], text[sign.end() :].strip()
        for side, place in ((left, 0), (right, len(text))):
            if not side:
                raise ValueError(_unread(text, "nothing stands here", place))
        figure, number = _sum(right, text, models)
        return cls(text, _named(left, text, models), comparison, figure, number)

    def check(self, record: Judgement) -> Check:
        """Whether it holds.

        Raises:
          ValueError: the judgement has no such figure.
        """
        value = _value(self.left, record, self.text)
        limit = self.number
        if self.right is not None:
            limit += _value(self.right, record, self.text)
        apart = (value - limit) if self.comparison == ">=" else (limit - value)
        words = f"{value:.6g} {self.comparison} {limit:.6g} demanded"
        return Check(self.text, words, apart >= -_SLACK)


def _value(one: _Named, record: Judgement, text: str) -> float:
    if one.model in record.failed:
        # Nothing is as good, and nothing as bad, as was demanded.
        return float("nan")
    try:
        return record.figure(one.model, one.metric, one.condition).value
    except KeyError as error:
        place = text.find(one.model)
        raise ValueError(_unread(text, error.args[0].rstrip("."), place)) from error


def _sum(side: str, text: str, models: Sequence[str]) -> tuple[_Named | None, float]:
    whole = _NUMBER.fullmatch(side)
    if whole:
        return None, float(whole[1]) * _UNITS[whole[2]]
    split = re.fullmatch(r"(.+?)\s+([+-])\s*(\S+\s*(?:%|pt)?)", side)
    if split and (number := _NUMBER.fullmatch(split[3].strip())):
        by = float(number[1]) * _UNITS[number[2]] * (1 if split[2] == "+" else -1)
        return _named(split[1], text, models), by
    return _named(side, text, models), 0.0


def _named(words: str, text: str, models: Sequence[str]) -> _Named:
    for model in sorted(models, key=len, reverse=True):
        if words.startswith(f"{model}.") and len(words) > len(model) + 1:
            metric, at, condition = words[len(model) + 1 :].partition("@")
            return _Named(model, metric.strip(), condition.strip() if at else CLEAN)
    why = f"{words!r} is no MODEL.METRIC of {', '.join(models)}"
    raise ValueError(_unread(text, why, text.find(words)))


def _unread(text: str, why: str, place: int) -> str:
    return (
        f"The gate {text!r} can't be read, at character {place + 1}: {why}. Gates look like "
        f"{_EXAMPLE}."
    )
