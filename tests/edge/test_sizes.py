"""Open sizes closed for one file, and pooling over volumes, which LiteRT has not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.export.prepare import prepared
from keras_distill.edge.export.sizes import closed_specs
from keras_distill.edge.interface import interface_of

POOLS = {
    "max": lambda: layers.MaxPooling3D(2),
    "max_same": lambda: layers.MaxPooling3D((3, 2, 3), (2, 1, 2), padding="same"),
    "mean": lambda: layers.AveragePooling3D(2),
    "mean_same": lambda: layers.AveragePooling3D((3, 3, 2), 2, padding="same"),
}


def test_volumes_are_pooled_in_the_file_as_in_keras(tmp_path):
    x = np.random.default_rng(0).normal(size=(16, 5, 6, 7, 2)).astype("float32")
    volume = keras.Input(x.shape[1:], name="volume")
    model = keras.Model(volume, {name: make()(volume) for name, make in POOLS.items()})
    expected = model.predict(x, verbose=0)
    # TensorFlow's own 3D pooling is the reference.
    for name, answer in prepared(Analysis(model), "float32").model.predict(x, verbose=0).items():
        np.testing.assert_allclose(answer, expected[name], atol=1e-6)
    small = edge.quantize_aware(model, calibration_data=x)
    export = edge.export_tflite(small, tmp_path / "pools.tflite", precision="int8")
    assert export.float_ops == {}
    step = (x.max() - x.min()) / 255
    for name, answer in edge.load_tflite(export.path).predict(x).items():
        # The input's rounding, and of a mean one in each of two turns.
        assert np.abs(answer - expected[name]).max() <= 1.6 * step, name


def enlarged():
    images = keras.Input((None, None, 3), name="images")
    return keras.Model(images, layers.UpSampling2D(interpolation="bilinear", name="up")(images))


class Unrolled(layers.Layer):
    """Needs to know how many rows there are."""

    def call(self, x):
        return sum(x[:, row] for row in range(x.shape[1]))

    def compute_output_shape(self, shape):
        return shape[:1] + shape[2:]


def test_what_needs_sizes_says_how_they_are_given(tmp_path):
    images = keras.Input((None, None, 3), name="images")
    model = keras.Model(images, Unrolled()(images))
    with pytest.raises(edge.ConversionError, match=r"Unrolled.*its sizes.*input_shape="):
        edge.export_tflite(model, tmp_path / "no.tflite")
    assert not list(tmp_path.iterdir())


def test_sizes_are_closed_for_the_file_alone(tmp_path):
    x = np.random.default_rng(0).random((3, 4, 6, 3), "float32")
    model = enlarged()
    export = edge.export_tflite(model, tmp_path / "up.tflite", input_shape=(4, 6, 3))
    assert export.inputs[0].shape == (1, 4, 6, 3)
    found = edge.load_tflite(export.path).predict(x)
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-6)
    assert model.inputs[0].shape == (None, None, None, 3)


def test_an_open_number_of_steps_is_closed_before_it_is_unrolled(tmp_path):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 5, 3)).astype("float32")
    steps = keras.Input((None, 3), name="steps")
    model = keras.Model(steps, layers.Dense(2)(layers.GRU(4)(steps)))
    small = edge.quantize_aware(model, calibration_data=x)
    export = edge.export_tflite(
        small, tmp_path / "gru.tflite", precision="int8", input_shape={"steps": (5, 3)}
    )
    assert export.float_ops == {}
    expected = model.predict(x, verbose=0)
    found = edge.load_tflite(export.path).predict(x)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.fixture(scope="module")
def two():
    words, marks = keras.Input((None,), name="words"), keras.Input((None, 2), name="marks")
    pooled = layers.GlobalAveragePooling1D()(layers.Embedding(9, 2)(words) + marks)
    return interface_of(keras.Model([words, marks], pooled))


@pytest.mark.parametrize(
    "given", [{"words": (7,), "marks": (7, 2)}, [(7,), (7, None)], ((7,), (7, 2))]
)
def test_several_inputs_by_name_or_in_order(two, given):
    specs = closed_specs(two, given)
    assert {name: tuple(spec.shape) for name, spec in specs.items()} == {
        "words": (None, 7),
        "marks": (None, 7, 2),
    }


def test_what_is_not_named_stays_open(two):
    assert tuple(closed_specs(two, {"words": (7,)})["marks"].shape) == (None, None, 2)
    assert closed_specs(two, None) == two.specs
    assert all(isinstance(spec, tf.TensorSpec) for spec in two.specs.values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"word": (7,)}, r"the inputs are \['words', 'marks'\]; got \['word'\]"),
        ((7,), "got 1 shape"),
        ({"marks": (7, 3)}, r"\(None, 2\); got \(7, 3\)"),
        ({"words": (7, 1)}, r"\(None,\); got \(7, 1\)"),
        ({"words": (0,)}, "sizes of 1 or more"),
        ({"words": 7}, "sizes of 1 or more"),
    ],
)
def test_sizes_that_the_inputs_cannot_have_are_refused(two, given, words):
    with pytest.raises(ValueError, match=words):
        closed_specs(two, given)


def test_no_shape_at_all_is_refused(two):
    with pytest.raises(TypeError, match="a shape, a dict or a list"):
        closed_specs(two, "words")
