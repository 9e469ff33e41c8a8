"""Batches of one budget and one order; labels taken away class by class."""

import numpy as np

from keras_distill.pipeline import training


def epochs_of(images, steps, seed=0, count=3):
    batches = training.Batches(np.arange(images), np.arange(images), 4, steps, seed)
    seen = []
    for _ in range(count):
        seen.append(np.concatenate([batches[i][0] for i in range(len(batches))]))
        batches.on_epoch_end()
    return np.concatenate(seen)


def test_every_image_comes_equally_often():
    # 3 epochs of 5 batches of 4 are 60 draws: each of 20 images 3 times, each of 10 images 6.
    for images in (20, 10):
        assert (np.bincount(epochs_of(images, 5)) == 60 // images).all()


def test_only_the_seed_decides_the_order():
    first = epochs_of(20, 5)
    np.random.default_rng().random()
    assert (first == epochs_of(20, 5)).all()
    assert (first != epochs_of(20, 5, seed=1)).any()


def test_students_of_one_seed_begin_with_the_same_weights():
    first, second = (training.student_cnn((8, 8, 1), 10, 4, seed=3) for _ in range(2))
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        assert (ours == theirs).all()


def test_labels_are_taken_away_class_by_class():
    labels = np.repeat(np.arange(5), 20)
    kept = training.keep_labels(labels, 0.1, seed=0)
    assert (np.bincount(kept[kept >= 0]) == 2).all()
    assert (kept[kept >= 0] == labels[kept >= 0]).all()
    assert set(labels[kept < 0]) == set(range(5))
    assert (training.keep_labels(labels, 1e-6, seed=0) >= 0).sum() == 5
    assert training.keep_labels(labels, 1.0, seed=0) is labels
