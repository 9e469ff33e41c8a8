"""What no trial beats, and what is within a budget, by hand and by brute force."""

import itertools
import random

import pytest

from keras_distill.pipeline.tuning.front import Budget, best, on_front
from keras_distill.pipeline.tuning.record import TunePoint


def point(trial, accuracy, size, latency, metric="accuracy"):
    return TunePoint(trial, {}, metric, accuracy, size, latency, latency, latency, 1.0, "h")


def test_the_front_by_hand():
    points = [
        point(0, 0.90, 1000, 1.0),
        point(1, 0.90, 900, 1.0),  # beats 0
        point(2, 0.95, 2000, 2.0),
        point(3, 0.95, 2000, 2.0),  # equals 2
        point(4, 0.80, 950, 0.5),  # the fastest
        point(5, 0.89, 901, 1.1),  # beaten by 1
    ]
    assert on_front([one.costs for one in points]) == [False, True, True, True, True, False]


def test_the_front_by_its_definition():
    drawn = random.Random(0)
    for _ in range(50):
        costs = [tuple(drawn.randrange(4) for _ in range(3)) for _ in range(12)]
        # A corner of the space below a point holds nobody else.
        corners = [set(itertools.product(*(range(cost + 1) for cost in one))) for one in costs]
        expected = [
            not (corner - {one}) & set(costs) for one, corner in zip(costs, corners, strict=True)
        ]
        assert on_front(costs) == expected


def test_an_error_is_the_better_the_less_it_is():
    assert on_front([point(i, e, 9, 1.0, "MAE").costs for i, e in enumerate((0.2, 0.1))]) == [
        False,
        True,
    ]


POINTS = [point(0, 0.9, 1000, 1.0), point(1, 0.95, 2000, 1.0), point(2, 0.95, 1900, 3.0)]


@pytest.mark.parametrize(
    ("budget", "trial"),
    [
        (Budget(), 2),  # of the most accurate the smallest
        (Budget(bytes=2000, ms=2.0), 1),
        (Budget(bytes=1899), 0),
        (Budget(bytes=1000, ms=1.0), 0),
        (Budget(bytes=999), None),
        (Budget(ms=0.9), None),
    ],
)
def test_the_best_within_a_budget(budget, trial):
    found = best(POINTS, budget)
    assert (None if found is None else found.trial) == trial


def test_how_far_over_a_budget_a_point_is():
    assert Budget(bytes=500).over(POINTS[0]) == 2.0
    assert Budget(bytes=500, ms=0.25).over(POINTS[0]) == 4.0
    assert str(Budget(bytes=5000, ms=0.25)) == "5,000 bytes and 0.25 ms"
