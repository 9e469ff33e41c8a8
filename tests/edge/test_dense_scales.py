"""One scale a Dense kernel, where a file is to be smaller or an old kernel is to run it."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import keras_distill as kd

OUTPUTS = 64


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model of a Dense, a BatchNormalization and a ReLU, and its file of either kind."""
    folder = tmp_path_factory.mktemp("scales")
    keras.utils.set_random_seed(0)
    x = keras.Input((32,))
    y = keras.layers.BatchNormalization(
        gamma_initializer=keras.initializers.RandomUniform(0.2, 2.0),
        beta_initializer="random_normal",
        name="norm",
    )(keras.layers.Dense(OUTPUTS, name="dense")(x))
    model = keras.Model(x, keras.layers.ReLU()(y))
    rows = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")
    paths = {
        scales: kd.edge.export_tflite(
            model,
            folder / f"{scales}.tflite",
            precision="int8",
            representative_data=rows,
            dense_scales=scales,
        ).path
        for scales in ("channel", "tensor")
    }
    return model, rows, paths


def kernel_of(path):
    """The int8 kernel of a file's one Dense, and its scales."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(number) for number in range(graph.TensorsLength())]
    (kernel,) = (t for t in tensors if list(t.ShapeAsNumpy()) == [OUTPUTS, 32])
    numbers = model.Buffers(kernel.Buffer()).DataAsNumpy().view("int8").reshape(OUTPUTS, 32)
    return numbers, kernel.Quantization().ScaleAsNumpy()


@pytest.mark.parametrize("scales", ["channel", "tensor"])
def test_the_kernel_is_the_folded_one_on_its_grid(pair, scales):
    model, _, paths = pair
    norm = model.get_layer("norm")
    gain = norm.gamma / np.sqrt(norm.moving_variance + norm.epsilon)
    folded = (np.asarray(model.get_layer("dense").kernel) * np.asarray(gain)).T
    numbers, found = kernel_of(paths[scales])
    largest = np.abs(folded).max(axis=1) if scales == "channel" else [np.abs(folded).max()]
    np.testing.assert_allclose(found, np.asarray(largest) / 127, rtol=1e-5)
    # Half a step, where a number lies between two.
    error = np.abs(numbers * np.reshape(found, (-1, 1)) - folded) / np.reshape(found, (-1, 1))
    assert error.max() < 0.501


def test_scales_are_what_is_saved(pair):
    _, _, paths = pair
    # 4 bytes of a kernel and of a bias each, and 8 of the zero points that they share; of one
    # scale, these stay.
    saved = (OUTPUTS - 1) * (4 + 4 + 8)
    sizes = {scales: path.stat().st_size for scales, path in paths.items()}
    assert abs(sizes["channel"] - sizes["tensor"] - saved) < 64


def test_either_follows_the_model(pair):
    model, rows, paths = pair
    right = np.asarray(model(rows))
    errors = {
        scales: np.abs(kd.edge.load_tflite(path).predict(rows) - right).mean() / right.std()
        for scales, path in paths.items()
    }
    assert errors["channel"] < errors["tensor"] < 0.03


def test_what_does_not_go_together_is_refused(pair, tmp_path):
    model, rows, _ = pair
    small = kd.edge.quantize_aware(model, calibration_data=rows)
    with pytest.raises(ValueError, match=r"a scale for each channel.*kd\.edge\.strip"):
        kd.edge.export_tflite(small, tmp_path / "a.tflite", precision="int8", dense_scales="tensor")
    with pytest.raises(ValueError, match="needs precision='int8'"):
        kd.edge.export_tflite(model, tmp_path / "a.tflite", dense_scales="tensor")
    with pytest.raises(ValueError, match="'channel' or 'tensor'; got 'row'"):
        kd.edge.export_tflite(model, tmp_path / "a.tflite", dense_scales="row")
    assert not list(tmp_path.iterdir())
