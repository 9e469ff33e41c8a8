"""Signals to records and back: what is exact, what is rounded, and the bound on the rest."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from keras_distill.objectives import Signals
from keras_distill.teachers.cache import encoding, rest_bound, restore
from keras_distill.teachers.cache.layout import Layout, Output

CLASSES = 12


def logits(rows=64, classes=CLASSES, scale=3.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal((rows, classes))).astype("float32")


def there_and_back(values, taps=None, **options):
    heads = (Output(None, values.shape[1:], "float32"),)
    taps = taps or {}
    layers = tuple(Output(name, t.shape[1:], "float32") for name, t in taps.items())
    layout = Layout(heads=heads, layers=layers, **options)
    signals = Signals(tf.constant(values), {k: tf.constant(t) for k, t in taps.items()})
    fields, bad = encoding.encode(signals, tuple(taps), layout)
    assert int(bad) == 0
    for name in layout.answers:
        stored = fields[name].numpy()
        assert stored.dtype == layout.record[name].base, name
    return encoding.decode(fields, {name: name for name in taps}, layout)


# Half a unit in the last place, relative: 2^-11 of float16, 2^-8 of bfloat16.
@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_whole_logits_come_back_but_for_rounding(dtype, error):
    values = logits()
    found = there_and_back(values, dtype=dtype).logits.numpy()
    assert np.abs(found - values).max() > 0
    assert (np.abs(found - values) <= error * np.abs(values) + 1e-6).all()


def test_float32_comes_back_to_the_bit():
    np.testing.assert_array_equal(there_and_back(logits(), dtype="float32").logits, logits())


@pytest.mark.parametrize("kept", [1, 3, CLASSES])
def test_top_k_keeps_the_log_probabilities_of_its_classes(kept):
    values = logits()
    found = there_and_back(values, top_k=kept, dtype="float32").logits.numpy()
    best = np.argsort(-values, axis=1)[:, :kept]
    for array in (found, values):
        array[:] = special.log_softmax(array, axis=1)
    take = np.take_along_axis
    np.testing.assert_allclose(take(found, best, 1), take(values, best, 1), atol=2e-6)


def test_the_rest_shares_its_own_mass_evenly():
    # Two kept of four; the others, exp = 1 and 3, have 4 together and so 2 each.
    values = np.log(np.array([[8.0, 1.0, 16.0, 3.0]], "float32"))
    found = there_and_back(values, top_k=2, dtype="float32").logits.numpy()
    np.testing.assert_allclose(np.exp(found), [[8.0, 2.0, 16.0, 2.0]], rtol=1e-6)


def test_a_small_rest_is_not_lost_in_the_rounding_of_the_kept():
    # The kept classes' float16 rounding, 5e-4, is far above the rest's share of 1e-6.
    values = np.array([[10.3, 9.7, -3.5, -4.0, -5.0]], "float32")
    found = there_and_back(values, top_k=2).logits.numpy()
    rest = np.log(np.exp(values[0, 2:].astype("float64")).sum() / 3)
    np.testing.assert_allclose(found[0, 2:], rest, rtol=1e-6)


def test_positions_are_restored_one_by_one():
    values = logits(rows=24).reshape(4, 6, CLASSES)
    found = there_and_back(values, top_k=4, dtype="float32").logits.numpy()
    flat = there_and_back(values.reshape(24, CLASSES), top_k=4, dtype="float32").logits.numpy()
    np.testing.assert_array_equal(found, flat.reshape(4, 6, CLASSES))


def test_many_classes_take_wide_indices():
    values = np.zeros((2, 70_000), "float32")
    values[:, 69_999] = 5.0
    found = there_and_back(values, top_k=1).logits.numpy()
    assert found.argmax(1).tolist() == [69_999, 69_999]


def test_a_masked_class_has_no_share():
    values = np.array([[1.0, -np.inf, 2.0], [0.0, -1e9, 0.0]], "float32")
    for options in ({}, {"top_k": 2}):
        found = special.softmax(there_and_back(values, **options).logits.numpy(), axis=1)
        np.testing.assert_allclose(found, special.softmax(values, axis=1), atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000.0])
def test_what_cannot_be_stored_is_counted(value):
    values = logits(rows=4)
    values[2, 1] = value
    layout = Layout(heads=(Output(None, (CLASSES,), "float32"),))
    assert int(encoding.encode(Signals(tf.constant(values)), (), layout)[1]) == 1


@pytest.mark.parametrize(
    ("layer_dtype", "largest"), [("bfloat16", 2**8), ("float16", 2**11), ("float32", 2**24)]
)
def test_whole_numbers_that_would_be_rounded_are_counted(layer_dtype, largest):
    # Beyond 2 to the power of the dtype's digits every other whole number has none of its own.
    rows = np.array([0, 1, largest - 1, largest, largest + 1, largest + 2], "int64")
    outputs = Output(None, (CLASSES,), "float32"), Output("row", (), "int64")
    layout = Layout(heads=outputs[:1], layers=outputs[1:], layer_dtype=layer_dtype)
    signals = Signals(tf.constant(logits(6)), {"row": tf.constant(rows)})
    fields, bad = encoding.encode(signals, ("row",), layout)
    assert int(bad) == 1
    found = encoding.decode(fields, {"row": "row"}, layout).taps["row"].numpy()
    np.testing.assert_array_equal(np.delete(found, 4), np.delete(rows, 4))


def test_int8_layers_are_within_half_a_step_of_their_own_scale():
    features = logits(rows=6, classes=20).reshape(6, 2, 10) * np.arange(1, 7)[:, None, None]
    features[3] = 0.0
    features = features.astype("float32")
    found = there_and_back(logits(6), {"tap": features}, layer_dtype="int8").taps["tap"].numpy()
    step = np.abs(features).max((1, 2), keepdims=True) / 127
    assert (np.abs(found - features) <= step / 2 + 1e-6).all()
    assert not found[3].any()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0, 20.0])
@pytest.mark.parametrize("scale", [0.1, 3.0, 10.0])
@pytest.mark.parametrize("kept", [1, 3, 11])
def test_the_bound_bounds_the_divergence(temperature, scale, kept):
    values = logits(rows=500, scale=scale, seed=kept).astype("float64")
    best = np.sort(values, axis=1)[:, ::-1]
    rest = special.logsumexp(best[:, kept:], axis=1)
    restored = best.copy()
    restored[:, kept:] = (rest - np.log(CLASSES - kept))[:, None]
    p, q = (special.log_softmax(v / temperature, axis=1) for v in (best, restored))
    divergence = (np.exp(p) * (p - q)).sum(1)
    bound = rest_bound(best[:, :kept], rest, CLASSES, temperature=temperature)
    assert (bound >= divergence - 1e-12).all()


def test_the_bound_is_reached_where_the_rest_is_as_uneven_as_it_can_be():
    # T = 1, kept 0 and 0; of three others one holds the whole rest, as much as a kept class: 0.
    # p = (1, 1, 1, 0, 0) / 3, p' = (1, 1, 1/3, 1/3, 1/3) / 3, KL = log(3) / 3.
    found = rest_bound(np.zeros(2), 0.0, classes=5, temperature=1.0)
    np.testing.assert_allclose(found, np.log(3.0) / 3)


def test_nothing_left_out_has_no_bound():
    assert rest_bound(np.zeros((4, 5)), np.full(4, -3e38), classes=5).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="temperature must be positive"):
        rest_bound(np.zeros(2), 0.0, classes=5, temperature=0.0)


def test_restore_runs_under_xla():
    values, indices = tf.constant([[2.0, 1.0]]), tf.constant([[3, 0]], "uint16")
    compiled = tf.function(restore, jit_compile=True)
    plain = restore(indices, values, tf.constant([0.5]), 6)
    np.testing.assert_allclose(compiled(indices, values, tf.constant([0.5]), 6), plain, rtol=1e-6)
