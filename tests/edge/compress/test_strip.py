import keras
import numpy as np
import pytest
from keras.src.models.functional import Functional

from keras_distill.edge.compress.clustering import cluster
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.pruning import prune
from keras_distill.edge.compress.strip import strip


def test_the_copy_is_plain_and_has_the_zeros(small, digits):
    pruned = prune(small, 0.75)
    plain = strip(pruned)
    assert type(plain) is Functional
    assert [type(plain.get_layer(layer.name)) for layer in small.layers] == [
        type(layer) for layer in small.layers
    ]
    assert np.mean(plain.get_layer("middle").kernel.numpy() == 0) == 0.75
    assert [tuple(w.shape) for w in plain.weights] == [tuple(w.shape) for w in small.weights]
    np.testing.assert_array_equal(plain(digits.x_test[:20]), pruned(digits.x_test[:20]))


def test_the_compressed_model_is_as_it_was(small, digits, compiled):
    pruned = compiled(prune(small, 0.75))
    before = [v.numpy() for v in pruned.variables]
    plain = compiled(strip(pruned))
    plain.fit(digits.x_train[:64], digits.y_train[:64], verbose=0)
    for old, variable in zip(before, pruned.variables, strict=False):
        np.testing.assert_array_equal(old, variable.numpy())
    assert isinstance(pruned.get_layer("middle"), Compressed)
    assert pruned.get_layer("middle").layer.kernel.constraint is not None
    # Nothing holds the zeros of the plain copy.
    assert np.mean(plain.get_layer("logits").kernel.numpy() == 0) < 0.75


@pytest.mark.slow
def test_its_file_needs_no_keras_distill(small, digits, tmp_path, in_a_fresh_process):
    inner = keras.Sequential([keras.Input((8, 8, 1)), *small.layers], name="inner")
    inputs = keras.Input((8, 8, 1))
    plain = strip(prune(keras.Model(inputs, inner(inputs)), 0.75))
    plain.save(tmp_path / "plain.keras")
    np.save(tmp_path / "x.npy", digits.x_test[:8])
    printed = in_a_fresh_process(f"""
        import sys, keras, numpy as np
        model = keras.saving.load_model({str(tmp_path / "plain.keras")!r})
        print("keras_distill" in sys.modules, repr(model.predict(
            np.load({str(tmp_path / "x.npy")!r}), verbose=0).tolist()))
    """)
    ours, answer = printed.split(" ", 1)
    assert ours == "False"
    expected = plain.predict(digits.x_test[:8], verbose=0)
    np.testing.assert_allclose(eval(answer), expected, rtol=1e-5)


def test_a_treatment_off_its_variable_is_written_in(small):
    pruned = prune(small, 0.5)
    kernel = pruned.get_layer("logits").layer.kernel
    kernel.assign(np.ones(kernel.shape))  # as a user's set_weights might
    assert np.mean(strip(pruned).get_layer("logits").kernel.numpy() == 0) == 0.5


def test_a_plain_model_is_copied(small, digits):
    copy = strip(small)
    assert copy.get_layer("logits") is not small.get_layer("logits")
    np.testing.assert_array_equal(copy(digits.x_test[:20]), small(digits.x_test[:20]))


def test_pruned_and_clustered(small, digits):
    both = cluster(prune(small, 0.5), 4)
    np.testing.assert_array_equal(strip(both)(digits.x_test[:8]), both(digits.x_test[:8]))


def test_tfmots_wrappers_come_off(tfmot, tf_keras):
    model = tf_keras.Sequential([tf_keras.Input((8,)), tf_keras.layers.Dense(4, name="a")])
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(model)
    plain = strip(wrapped)
    assert type(plain) is Functional
    np.testing.assert_array_equal(plain.get_layer("a").kernel.numpy(), model.layers[0].kernel)


def test_no_model():
    with pytest.raises(TypeError, match="Expected a Keras model"):
        strip("model.keras")
