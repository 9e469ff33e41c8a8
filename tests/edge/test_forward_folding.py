"""Scales and shifts in front of a kernel become part of it, where the answer stays the same."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import keras_distill as kd
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.export.folded import folded
from keras_distill.edge.quantize.layer import Quantized

layers = keras.layers


def norm(x, **options):
    """A BatchNormalization as training may leave it."""
    layer = layers.BatchNormalization(name="norm", **options)
    layer.build(x.shape)
    random = np.random.default_rng(3)
    for variable in layer.variables:
        low = -1.0 if variable.name in ("beta", "moving_mean") else 0.5
        variable.assign(random.uniform(low, 2.0, variable.shape))
    return layer(x)


def standard(x):
    """A Normalization of other means and variances than the rows that come."""
    layer = layers.Normalization(
        mean=np.linspace(-1, 1, x.shape[-1]), variance=np.linspace(1, 2, x.shape[-1]), name="norm"
    )
    return layer(x)


def scale(x):
    return layers.Rescaling(0.3, name="norm")(x)


def three(x):
    shifted = layers.Rescaling(2.0, -0.5, name="scale")(x)
    return norm(layers.Normalization(mean=0.2, variance=1.5, axis=None, name="standard")(shifted))


def named(kind, *args, **options):
    return kind(*args, name="kernel", **options)


ROW, STEPS, IMAGE = (6,), (7, 6), (6, 6, 6)
FOLD = {
    "dense": (ROW, norm, lambda: named(layers.Dense, 4)),
    "dense, relu": (ROW, standard, lambda: named(layers.Dense, 4, activation="relu")),
    "dense over steps, no bias": (STEPS, norm, lambda: named(layers.Dense, 4, use_bias=False)),
    "conv 1d": (STEPS, norm, lambda: named(layers.Conv1D, 4, 3)),
    "conv 2d": (IMAGE, norm, lambda: named(layers.Conv2D, 4, 3, strides=2, use_bias=False)),
    "conv 1x1, same": (IMAGE, norm, lambda: named(layers.Conv2D, 4, 1, padding="same")),
    "conv that fills nothing": (
        IMAGE,
        norm,
        lambda: named(layers.Conv2D, 4, 3, strides=3, padding="same"),
    ),
    "conv same, no shift": (IMAGE, scale, lambda: named(layers.Conv2D, 4, 3, padding="same")),
    "depthwise": (
        IMAGE,
        norm,
        lambda: named(layers.DepthwiseConv2D, 3, depth_multiplier=2, use_bias=False),
    ),
    "depthwise 1d": (STEPS, standard, lambda: named(layers.DepthwiseConv1D, 3)),
    "separable, no shift": (IMAGE, scale, lambda: named(layers.SeparableConv2D, 4, 3)),
    "transposed, no shift": (IMAGE, scale, lambda: named(layers.Conv2DTranspose, 4, 3)),
    "no beta": (ROW, lambda x: norm(x, center=False), lambda: named(layers.Dense, 4)),
    "no gamma": (ROW, lambda x: norm(x, scale=False), lambda: named(layers.Dense, 4)),
    "three": (IMAGE, three, lambda: named(layers.Conv2D, 4, 2)),
    "dropout between": (
        ROW,
        lambda x: layers.Dropout(0.5)(norm(x)),
        lambda: named(layers.Dense, 4),
    ),
    "flattened": (IMAGE, lambda x: layers.Flatten()(norm(x)), lambda: named(layers.Dense, 4)),
}


def network(shape, front, kernel, inside=True):
    """The pair on a tensor with a range of its own, or on the input."""
    keras.utils.set_random_seed(0)
    x = keras.Input(shape, name="x")
    return keras.Model(x, kernel()(front(layers.ReLU()(x) if inside else x)))


def rows(shape, count=48):
    random = np.random.default_rng(1)
    return random.normal(0.3, 1.0, size=(count, *shape)).astype("float32")


def operations(export):
    return {name: n for name, n in export.ops.items() if name not in ("QUANTIZE", "DEQUANTIZE")}


@pytest.mark.parametrize("name", FOLD)
def test_the_float_network_answers_the_same_without_the_layer(name):
    shape, front, kernel = FOLD[name]
    model = network(shape, front, kernel)
    small = folded(Analysis(model), "float32").model
    found = {layer.name for layer in small.layers}
    assert "kernel" in found
    assert not found & {"norm", "scale", "standard"}
    x = rows(shape)
    right = model.predict(x, verbose=0)
    np.testing.assert_allclose(small.predict(x, verbose=0), right, atol=1e-5 * np.abs(right).max())
    # The caller's model is as it was.
    np.testing.assert_array_equal(model.predict(x, verbose=0), right)


@pytest.mark.parametrize("name", ["dense", "conv 2d", "depthwise", "three", "flattened"])
def test_the_float_file_has_an_operation_for_the_kernel_alone(name, tmp_path):
    shape, front, kernel = FOLD[name]
    model, x = network(shape, front, kernel, inside=False), rows(shape)
    export = kd.edge.export_tflite(model, tmp_path / "m.tflite")
    assert not {"MUL", "ADD", "SUB"} & set(export.ops)
    right = model.predict(x, verbose=0)
    found = kd.edge.load_tflite(export.path).predict(x)
    np.testing.assert_allclose(found, right, atol=1e-5 * np.abs(right).max())


def kernel_of(path, size):
    """The int8 kernel of so many numbers, its outputs first, and its scales."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(number) for number in range(graph.TensorsLength())]
    held = [(t, model.Buffers(t.Buffer())) for t in tensors if t.Type() == schema.TensorType.INT8]
    (found,) = ((t, buffer) for t, buffer in held if buffer.DataLength() == size)
    tensor, buffer = found
    numbers = buffer.DataAsNumpy().view("int8").reshape(tensor.ShapeAsNumpy())
    return numbers, tensor.Quantization().ScaleAsNumpy()


def step_of(small):
    low, high = small.get_layer("kernel").output_ranges[0].bounds()
    return (high - low) / 255


def follows(path, small, x):
    """Whether the file is within a step of the fake-quantised model, mostly equal to it."""
    apart = np.abs(kd.edge.load_tflite(path).predict(x) - small.predict(x, verbose=0))
    return apart.max() < 1.01 * step_of(small) and np.mean(apart > step_of(small) / 2) < 0.05


@pytest.mark.parametrize("name", FOLD)
def test_the_int8_file_has_no_operation_for_it_and_follows(name, tmp_path):
    shape, front, kernel = FOLD[name]
    model, x = network(shape, front, kernel, inside=False), rows(shape)
    small = kd.edge.quantize_aware(model, calibration_data=x)
    assert [layer.name for layer in small.layers if layer.name == "norm"] == ["norm"]
    export = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8")
    # A separable convolution is two.
    of_it = 1 if "depthwise" in name or "separable" in name else 0
    assert operations(export).get("DEPTHWISE_CONV_2D", 0) == of_it
    assert follows(export.path, small, x)
    kernels = sum("CONV" in op or op == "FULLY_CONNECTED" for op in export.ops)
    assert kernels == (2 if "separable" in name else 1)


def test_the_kernel_is_the_product_on_its_grid(tmp_path):
    model, x = network(*FOLD["dense"]), rows(ROW)
    small = kd.edge.quantize_aware(model, calibration_data=x)
    path = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8").path
    bn = model.get_layer("norm")
    gain = np.asarray(bn.gamma / np.sqrt(bn.moving_variance + bn.epsilon))
    product = np.asarray(model.get_layer("kernel").kernel) * gain[:, None]
    numbers, scales = kernel_of(path, product.size)
    np.testing.assert_allclose(scales, np.abs(product).max(axis=0) / 127, rtol=1e-5)
    assert np.abs(numbers.T * scales - product).max() < 0.501 * scales.max()
    # What the layer trains with, times the gain, is what the file holds.
    (seen,) = small.get_layer("kernel").treated_weights().values()
    np.testing.assert_allclose(np.asarray(seen) * gain[:, None], numbers.T * scales, atol=1e-6)


def twice(x):
    y = norm(x)
    return layers.Dense(4, name="kernel")(y), layers.Dense(3, name="other")(y)


def returned(x):
    y = norm(x)
    return y, layers.Dense(4, name="kernel")(y)


def shared(x):
    layer = layers.BatchNormalization(name="norm")
    return layers.Dense(4, name="kernel")(layer(layer(x)))


def one_kernel_twice(x):
    kernel = layers.Dense(6, name="kernel")
    return kernel(layers.ReLU()(kernel(norm(x))))


def by_batch(x):
    layer = layers.BatchNormalization(name="norm")
    return layers.Dense(4, name="kernel")(layer(x, training=True))


def far(x):
    mean = np.full(x.shape[-1], 1000.0)
    layer = layers.Normalization(mean=mean, variance=np.ones(x.shape[-1]), name="norm")
    return layers.Dense(4, name="kernel")(layer(x))


STAY = {
    "same": (IMAGE, lambda x: layers.Conv2D(4, 3, padding="same")(norm(x))),
    "an untrained norm, same": (
        IMAGE,
        lambda x: layers.Conv2D(4, 3, padding="same")(layers.BatchNormalization(name="norm")(x)),
    ),
    "causal": (STEPS, lambda x: layers.Conv1D(4, 3, padding="causal")(norm(x))),
    "separable": (IMAGE, lambda x: layers.SeparableConv2D(4, 3)(norm(x))),
    "transposed": (IMAGE, lambda x: layers.Conv2DTranspose(4, 3)(norm(x))),
    "groups": (IMAGE, lambda x: layers.Conv2D(4, 3, groups=2)(norm(x))),
    "another axis": (IMAGE, lambda x: layers.Conv2D(4, 3)(norm(x, axis=1))),
    "an activation between": (IMAGE, lambda x: layers.Conv2D(4, 3)(layers.ReLU()(norm(x)))),
    "a pooling between": ((*ROW, 6), lambda x: layers.Dense(4)(layers.MaxPooling1D()(norm(x)))),
    "two readers": (ROW, twice),
    "an output": (ROW, returned),
    "called twice": (ROW, shared),
    "a kernel called twice": (ROW, one_kernel_twice),
    "by the batch": (ROW, by_batch),
    "a mask": (STEPS, lambda x: layers.Dense(4)(norm(layers.Masking()(x)))),
    "a far mean": (ROW, far),
    "columns mixed": (
        (4, 6),
        lambda x: layers.Dense(4)(layers.Reshape((6, 4))(norm(x))),
    ),
}


@pytest.mark.parametrize("name", STAY)
def test_elsewhere_it_stays(name):
    shape, build = STAY[name]
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    model = keras.Model(x, build(layers.ReLU()(x)))
    found = Analysis(model)
    assert folded(found, "float32") is found
    small = kd.edge.quantize_aware(model, calibration_data=rows(shape))
    assert not any(one.front for one in small.layers if isinstance(one, Quantized))


def test_where_a_reader_is_in_float_it_stays():
    model = network(*FOLD["dense"])
    small = kd.edge.quantize_aware(model, skip="kernel")
    assert small.get_layer("norm").affine
    small = kd.edge.quantize_aware(model, skip="norm")
    assert small.get_layer("kernel").front == 0


def test_behind_a_layer_in_float_it_keeps_its_integers():
    """Folded, the kernel would read a tensor without a range."""
    x = keras.Input(ROW)
    y = norm(layers.Dense(6, activation="relu", name="first")(x))
    model = keras.Model(x, layers.Dense(4, name="kernel")(y))
    assert kd.edge.quantize_aware(model).get_layer("kernel").front == 1
    assert kd.edge.quantize_aware(model, skip="first").get_layer("kernel").front == 0


# Two inputs of variances 1 and 1 / r^2 brought to 1, kernel of ones, one output. Folded, the scale
# serves weights of 1 and r: r^2 (1 + 1 / r^2) / most^2, against 2 / most^2 of the kernel as it is
# and 2 (8 / 255)^2 of the tensor between: r^2 <= 1 + 2 (8 most / 255)^2, r = 5.7227 at 8 bits.
@pytest.mark.parametrize(
    ("ratio", "bits", "pays"),
    [(5.71, 8, True), (5.74, 8, False), (1.046, 4, True), (1.049, 4, False)],
)
def test_it_folds_where_integers_lose_nothing(ratio, bits, pays):
    x = keras.Input((3,))
    first = layers.Dense(2, activation="relu")(x)
    layer = layers.BatchNormalization(epsilon=1e-9, name="norm")
    y = layer(first)
    layer.moving_variance.assign([1.0, ratio**-2])
    model = keras.Model(x, layers.Dense(1, kernel_initializer="ones", name="kernel")(y))
    small = kd.edge.quantize_aware(model, weight_bits={"kernel": bits})
    assert (small.get_layer("kernel").front == 1) == pays
    # In float nothing is rounded.
    assert "norm" not in {one.name for one in folded(Analysis(model), "float32").model.layers}


def test_learned_steps_fold_an_even_scale_alone():
    of = {"learned_steps": True}
    small = kd.edge.quantize_aware(network(*FOLD["dense"]), **of)
    assert small.get_layer("kernel").front == 0
    small = kd.edge.quantize_aware(network(ROW, scale, FOLD["dense"][2]), **of)
    assert small.get_layer("kernel").front == 1


def test_several_are_one_operation_where_none_can_fold(tmp_path):
    keras.utils.set_random_seed(0)
    x, data = keras.Input(IMAGE), rows(IMAGE)
    model = keras.Model(x, layers.ReLU(name="kernel")(three(x)))
    small = kd.edge.quantize_aware(model, calibration_data=data)
    export = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8")
    assert operations(export) == {"DEPTHWISE_CONV_2D": 1}
    assert follows(export.path, small, data)
    alone = folded(Analysis(model), "float32").model
    assert [type(one).__name__ for one in alone.layers[1:]] == ["_Scaling", "ReLU"]
    right = model.predict(data, verbose=0)
    np.testing.assert_allclose(alone.predict(data, verbose=0), right, atol=1e-5)


def test_in_training_the_layer_is_what_it_was_and_the_file_follows(tmp_path):
    model, x = network(*FOLD["dense"]), rows(ROW)
    small = kd.edge.quantize_aware(model, calibration_data=x)
    before = np.asarray(small.get_layer("kernel").front_gain)
    moving = np.asarray(small.get_layer("norm").layer.moving_variance)
    small.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    small.fit(x, np.ones((len(x), 4), "float32"), epochs=4, verbose=0)
    bn = small.get_layer("norm").layer
    assert np.abs(np.asarray(bn.moving_variance) - moving).max() > 1e-3
    gain = np.asarray(bn.gamma / np.sqrt(bn.moving_variance + bn.epsilon))
    assert np.abs(gain - before).max() > 0.05
    np.testing.assert_allclose(small.get_layer("kernel").front_gain, gain, rtol=1e-6)
    path = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8").path
    assert follows(path, small, x)
    small.save(tmp_path / "small.keras")
    again = kd.load_model(tmp_path / "small.keras")
    other = kd.edge.export_tflite(again, tmp_path / "again.tflite", precision="int8").path
    assert other.read_bytes() == path.read_bytes()
    plain = kd.edge.strip(small)
    assert [one.name for one in plain.layers] == [one.name for one in model.layers]
    product = np.asarray(plain.get_layer("kernel").kernel) * gain[:, None]
    numbers, scales = kernel_of(path, product.size)
    np.testing.assert_allclose(product, numbers.T * scales, atol=1e-6)


@pytest.mark.parametrize("options", [{"dense_scales": "tensor"}, {"weight_bits": 4}])
def test_with_other_grids_the_file_follows(options, tmp_path):
    x, data = keras.Input(ROW), rows(ROW)
    keras.utils.set_random_seed(0)
    y = layers.Dense(4, name="first")(scale(x))
    model = keras.Model(x, layers.ReLU(name="kernel")(layers.BatchNormalization()(y)))
    small = kd.edge.quantize_aware(model, calibration_data=data, **options)
    assert small.get_layer("first").front == 1
    path = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8").path
    assert follows(path, small, data)


def test_what_was_pruned_and_clustered_before_stays_so(tmp_path):
    x = rows(ROW)
    # What pays depends on the weights.
    keras.utils.set_random_seed(0)
    sparse = kd.edge.prune(network(*FOLD["dense"]), sparsity=0.5)
    sparse.compile("adam", "mse", jit_compile=False)
    sparse.fit(x, np.ones((len(x), 4), "float32"), epochs=1, verbose=0)
    for start in (sparse, kd.edge.cluster(network(*FOLD["dense"]), clusters=4)):
        small = kd.edge.quantize_aware(start, calibration_data=x)
        assert small.get_layer("kernel").front == 1
        (seen,) = small.get_layer("kernel").treated_weights().values()
        path = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8").path
        numbers, _ = kernel_of(path, 24)
        np.testing.assert_array_equal(numbers.T == 0, np.asarray(seen) == 0)
        assert follows(path, small, x)


def test_rounding_is_learned_on_the_product(tmp_path):
    x = rows(ROW, 160)
    small = kd.edge.quantize_aware(network(*FOLD["dense"]), calibration_data=x)
    before = np.asarray(small.get_layer("kernel").treated_weights()["kernel"])
    kd.edge.reconstruct(small, data=x, iterations=40, verbose=False)
    after = np.asarray(small.get_layer("kernel").treated_weights()["kernel"])
    gain = np.asarray(small.get_layer("kernel").front_gain)[:, None]
    steps = np.abs(before * gain).max(axis=0) / 127
    moved = (after - before) * gain / steps
    np.testing.assert_allclose(moved, np.round(moved), atol=1e-3)
    path = kd.edge.export_tflite(small, tmp_path / "m.tflite", precision="int8").path
    assert follows(path, small, x)


def test_a_float_model_and_data_give_no_operation_either(tmp_path):
    model, x = network(*FOLD["dense"], inside=False), rows(ROW)
    export = kd.edge.export_tflite(
        model, tmp_path / "m.tflite", precision="int8", representative_data=x
    )
    assert operations(export) == {"FULLY_CONNECTED": 1}
    found = kd.edge.load_tflite(export.path).predict(x)
    assert np.corrcoef(found.ravel(), model.predict(x, verbose=0).ravel())[0, 1] > 0.999


class Twice(layers.Layer):
    """Of which no config tells the factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return self.factor * x


def test_beside_a_layer_that_no_config_makes_again_it_stays():
    x = keras.Input(ROW)
    found = Analysis(keras.Model(x, Twice(2.0)(layers.Dense(4)(norm(x)))))
    assert folded(found, "float32") is found


def test_the_layer_and_what_takes_it_up_are_said():
    found = {row.path: row for row in kd.edge.inspect(network(*FOLD["dense"])).rows}
    assert found["norm"].quantisable == "native"
    assert found["norm"].why == "folded into the weights of 'kernel' behind it"


def test_bytes_of_an_image_go_into_the_first_kernel_as_they_are(tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 3), name="x")
    y = layers.Rescaling(1 / 255, name="norm")(x)
    model = keras.Model(x, layers.Conv2D(4, 3, padding="same", name="kernel")(y))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 6, 6, 3)).astype("float32")
    pixels[0, 0, 0] = [0, 255, 255]
    small = kd.edge.quantize_aware(model, calibration_data=pixels)
    export = kd.edge.export_tflite(
        small, tmp_path / "m.tflite", precision="int8", input_type="uint8"
    )
    assert set(export.ops) <= {"QUANTIZE", "CONV_2D"}
    runner = kd.edge.load_tflite(export.path)
    assert runner.inputs[0].scale == pytest.approx(1.0, rel=1e-6)
    found = runner.predict(pixels.astype("uint8"))
    assert np.abs(found - small.predict(pixels, verbose=0)).max() < 1.01 * step_of(small)
