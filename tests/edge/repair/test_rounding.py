"""What is learned of a layer alone is as good as trying all roundings."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import edge
from keras_distill.edge.quantize.weights import Grid
from keras_distill.edge.repair.rounding import Rounding

# At 4 bits.
LEVELS, STEP = 7, 0.1


def alike(rows=320, inputs=11):
    """Inputs of which each is much like the others, so that roundings in one direction add up."""
    random = np.random.default_rng(3)
    x = (1 + 0.3 * random.normal(size=(rows, inputs))).astype("float32")
    whole = random.integers(-5, 5, size=(inputs, 3))
    kernel = STEP * (whole + random.uniform(0.3, 0.7, size=(inputs, 3)))
    kernel[0] = STEP * LEVELS  # The largest of each channel: the step is 0.1.
    return x, kernel.astype("float32")


def errors_of_all(x, column):
    """The mean squared error of each of the 2^10 roundings of a column, and the one of nearest."""
    below = np.floor(column[1:] / STEP)
    every = np.array(list(itertools.product([0, 1], repeat=len(below))))
    off = STEP * (below + every) - column[1:]
    found = np.mean((x[:, 1:] @ off.T) ** 2, axis=0)
    nearest = np.all(every == np.rint(column[1:] / STEP) - below, axis=1)
    return found, found[nearest][0]


def test_it_finds_what_trying_all_finds(quantised):
    x, kernel = alike()
    model = keras.Sequential([keras.Input((11,)), keras.layers.Dense(3, name="sum")])
    model.get_layer("sum").kernel.assign(kernel)
    twin = quantised(model, 4, x)
    assert edge.reconstruct(twin, data=x, iterations=300, verbose=False) is twin
    learned = twin.get_layer("sum").treated_weights()["kernel"].numpy()
    for unit in range(3):
        every, nearest = errors_of_all(x, kernel[:, unit])
        # With this data the nearest rounding is at least six times as bad as the best.
        assert nearest > 6 * every.min()
        off = np.mean((x @ (learned[:, unit] - kernel[:, unit])) ** 2)
        assert off < 1.5 * every.min()


@pytest.fixture
def rounding():
    # Steps of 0.1 and 0.02: 7, 2.25, -3.75, 0 and -7, 1.5, 0, 6.9.
    weight = [[0.7, -0.14], [0.225, 0.03], [-0.375, 0.0], [0.0, 0.138]]
    return np.float32(weight), Rounding(tf.constant(weight), Grid((-1,), 4))


def test_it_begins_at_the_weight_itself(rounding):
    weight, found = rounding
    np.testing.assert_allclose(found.soft(), weight, atol=1e-6)
    # |2h - 1| is 0.5, 0.5, 0 and 0.8 where h is free: 1 - 0.25, twice, 1 and 1 - 0.64.
    assert float(found.undecided(tf.constant(2.0))) == pytest.approx(2.86, abs=1e-4)


@pytest.mark.parametrize(("choice", "steps"), [(-9.0, [2, -4, 1, 6]), (9.0, [3, -3, 2, 7])])
def test_what_lies_on_a_step_stays_and_the_rest_goes_below_or_above(rounding, choice, steps):
    weight, found = rounding
    found.choice.assign(tf.fill(weight.shape, choice))
    made = found.made().numpy()
    scale = np.float32([0.1, 0.02])
    expected = [[7, -7], [steps[0], steps[2]], [steps[1], 0], [0, steps[3]]] * scale
    np.testing.assert_allclose(made, expected, atol=1e-6)
    np.testing.assert_allclose(found.soft(), expected, atol=1e-6)
    # To the bit: the step of each channel is the same.
    np.testing.assert_array_equal(made[0], weight[0])
    assert float(found.undecided(tf.constant(2.0))) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(Grid((-1,), 4)(tf.constant(made)), made, atol=1e-6)
