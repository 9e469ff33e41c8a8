"""One scale a Dense kernel, where a file is to be smaller or an old kernel is to run it."""

import itertools

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
    model = keras.Model(x, keras.layers.ReLU(name="relu")(y))
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


def quantised(model, rows, **options):
    return kd.edge.quantize_aware(model, calibration_data=rows, dense_scales="tensor", **options)


def test_a_quantised_model_has_the_scale_of_kernel_and_norm_together(pair, tmp_path):
    model, rows, _ = pair
    small = quantised(model, rows)
    assert [layer.name for layer in small.layers if layer.name == "norm"] == []
    path = kd.edge.export_tflite(small, tmp_path / "a.tflite", precision="int8").path
    norm = model.get_layer("norm")
    gain = np.asarray(norm.gamma / np.sqrt(norm.moving_variance + norm.epsilon))
    folded = np.asarray(model.get_layer("dense").kernel) * gain
    numbers, found = kernel_of(path)
    np.testing.assert_allclose(found, [np.abs(folded).max() / 127], rtol=1e-5)
    # What the layer trains with, times the gain, is what the file holds.
    (seen,) = small.get_layer("dense").treated_weights().values()
    np.testing.assert_allclose(np.asarray(seen) * gain, numbers.T * found, atol=1e-6)
    # One step where the two round a tie apart.
    apart = np.abs(kd.edge.load_tflite(path).predict(rows) - np.asarray(small(rows)))
    assert apart.max() < 1.01 * small.get_layer("relu").output_ranges[0].bounds()[1] / 255


def test_it_trains_with_its_norm_and_comes_back_from_a_file(pair, tmp_path):
    model, rows, _ = pair
    small = quantised(model, rows)
    before = {v.path: v.numpy() for v in small.get_layer("dense").behind.variables}
    small.compile("adam", "mse", jit_compile=False)
    small.fit(rows, np.zeros((64, OUTPUTS), "float32"), epochs=1, verbose=0)
    after = {v.path: v.numpy() for v in small.get_layer("dense").behind.variables}
    assert len(before) == 4
    assert all(np.any(after[path] != before[path]) for path in before)
    small.save(tmp_path / "small.keras")
    again = kd.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(np.asarray(again(rows)), np.asarray(small(rows)))
    files = [
        kd.edge.export_tflite(one, tmp_path / f"{n}.tflite", precision="int8").path.read_bytes()
        for n, one in enumerate((small, again))
    ]
    assert files[0] == files[1]


def test_frozen_its_norm_keeps_its_statistics(pair):
    model, rows, _ = pair
    small = quantised(model, rows, freeze_batch_norm_after=0)
    norm = small.get_layer("dense").behind.layer
    small.compile("adam", "mse", jit_compile=False)
    small.fit(rows, np.zeros((64, OUTPUTS), "float32"), epochs=1, verbose=0)
    np.testing.assert_array_equal(norm.moving_mean, model.get_layer("norm").moving_mean)
    assert np.any(np.asarray(norm.beta) != np.asarray(model.get_layer("norm").beta))


def test_its_norm_freezes_after_so_many_updates(pair, tmp_path):
    model, rows, _ = pair
    small, statistics = quantised(model, rows, freeze_batch_norm_after=3), []
    small.compile("adam", "mse", jit_compile=False)

    def train(one, updates):
        norm = one.get_layer("dense").behind.layer
        for _ in range(updates):
            one.train_on_batch(rows, np.zeros((64, OUTPUTS), "float32"))
            statistics.append((norm.moving_mean.numpy(), norm.moving_variance.numpy()))

    train(small, 2)
    # What it has counted is in its file.
    small.save(tmp_path / "small.keras")
    train(keras.saving.load_model(tmp_path / "small.keras"), 3)
    moved = [
        [bool(np.any(a != b)) for a, b in zip(before, after, strict=True)]
        for before, after in itertools.pairwise(statistics)
    ]
    assert moved == [[True, True]] * 2 + [[False, False]] * 2


def test_stripped_the_norm_is_back(pair):
    model, rows, _ = pair
    plain = kd.edge.strip(quantised(model, rows))
    assert [layer.name for layer in plain.layers][1:] == [layer.name for layer in model.layers][1:]
    apart = np.abs(np.asarray(plain(rows)) - np.asarray(model(rows)))
    assert 0 < apart.max() < 0.1


def test_biases_are_corrected_in_the_norm(pair):
    model, rows, _ = pair
    small = quantised(model, rows)
    before = np.asarray(small.get_layer("dense").behind.beta)
    bias = np.asarray(small.get_layer("dense").layer.bias)
    kd.edge.correct_biases(small, rows)
    assert np.any(np.asarray(small.get_layer("dense").behind.beta) != before)
    np.testing.assert_array_equal(small.get_layer("dense").layer.bias, bias)


def test_rounding_is_learned_on_the_one_scale(pair, tmp_path):
    model, _, _ = pair
    # Inputs that go together: else the nearest step is the best for each weight.
    random = np.random.default_rng(1)
    rows = (random.normal(size=(320, 4)) @ random.normal(size=(4, 32)) / 2).astype("float32")
    small = quantised(model, rows, weight_bits=4)
    right = np.asarray(model(rows))
    nearest = np.abs(np.asarray(small(rows)) - right).mean()
    kd.edge.reconstruct(small, data=rows, iterations=100, verbose=False)
    assert np.abs(np.asarray(small(rows)) - right).mean() < 0.95 * nearest
    path = kd.edge.export_tflite(small, tmp_path / "a.tflite", precision="int8").path
    apart = np.abs(kd.edge.load_tflite(path).predict(rows) - np.asarray(small(rows)))
    assert apart.max() < 1.01 * small.get_layer("relu").output_ranges[0].bounds()[1] / 255


def test_a_pair_that_cannot_be_one_is_refused(pair):
    model = keras.models.clone_model(pair[0])
    model.get_layer("dense").trainable = False
    with pytest.raises(ValueError, match=r"one layer of 'dense' and 'norm'.*equally trainable"):
        kd.edge.quantize_aware(model, dense_scales="tensor")
    with pytest.raises(ValueError, match="'channel' or 'tensor'; got 'row'"):
        kd.edge.quantize_aware(model, dense_scales="row")
    with pytest.raises(ValueError, match=r"learned_steps=True.*dense_scales='tensor'.*Take one"):
        quantised(pair[0], pair[1], learned_steps=True)
