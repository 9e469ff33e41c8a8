"""What attention masks out takes no range away from what it reads."""

import keras
import numpy as np

from keras_distill import edge

layers = keras.layers


def masked_model():
    """Causal attention by both of Keras' ways, so sharp that uniform weights are far off."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8))
    # With dropout it is a Softmax with a mask, without it `dot_product_attention`.
    both = [layers.MultiHeadAttention(2, 8, dropout=rate, name=f"at_{rate}") for rate in (0, 0.1)]
    model = keras.Model(inputs, [one(inputs, inputs, use_causal_mask=True) for one in both])
    for one in both:
        for dense in (one.query_dense, one.key_dense):
            dense.kernel.assign(3.0 * dense.kernel)
    return model


def test_a_file_of_integers_attends_as_the_model_does(tmp_path):
    model = masked_model()
    x = np.random.default_rng(0).normal(size=(64, 6, 8)).astype("float32")
    export = edge.export_tflite(
        model, tmp_path / "masked.tflite", precision="int8", representative_data=x
    )
    found = edge.load_tflite(export).predict(x)
    for name, expected in zip(("at_0", "at_0.1"), model(x), strict=True):
        assert np.corrcoef(np.ravel(found[name]), np.ravel(expected))[0, 1] > 0.99
