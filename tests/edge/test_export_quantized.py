"""The file of a quantised model holds integers only, and answers as the model does."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_distill as kd
from keras_distill import edge
from keras_distill.edge.quantize import calibrate as calibrating
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.litert import converter

layers = keras.layers
CALIBRATED_ON = 96


@keras.saving.register_keras_serializable("test_export_quantized")
class Foreign(layers.Layer):
    """A user's own layer, whose inner tensors have no ranges of ours."""

    def call(self, x):
        return keras.ops.tanh(3.0 * x) * keras.ops.sigmoid(x) - 0.25 * x


def conv(**options):
    return layers.Conv2D(6, 3, **options)


def chain(*parts):
    def build(x):
        for part in parts:
            x = part(x)
        return x

    return build


def merged(layer):
    def build(x):
        return layer([layers.Conv2D(4, 1, activation=name)(x) for name in ("relu", None, "relu")])

    return build


def difference_of_extremes(x):
    a, b, c = (layers.Conv2D(4, 1)(x) for _ in range(3))
    return layers.Minimum()([layers.Maximum()([a, b]), layers.Subtract()([b, c])])


def concatenated(x):
    moved = layers.Cropping2D(1)(layers.ZeroPadding2D(1)(x))
    parts = [layers.Conv2D(4, 1)(x), layers.ReLU()(layers.Conv2D(4, 1)(x)), moved]
    return layers.Conv2D(3, 1)(layers.Concatenate()(parts))


def squeeze_and_excite(x):
    y = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    y = layers.Conv2D(4, 1, activation="silu")(y)
    return layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(y)])


def residual(x):
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(x))
    y = layers.ReLU()(layers.Add()([x, y]))
    return layers.GlobalAveragePooling2D()(y)


def operators(x):
    y = keras.ops.relu(layers.Conv2D(4, 1)(x) * 2.0 + 0.5)
    return keras.ops.mean(y, axis=(1, 2))


def nested(x):
    inner = keras.Sequential(
        [keras.Input((12, 12, 8)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()]
    )
    return layers.GlobalMaxPooling2D()(inner(x))


def shared(x):
    layer = layers.Conv2D(8, 3, padding="same", activation="relu")
    return layer(layer(x))


def pools(x):
    y = layers.AveragePooling2D(2)(layers.MaxPooling2D(2)(layers.ZeroPadding2D(1)(x)))
    return layers.Dense(4)(layers.Flatten()(layers.Cropping2D(1)(y)))


def filled_up(x):
    return keras.ops.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]], constant_values=9.0)


def squares(x):
    # Neither has an integer operation of its own.
    y = layers.Dense(6)(x)
    return layers.Dense(4)(keras.ops.square(y) + keras.ops.negative(y))


norm, relu = layers.BatchNormalization, layers.ReLU
ACTIVATIONS = ("relu6", "silu", "hard_silu", "hard_sigmoid", "gelu", "tanh", "sigmoid")
EXPONENTIAL = ("elu", "selu")
# name: (what it is made of, how far the file may be from the model, in the output's steps). A step
# of an inner tensor may fall to its other side, since the file sums in integers; where a long chain
# of inner tensors or a steep function follows, that is some steps at the end.


def images():
    """Made anew at each call: the layers in it get their names then."""
    return {
        "joined": (chain(layers.Conv2D(6, 3, use_bias=False), norm(), relu()), 1.5),
        "lone_norm": (chain(norm(), relu(), layers.Conv2D(4, 1)), 2),
        "norm_of_inputs": (
            chain(layers.Normalization(mean=[0.5] * 8, variance=[2.0] * 8), conv()),
            2,
        ),
        "rescaling": (chain(layers.Rescaling(0.5, offset=0.25), conv()), 2),
        "transposed": (chain(layers.Conv2DTranspose(4, 3, 2, "same"), norm(), relu()), 2),
        "groups": (chain(layers.Conv2D(8, 3, groups=2), norm(), relu()), 2),
        "dilated": (
            chain(conv(dilation_rate=2), relu(), layers.DepthwiseConv2D(3, dilation_rate=2)),
            3,
        ),
        "upsampled": (chain(layers.UpSampling2D(2, interpolation="bilinear"), conv()), 3),
        "resized": (chain(conv(activation="relu"), layers.Resizing(9, 9), layers.Conv2D(2, 1)), 3),
        # An average is rounded in the file and not in the model.
        "pools": (pools, 4),
        "residual": (residual, 3),
        "nested": (nested, 2),
        "shared": (shared, 3),
        "add": (merged(layers.Add()), 3),
        "average": (merged(layers.Average()), 3),
        "multiply": (merged(layers.Multiply()), 3),
        "extremes": (difference_of_extremes, 3),
        "concatenated": (concatenated, 3),
        "squeeze_and_excite": (squeeze_and_excite, 3),
        "operators": (operators, 3),
        "prelu": (chain(conv(), layers.PReLU("random_uniform", shared_axes=[1, 2])), 2),
        "leaky_relu": (chain(conv(), layers.LeakyReLU(0.2), layers.Conv2D(2, 1)), 3),
        "group_norm": (chain(layers.GroupNormalization(2), layers.Conv2D(4, 1)), 5),
        "softmax": (chain(layers.Flatten(), layers.Dense(5, activation="softmax")), 3),
        "elu_layer": (chain(conv(), layers.ELU(0.5)), 3),
        "elu_operation": (chain(conv(), lambda x: keras.ops.elu(x, 0.5)), 3),
        "selu_operation": (chain(conv(), keras.ops.selu), 3),
        "unit_norm": (chain(layers.UnitNormalization(), layers.Conv2D(4, 1)), 5),
        "inverted_norm": (
            chain(layers.Normalization(mean=0.5, variance=2.0, invert=True), conv()),
            2,
        ),
        "filled": (chain(conv(), filled_up), 2),
        **{name: (chain(conv(activation=name)), 3) for name in (*ACTIVATIONS, *EXPONENTIAL)},
    }


def sequences():
    return {
        "separable": (chain(layers.SeparableConv1D(8, 3, padding="same", activation="relu")), 2.5),
        "separable_joined": (chain(layers.SeparableConv1D(8, 3), norm(), relu()), 2.5),
        "transposed": (chain(layers.Conv1DTranspose(4, 3, strides=2, activation="relu")), 2.5),
        "causal": (
            chain(layers.Conv1D(8, 3, padding="causal", dilation_rate=2), norm(), relu()),
            2,
        ),
        "depthwise": (chain(layers.DepthwiseConv1D(3), relu(), layers.GlobalMaxPooling1D()), 2),
        "lone_norm": (chain(norm(), relu(), layers.Conv1D(4, 1)), 2),
        "layer_norm": (chain(layers.LayerNormalization(), layers.Dense(4)), 5),
        "rms_norm": (chain(layers.RMSNormalization(), layers.Dense(4)), 5),
        "time_distributed": (chain(layers.TimeDistributed(layers.Dense(5))), 2),
        "einsum": (chain(layers.EinsumDense("abc,cd->abd", (None, 5))), 2),
        "pools": (chain(layers.AveragePooling1D(2), layers.MaxPooling1D(2), layers.Flatten()), 4),
        "dense": (chain(layers.Flatten(), layers.Dense(8, activation="relu"), norm()), 3),
    }


# The file holds tensors inside these that have no range of ours: the rows of the calibration settle
# them, at export and not in the model.


def settled_by_rows():
    return {
        "attention": (lambda x: layers.MultiHeadAttention(2, 4)(x, x), 15),
        "odd_relu": (
            chain(layers.Conv1D(6, 3), layers.ReLU(4.0, 0.1, 0.2), layers.Conv1D(2, 1)),
            15,
        ),
    }


def spelled_out():
    return {
        "squares": (squares, 15),
        "norm_over_time": (chain(layers.LayerNormalization(axis=1), layers.Dense(4)), 15),
    }


FAMILIES = {
    "images": ((12, 12, 8), images),
    "sequences": ((16, 8), sequences),
    "settled_by_rows": ((16, 8), settled_by_rows),
    "spelled_out": ((16, 8), spelled_out),
}


class Family:
    """A model of many branches, quantised, its file, and both their answers."""

    def __init__(self, shape, branches, path, with_rows):
        keras.utils.set_random_seed(0)
        x = keras.Input(shape, name="x")
        self.source = keras.Model(x, {name: build(x) for name, (build, _) in branches().items()})
        with_weights(self.source)
        data = np.random.default_rng(0).normal(size=(CALIBRATED_ON + 32, *shape)).astype("float32")
        self.quantised = edge.quantize_aware(self.source, calibration_data=data[:CALIBRATED_ON])
        if not with_rows:
            # The model's own ranges have to do, as in one that training alone has set.
            self.quantised.calibration_rows = None
        self.export = edge.export_tflite(self.quantised, path, precision="int8")
        data = data[CALIBRATED_ON:]
        self.float = self.source.predict(data, verbose=0)
        self.expected = self.quantised.predict(data, verbose=0)
        self.found = edge.load_tflite(path).predict(data)


def with_weights(model):
    """The same weights in every run, and batch norms that shift and scale."""
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(rng.normal(size=variable.shape) / np.sqrt(fan_in))
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            bounds = ((0.5, 2.0), (-1.0, 1.0), (-1.0, 1.0), (0.5, 2.0))
            layer.set_weights([rng.uniform(*b, layer.gamma.shape) for b in bounds])


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """`family("images")` and so on, exported at its first use."""
    folder, made = tmp_path_factory.mktemp("families"), {}

    def get(kind):
        if kind not in made:
            with_rows = kind in ("settled_by_rows", "spelled_out")
            made[kind] = Family(*FAMILIES[kind], folder / f"{kind}.tflite", with_rows)
        return made[kind]

    return get


@pytest.mark.parametrize("pool", [layers.AveragePooling2D(8), layers.AveragePooling1D(64)])
def test_the_mean_of_a_whole_map_is_told_in_its_own_steps(pool, tmp_path):
    """One place of 64 is up to 255: steps of 1 in the map, and of 4/255 in its mean of 0 to 4."""
    shape = (8, 8, 3) if len(pool.pool_size) == 2 else (64, 3)
    x = np.zeros((64, 64, 3), "float32")
    x[np.arange(64), np.arange(64)] = np.random.default_rng(0).integers(0, 256, (64, 3))
    x[0, 0] = 255.0
    x = x.reshape(64, *shape)
    model = keras.Sequential([keras.Input(shape), pool])
    quantised = edge.quantize_aware(model, calibration_data=x)
    export = edge.export_tflite(quantised, tmp_path / "mean.tflite", precision="int8")
    assert "AVERAGE_POOL_2D" not in export.ops
    found, exact = edge.load_tflite(export.path).predict(x), model.predict(x, verbose=0)
    # Half a step of its own, and what the sum in integers may add.
    assert np.abs(found - exact).max() < 0.6 * 255 / 64 / 255


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_operation_computes_in_float(family, kind):
    export = family(kind).export
    assert export.float_ops == {}
    # The input and the outputs themselves.
    assert export.dtypes["float32"] == 1 + len(export.outputs)
    assert export.ops["DEQUANTIZE"] == len(export.outputs)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, (_, branches) in FAMILIES.items() for name in branches()],
)
def test_the_file_answers_as_the_model(family, kind, name):
    one = family(kind)
    steps = FAMILIES[kind][1]()[name][1]
    expected, found = one.expected[name], one.found[name]
    # One step of 255 over what the output spans.
    step = np.ptp(expected) / 255
    assert step > 1e-4
    assert np.abs(found - expected).max() <= (steps + 0.5) * step
    assert np.mean(np.abs(found - expected)) <= (0.5 if steps < 4 else 1.5) * step
    # And both are near the float model: no branch is flat, none has lost its range.
    assert np.corrcoef(found.ravel(), one.float[name].ravel())[0, 1] > 0.99


@pytest.fixture(scope="module")
def trained(digits):
    """Bytes in, Rescaling first; trained, half its kernels' weights pruned, quantised, tuned."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="bytes"),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Conv2D(16, 3, use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
            layers.Conv2D(24, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(10, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = as_bytes(digits.x_train).astype("float32"), digits.y_train
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(x, y, epochs=8, verbose=0)
    twin = edge.quantize_aware(edge.prune(model, 0.5), calibration_data=x[:400])
    twin.compile(keras.optimizers.Adam(2e-3), loss)
    twin.fit(x, y, epochs=1, verbose=0)
    return twin


def as_bytes(images):
    return np.rint(255 * images).astype("uint8")


@pytest.fixture(scope="module")
def on_bytes(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "bytes.tflite"
    return edge.export_tflite(trained, path, precision="int8", input_type="uint8", batch_size=4)


def test_raw_bytes_go_in_and_nothing_is_float(trained, on_bytes, digits):
    assert on_bytes.float_ops == {}
    assert not [kind for kind in on_bytes.dtypes if "float" in kind]
    assert "DEQUANTIZE" not in on_bytes.ops
    (given,) = on_bytes.inputs
    assert (given.dtype, given.shape) == ("uint8", (4, 8, 8, 1))
    assert (given.scale, given.zero_point) == (1, 0)
    interpreter = Interpreter(str(on_bytes.path))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    images = as_bytes(digits.x_test[:200])
    answers = []
    for batch in images.reshape(50, 4, 8, 8, 1):
        interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(target["index"]))
    classes = np.concatenate(answers).argmax(-1)
    expected = trained.predict(images.astype("float32"), verbose=0).argmax(-1)
    assert np.mean(expected == digits.y_test[:200]) > 0.8
    assert np.mean(classes == expected) >= 0.99


def test_the_files_weights_are_the_models(trained, on_bytes):
    """Number by number: kernels on their grid, with the axes that the file has."""
    interpreter = Interpreter(str(on_bytes.path))
    interpreter.allocate_tensors()
    held = {}
    for tensor in interpreter.get_tensor_details():
        scales = tensor["quantization_parameters"]["scales"]
        if tensor["dtype"] == np.int8 and tensor["name"] and len(scales):
            try:
                value = interpreter.get_tensor(tensor["index"])
            except ValueError:
                continue
            axis = tensor["quantization_parameters"]["quantized_dimension"]
            shape = [1] * value.ndim
            shape[axis if len(scales) > 1 else 0] = len(scales)
            held.setdefault(value.shape, []).append(value * scales.reshape(shape))
    # The convolution in front of the norm is folded with it; these stand alone.
    for name, to_file in (
        ("second", lambda w: w.transpose(3, 0, 1, 2)),
        ("logits", lambda w: w.T),
        ("depthwise", lambda w: w.transpose(3, 0, 1, 2)),
    ):
        kernel = to_file(trained.get_layer(name).treated_weights()["kernel"].numpy())
        off = min(np.abs(found - kernel).max() for found in held[kernel.shape])
        assert off < 1e-5 * np.abs(kernel).max()


def test_pruned_weights_are_zeros_in_the_file(trained, on_bytes):
    rows = edge.sparsity_report(trained).rows
    zeros, size = (sum(getattr(row, key) for row in rows) for key in ("zeros", "size"))
    assert zeros / size >= 0.5
    # Beside the pruned kernels there are the depthwise kernel, biases and the folded rescaling.
    assert on_bytes.sparsity == pytest.approx(zeros / size, abs=0.05)


def test_other_precisions_are_of_the_stripped_model(trained, digits, tmp_path):
    export = edge.export_tflite(trained, tmp_path / "f.tflite", batch_size=None)
    assert "QUANTIZE" not in export.ops
    assert "int8" not in export.dtypes
    x = as_bytes(digits.x_test[:50]).astype("float32")
    expected = edge.strip(trained).predict(x, verbose=0)
    found = edge.load_tflite(export.path).predict(x)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    # The model itself is not taken apart.
    assert isinstance(trained.get_layer("logits"), Quantized)


@pytest.fixture(scope="module")
def foreign():
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 8), name="x")
    y = layers.Dense(8, activation="relu", name="before")(x)
    y = layers.MultiHeadAttention(2, 4, name="attention")(y, Foreign(name="own")(y))
    model = keras.Model(x, layers.Dense(3, name="after")(y))
    data = np.random.default_rng(0).normal(size=(96, 6, 8)).astype("float32")
    return edge.quantize_aware(model, calibration_data=data[:64]), data


def test_the_insides_of_foreign_layers_are_calibrated_from_the_data_seen(foreign, tmp_path):
    model, data = foreign
    export = edge.export_tflite(model, tmp_path / "own.tflite", precision="int8")
    assert export.float_ops == {}
    expected = model.predict(data[64:], verbose=0)
    found = edge.load_tflite(export.path).predict(data[64:])
    # The insides are float in the model: this is their rounding, not a difference of ours.
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_a_model_that_was_saved_and_loaded_becomes_the_same_file(foreign, precision, tmp_path):
    model = foreign[0]
    distiller = kd.Distiller(model, keras.Sequential([keras.Input((6, 8)), layers.Dense(3)]))
    distiller.save(tmp_path / "distiller.keras")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    student = keras.saving.load_model(tmp_path / "distiller.keras").student
    files = [tmp_path / f"{place}.tflite" for place in range(3)]
    for one, path in zip((model, loaded, student), files, strict=True):
        edge.export_tflite(one, path, precision=precision)
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


def test_a_model_without_the_rows_that_it_was_calibrated_on_asks_for_data(
    foreign, tmp_path, monkeypatch
):
    monkeypatch.setattr(converter.WORKER, "ask", None)
    monkeypatch.setattr(foreign[0], "calibration_rows", None)
    foreign[0].save(tmp_path / "foreign.keras")
    loaded = keras.saving.load_model(tmp_path / "foreign.keras")
    assert loaded.calibration_rows is None
    with pytest.raises(ValueError, match=r"attention.*own|own.*attention") as caught:
        edge.export_tflite(loaded, tmp_path / "no.tflite", precision="int8")
    assert "give representative_data" in str(caught.value)


def named_inputs(structure):
    inputs = {
        "real": keras.Input((3,), name="real"),
        "half": keras.Input((3,), name="half", dtype="bfloat16"),
        "word": keras.Input((1,), name="word", dtype="string"),
        "id": keras.Input((1,), name="id", dtype="int32"),
    }
    codes = layers.Hashing(7, output_mode="one_hot")(inputs["word"])
    ids = layers.Embedding(4, 3)(inputs["id"])
    y = layers.Concatenate()([inputs["real"], inputs["half"], codes, layers.Flatten()(ids)])
    return keras.Model(structure(inputs), layers.Dense(2)(y))


@pytest.mark.filterwarnings("ignore:'concatenate")
@pytest.mark.parametrize("structure", [dict, lambda inputs: list(reversed(inputs.values()))])
@pytest.mark.parametrize("given", ["structure", "names"])
def test_a_model_keeps_the_first_rows_of_its_calibration_by_its_inputs_names(
    structure, given, tmp_path
):
    rng = np.random.default_rng(0)
    rows = {
        "real": rng.normal(size=(300, 3)),
        "half": rng.normal(size=(300, 3)).astype(keras.ops.zeros((), "bfloat16").numpy().dtype),
        "word": np.array([["dog"], ["c\u00f6w"], ["cat"]] * 100, object),
        "id": rng.integers(0, 4, (300, 1)).astype("int32"),
    }
    small = edge.quantize_aware(named_inputs(structure))
    edge.calibrate(small, rows if given == "names" else structure(rows))
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert sorted(loaded.calibration_rows) == sorted(rows)
    for name, kept in loaded.calibration_rows.items():
        expected = rows[name][: calibrating.KEPT_ROWS]
        if name == "word":
            expected = np.char.encode(expected.astype(str))
        np.testing.assert_array_equal(kept, expected.astype(kept.dtype), err_msg=name)


def test_ranges_that_were_never_set(tmp_path, monkeypatch):
    monkeypatch.setattr(converter.WORKER, "ask", None)
    x = keras.Input((3,), name="x")
    model = edge.quantize_aware(keras.Model(x, layers.Dense(2, name="only")(x), name="new"))
    with pytest.raises(ValueError, match=r"'new' has 2 layers.*'x_range'.*kd\.edge\.calibrate"):
        edge.export_tflite(model, tmp_path / "no.tflite", precision="int8")
    model.get_layer("x_range").output_ranges[0].set(-1, 1)
    with pytest.raises(ValueError, match=r"1 layers.*'only'"):
        edge.export_tflite(model, tmp_path / "no.tflite", precision="int8")
    with pytest.raises(ValueError, match="used only at"):
        edge.export_tflite(model, tmp_path / "no.tflite", representative_data=np.ones((2, 3)))
