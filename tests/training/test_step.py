"""The step's arithmetic, on numbers small enough for paper."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.objectives import Objective, Signals
from keras_distill.training import step
from keras_distill.training.label_losses import HeadLoss


class Given(Objective):
    """Says what it was told to."""

    def __init__(self, values, **options):
        super().__init__(**options)
        self.values = values

    def __call__(self, student, teacher, labels):
        return tf.constant(self.values)


def of(value, labelled=1.0, by_row=1.0):
    """One output's label loss."""
    value = tf.constant(value)
    return HeadLoss(None, value, value, tf.constant(2.0), labelled, tf.constant(by_row))


def totalled(label_losses, objectives, label_weight=0.25, **options):
    shares = step.shares_of_objectives(label_losses, label_weight, (None,))
    pair = Signals(None), Signals(None)
    taught = step.taught_terms(objectives, [pair], shares=shares)[1]
    options = {"label_weight": label_weight, "penalties": [], **options}
    return step.total(label_losses, taught, objectives, **options)


def test_total_is_the_weighted_sum():
    objectives = [Given([1.0, 3.0], weight=2.0, name="a"), Given([4.0, 4.0], weight=0.5, name="b")]
    # 0.25 x 8 + 0.75 x (2 x mean(1, 3) + 0.5 x 4) + (0.5 + 0.25) = 2 + 4.5 + 0.75
    parts = totalled([of(8.0)], objectives, penalties=[tf.constant(0.5), tf.constant(0.25)])
    assert float(parts.total) == pytest.approx(7.25)


def test_terms_stand_unweighted_beside_what_they_teach():
    objectives = [Given([1.0, 3.0], weight=2.0, name="a"), Given([4.0, 4.0], name="b")]
    pair = Signals(None), Signals(None)
    terms, taught = step.taught_terms(objectives, [pair], shares={None: tf.constant([0.5, 1.0])})
    assert {k: float(v) for k, v in terms.items()} == {"a": 2.0, "b": 4.0}
    # (1 x 0.5 + 3 x 1) / 2 and (4 x 0.5 + 4 x 1) / 2
    assert {k: float(v) for k, v in taught.items()} == {"a": 1.75, "b": 3.0}


def test_without_a_label_loss_the_objectives_count_in_full():
    assert float(totalled([], [Given([1.0, 3.0])]).total) == pytest.approx(2.0)


def test_a_row_without_a_label_learns_from_the_objectives_in_full():
    # Of two rows the first has a label, of loss 8, and the objective says 1 and 3:
    # ((0.25 x 8 + 0.75 x 1) + 3) / 2.
    parts = totalled([of(8.0, 0.5, [1.0, 0.0])], [Given([1.0, 3.0])])
    assert float(parts.total) == pytest.approx(2.875)
    # No row has one: as without a label loss.
    parts = totalled([of(0.0, 0.0, [0.0, 0.0])], [Given([1.0, 3.0])])
    assert float(parts.total) == pytest.approx(2.0)


def test_what_a_learned_weight_costs_has_the_share_of_the_objectives():
    # A sum of label losses, one of two rows with a label:
    # 0.25 x 8 + (0.75 x 1 + 1 x 3) / 2 + (0.75 + 1) / 2 x 4.
    parts = totalled([of(8.0, 1.0, [1.0, 0.0])], [Given([1.0, 3.0])], balances=[tf.constant(4.0)])
    assert float(parts.total) == pytest.approx(7.375)


def test_sample_weights_divide_by_the_batch_not_by_their_sum():
    # (1 x 2 + 3 x 0) / 2, as Keras reduces a loss.
    assert float(step.reduce(tf.constant([1.0, 3.0]), tf.constant([2.0, 0.0]))) == 1.0


def test_a_row_of_weight_zero_is_out_even_if_not_finite():
    assert float(step.reduce(tf.constant([1.0, np.nan]), tf.constant([1.0, 0.0]))) == 0.5


def test_weights_by_position_count_by_their_mean_where_an_objective_gives_one_value_an_example():
    weights = tf.constant([[1.0, 1.0], [0.0, 1.0]])
    pairs = [(Signals(tf.zeros((2, 2, 3))), Signals(tf.zeros((2, 2, 3))))]
    found = step.objective_terms([Given([2.0, 4.0])], pairs, None, weights)
    assert float(found["given"]) == pytest.approx((2 + 4 * 0.5) / 2)
    # Of the second example the position that weighs nothing is padding, and does not count.
    masks = {None: tf.constant([[True, True], [False, True]])}
    found = step.objective_terms([Given([2.0, 4.0])], pairs, None, weights, masks)
    assert float(found["given"]) == pytest.approx((2 + 4) / 2)


def test_an_objective_that_reduces_the_batch_is_refused():
    with pytest.raises(ValueError, match=r"given must return one value an example"):
        totalled(None, [Given(2.0)])


def test_an_objective_that_needs_labels_says_so():
    class Labelled(Given):
        needs_labels = True

    with pytest.raises(ValueError, match="labelled needs labels"):
        totalled(None, [Labelled([1.0])])


def test_heads_are_matched_by_name_then_by_order():
    student = Signals({"a": 1, "b": 2}, from_probabilities={"a": False, "b": False})
    swapped = Signals({"b": 20, "a": 10}, from_probabilities={"a": False, "b": False})
    pairs = step.pairs_of_heads(Given([]), student, swapped)
    assert [(s.logits, t.logits) for s, t, _ in pairs] == [(1, 10), (2, 20)]
    renamed = Signals({"x": 10, "y": 20}, from_probabilities={"x": False, "y": False})
    pairs = step.pairs_of_heads(Given([]), student, renamed, {"a": "la", "b": "lb"})
    assert [(s.logits, t.logits, y) for s, t, y in pairs] == [(1, 10, "la"), (2, 20, "lb")]


def test_output_names_one_head():
    student = Signals({"a": 1, "b": 2}, from_probabilities={"a": False, "b": False})
    [(s, t, _)] = step.pairs_of_heads(Given([], output="b"), student, Signals(7))
    assert (s.logits, t.logits) == (2, 7)
    with pytest.raises(ValueError, match=r"output='c' names no output.*'a', 'b'"):
        step.pairs_of_heads(Given([], output="c"), student, Signals(7))


def test_heads_that_can_not_be_matched_ask_for_output():
    student = Signals({"a": 1, "b": 2}, from_probabilities={"a": False, "b": False})
    with pytest.raises(ValueError, match="Say which is meant with output="):
        step.pairs_of_heads(Given([]), student, Signals(7))
