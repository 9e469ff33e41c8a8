"""What export does with compressed, wrapped and odd models before the converter sees them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, edge
from keras_distill.edge.interface import as_keras3, in_float32
from keras_distill.edge.legacy import tf_keras, tfmot


@pytest.fixture(scope="module")
def boxes():
    """Two heads of a detector, reshaped and joined: one gives shares, one large numbers."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    shares = keras.layers.Conv2D(4, 3, activation="sigmoid")(images)
    places = keras.layers.Conv2D(4, 3)(images) * 30.0
    flat = [keras.layers.Reshape((36, 4))(map_) for map_ in (shares, places)]
    return keras.Model(images, keras.layers.Concatenate(axis=1)(flat))


def test_joined_reshapes_of_different_ranges_convert(boxes, tmp_path):
    # The converter gives both reshapes the whole's range, and stops at their inputs' others.
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    with pytest.warns(UserWarning, match="share one range"):
        small = edge.quantize_aware(boxes, calibration_data=x)
    export = edge.export_tflite(small, tmp_path / "boxes.tflite", precision="int8")
    answers, expected = edge.load_tflite(export.path).predict(x), boxes.predict(x, verbose=0)
    assert export.float_ops == {}
    # One step of the whole's range, half from each of two roundings.
    step = (expected.max() - expected.min()) / 255
    assert np.abs(answers - expected).max() <= 2.5 * step


def test_tfmots_own_model_exports_with_its_ranges(tmp_path):
    legacy = tf_keras()
    layers = legacy.layers
    plain = legacy.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    wrapped = edge.wrap_legacy(tfmot().quantization.keras.quantize_model(plain))
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    wrapped.compile("adam", "mse")
    # 30 epochs of 2 updates: TFMOT's ranges start at -6..6 and move by a thousandth an update.
    wrapped.fit(x, np.zeros((64, 3)), epochs=30, verbose=0)
    path = tmp_path / "tfmot.tflite"
    export = edge.export_tflite(wrapped, path, precision="int8", input_type="int8")
    assert export.float_ops == {}
    answers = edge.load_tflite(export.path).predict(x)
    expected = wrapped.predict(x, verbose=0)
    assert np.abs(answers - expected).max() <= 1.01 * export.outputs[0].scale


def test_the_record_names_the_layer_that_stays_float(tmp_path):
    # LiteRT's int8 has no sine.
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, name="before"),
            keras.layers.Activation(tf.math.sin, name="wave"),
            keras.layers.Dense(2, name="after"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    small = edge.quantize_aware(model, calibration_data=x)
    export = edge.export_tflite(small, tmp_path / "wave.tflite", precision="int8")
    assert export.float_layers == ("wave",)
    assert "wave" in str(export)


def test_a_type_that_the_inputs_cannot_have_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(9, 3)])
    x = np.ones((8, 4), "int32")
    with pytest.raises(ValueError, match="whole numbers already"):
        edge.export_tflite(
            model,
            tmp_path / "words.tflite",
            precision="int8",
            representative_data=x,
            input_type="uint8",
        )
    assert not list(tmp_path.iterdir())


def test_a_half_precision_normalization_keeps_its_statistics():
    layer = keras.layers.Normalization()
    model = keras.Sequential(
        [keras.Input((3,)), layer, keras.layers.Dense(2, dtype="mixed_bfloat16")]
    )
    layer.adapt(np.random.default_rng(0).normal(5.0, 2.0, size=(64, 3)))
    x = np.full((1, 3), 5.0, "float32")
    copied = in_float32(model)
    assert copied is not model
    expected, found = layer(x), copied.get_layer(layer.name)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_function_of_the_users_own_is_copied_with_its_layer():
    def half_relu(x):
        return tf.nn.relu(x) / 2

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation=half_relu)])
    x = np.ones((2, 3), "float32")
    found = edge.prune(model, 0.5, begin_step=10)
    np.testing.assert_array_equal(found(x), model(x))


def test_a_distiller_is_no_model_to_compress(digits_model):
    with pytest.raises(TypeError, match=r"give its \.student"):
        as_keras3(Distiller(digits_model, digits_model))
    with pytest.raises(TypeError, match="Expected a Keras model"):
        edge.quantize_aware("student.keras")


def test_masks_and_ranges_are_no_parameters(boxes, recwarn):
    compressed = edge.quantize_aware(edge.prune(boxes, 0.5))
    assert compressed.count_params() == boxes.count_params()
    # A compressed student under its float original is no swap of the two.
    Distiller(compressed, boxes)
    assert not [warning for warning in recwarn if "swapped" in str(warning.message)]
