"""What only moves numbers about, or picks from them, has in the file the ranges of the model."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize import layout

layers, ops = keras.layers, keras.ops
ROWS = np.random.default_rng(0).normal(size=(48, 4, 4, 4)).astype("float32")


def wide():
    return layers.Conv2D(4, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=3.0))


# LiteRT wants one range for the inputs and the output of what joins: x is the narrow part.
JOINED = {
    "flip": lambda x, y: ops.concatenate([ops.flip(x, 1), y], -1),
    "flips": lambda x, y: ops.concatenate([ops.flip(x, 1), ops.flip(y, 2)], -1),
    "rotated": lambda x, y: ops.concatenate([ops.rot90(x, axes=(1, 2)), y], -1),
    "inner": lambda x, y: ops.concatenate([ops.concatenate([y, ops.flip(x, 1)], -1), x], -1),
    "pooled": lambda x, y: ops.concatenate(
        [layers.MaxPooling2D(3, 1, "same")(ops.flip(x, 1)), y], -1
    ),
    "dropped": lambda x, y: ops.concatenate([layers.Dropout(0.2)(ops.swapaxes(x, 1, 2)), y], -1),
    "tiled": lambda x, y: ops.concatenate([ops.tile(x[:, :2], (1, 2, 1, 1)), y], -1),
    "taken": lambda x, y: ops.concatenate([ops.take(x, np.array([3, 2, 1, 0]), axis=1), y], -1),
    "hstack": lambda x, y: ops.hstack([ops.flip(x, 1), y]),
    "stack": lambda x, y: ops.reshape(ops.stack([ops.flip(x, 1), y], -1), (-1, 4, 4, 8)),
    "largest of three": lambda x, y: layers.Maximum()([x, y, ops.flip(x, 1)]),
    "least of three": lambda x, y: layers.Minimum()([x, y, layers.Permute((2, 1, 3))(x)]),
    "chosen": lambda x, y: ops.where(y > 0, ops.flip(x, 1), y),
    "alone": lambda x, y: layers.Add()([ops.flip(x, 1), y]),
}

if hasattr(ops.nn, "depth_to_space"):
    JOINED["spread"] = lambda x, y: ops.concatenate(
        [ops.nn.depth_to_space(x, 2), layers.UpSampling2D(2)(y)], -1
    )


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    keras.utils.set_random_seed(0)
    given = keras.Input((4, 4, 4))
    outputs = {
        name: layers.Conv2D(3, 1)(join(layers.Conv2D(4, 1)(given), wide()(given)))
        for name, join in JOINED.items()
    }
    quantised = edge.quantize_aware(keras.Model(given, outputs), calibration_data=ROWS)
    path = tmp_path_factory.mktemp("moved") / "joined.tflite"
    export = edge.export_tflite(quantised, path, precision="int8")
    assert not export.float_ops
    return edge.load_tflite(path)(ROWS), quantised.predict(ROWS, verbose=0)


@pytest.mark.parametrize("name", JOINED)
def test_the_file_follows_the_model(answers, name):
    file, model = (answer[name] for answer in answers)
    step = (max(model.max(), 0) - min(model.min(), 0)) / 255
    assert np.abs(file - model).max() <= 5 * step


PASSED = {
    "images": [
        *(layers.SpatialDropout2D(0.2), layers.GaussianNoise(0.1), layers.AlphaDropout(0.2)),
        *(layers.GaussianDropout(0.2), layers.MaxPooling2D(2), layers.GlobalMaxPooling2D()),
        *(layers.UpSampling2D(), layers.Resizing(2, 2, interpolation="nearest")),
        *(layers.RandomFlip(), layers.RandomRotation(0.1), layers.ZeroPadding2D()),
        *(ops.copy, ops.amax, ops.rot90, ops.triu),
        *(lambda x: ops.take(x, np.array([0, 1]), axis=1), lambda x: ops.hstack([x, x])),
    ],
    "volumes": [
        *(layers.SpatialDropout3D(0.2), layers.ZeroPadding3D(), layers.Cropping3D()),
        *(layers.MaxPooling3D(2), layers.UpSampling3D()),
    ],
}


@pytest.mark.parametrize(
    ("kind", "passes"), [(k, one) for k, found in PASSED.items() for one in found]
)
def test_ids_stay_exact_through_all_that_hands_them_on(kind, passes):
    ids = keras.Input((4, 4, 3) if kind == "images" else (4, 4, 4, 3), name="ids")
    model = keras.Model(ids, layers.Embedding(300, 2)(passes(ids)))
    assert Analysis(model).exact_inputs == ("ids",)


@pytest.mark.parametrize(
    "mixes",
    [layers.AveragePooling2D(2), layers.Resizing(2, 2), layers.UpSampling2D(2, None, "bilinear")],
)
def test_means_of_ids_are_none(mixes):
    ids = keras.Input((4, 4, 3))
    model = keras.Model(ids, layers.Embedding(300, 2)(mixes(ids)))
    assert not Analysis(model).exact_inputs


def test_what_a_layer_computed_is_no_more_exact_behind_a_pooling():
    x = keras.Input((4, 4, 3))
    pooled = layers.MaxPooling2D(name="pool")(layers.Conv2D(2, 1)(x))
    made = layout.plan(Analysis(keras.Model(x, ops.cast(pooled > 0, "float32"))))
    assert made["pool"].how == "native"
