"""The order of an epoch and the seeds of its views follow from numbers alone."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.teachers.cache.order import example_seeds, shuffled


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000, 4099])
def test_every_example_comes_once(count):
    found = shuffled(tf.range(count), count, seed=3, epoch=5)
    assert sorted(found.numpy().tolist()) == list(range(count))


def test_any_part_can_be_had_without_the_rest():
    whole = shuffled(tf.range(1000), 1000, seed=0, epoch=2)
    np.testing.assert_array_equal(shuffled(tf.range(640, 768), 1000, 0, 2), whole[640:768])


def test_seed_and_epoch_both_decide_the_order():
    orders = [
        shuffled(tf.range(500), 500, seed, epoch).numpy().tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(map(tuple, orders))) == 4


def test_the_order_is_as_good_as_a_drawn_one():
    # Over many epochs an example stands at a uniform position: mean (n - 1) / 2 with a standard
    # error of n / sqrt(12 epochs), and neighbours in the data are no neighbours in the order: the
    # mean distance of two uniform positions is n / 3, its standard error n / sqrt(18 epochs).
    count, epochs = 101, 2000
    order = tf.function(lambda epoch: shuffled(tf.range(count), count, 0, epoch), autograph=False)
    orders = np.stack([order(tf.constant(epoch)) for epoch in range(epochs)])
    places = np.argsort(orders, axis=1)
    error = count / np.sqrt(12 * epochs)
    assert np.abs(places.mean(0) - (count - 1) / 2).max() < 5 * error
    apart = np.abs(np.diff(places, axis=1)).mean(0)
    assert np.abs(apart - (count + 1) / 3).max() < 5 * count / np.sqrt(18 * epochs)


def test_seeds_differ_between_examples_epochs_and_caches():
    sets = [example_seeds(tf.range(1000), seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    seeds = np.concatenate(sets)
    assert seeds.dtype == np.int32
    assert len(np.unique(seeds, axis=0)) == 4000
    np.testing.assert_array_equal(example_seeds(tf.range(7, 9), 1, 0), sets[2][7:9])
