"""Demands in words: read, checked, refused with what is wrong."""

import pytest

from keras_distill import judging
from keras_distill.judging.record import Figure, Judgement


def record(failed=()):
    values = {("a", "clean"): 0.97, ("b", "clean"): 0.965, ("b.v2", "noise 3"): 0.9}
    figures = tuple(
        Figure(model, condition, "accuracy", value, 0, 1, 0, 0, 0, "better", None, 1, True)
        for (model, condition), value in values.items()
    )
    models = ("a", "b", "b.v2")
    names = ("clean", "noise 3"), ("accuracy",)
    lost = {name: "crashed" for name in failed}
    return Judgement(models, "a", "classes", 9, True, 0.95, *names, figures, {}, failed=lost)


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("b.accuracy >= a.accuracy - 0.5pt", True),  # Just met is met.
        ("b.accuracy >= a.accuracy - 0.4pt", False),
        ("b.accuracy>=a.accuracy -0.5pt", True),
        ("b.accuracy <= a.accuracy + 0", True),
        ("b.accuracy >= 96.5%", True),
        ("b.accuracy >= 0.966", False),
        ("b.v2.accuracy@noise 3 >= .9", True),
        ("b.v2.accuracy@noise 3 <= b.accuracy@clean - 7 pt", False),
    ],
)
def test_a_gate_holds_or_not(text, passed):
    gate = judging.Gate.of(text, ["a", "b", "b.v2"])
    check = gate.check(record())
    assert check.passed is passed
    assert check.name == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("b.accuracy > 0.9", 'at character 12: ">" is neither'),
        ("b.accuracy => 0.9", 'at character 12: "=>" is neither'),
        ("b.accuracy 0.9", "at character 15: it has neither"),
        ("", "at character 1: it has neither"),
        ("b.accuracy >=", "at character 14: nothing"),
        (">= 0.9", "at character 1: nothing"),
        ("b.accuracy >= 0.9 >= 0.8", 'at character 19: a second ">="'),
        ("c.accuracy >= 0.9", "at character 1: 'c.accuracy' is no MODEL.METRIC of a, b"),
        ("b.accuracy >= ninety", "at character 15: 'ninety' is no MODEL.METRIC"),
        ("b.accuracy >= 5 apples", "'5 apples' is no MODEL.METRIC"),
        ("b >= 0.9", "'b' is no MODEL.METRIC"),
    ],
)
def test_what_can_not_be_read_is_said(text, words):
    with pytest.raises(ValueError, match="can't be read") as raised:
        judging.Gate.of(text, ["a", "b"])
    assert words in str(raised.value)


def test_a_figure_that_is_not_there():
    gate = judging.Gate.of("b.NLL@rain <= 3", ["a", "b"])
    with pytest.raises(ValueError, match="no NLL of 'b' on 'rain'"):
        gate.check(record())


def test_what_did_not_run_holds_nothing():
    for text in ("b.accuracy >= 0", "b.accuracy <= 1"):
        gate = judging.Gate.of(text, ["a", "b"])
        assert not gate.check(record(failed=("b",))).passed
