"""Kernels of 4 bits: on their grid in training, half a byte each in the file, the same answers."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.edge.quantize.weights import on_grid
from keras_distill.litert.four_bits import pack
from keras_distill.litert.rewriting import rewritten

layers = keras.layers


def read_int4(path):
    """The kernels of 4 bits in a file by LiteRT's own schema: (steps, scales, channel axis)."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    found = []
    for tensor in model.subgraphs[0].tensors:
        if tensor.type != schema.TensorType.INT4:
            continue
        data = np.frombuffer(bytes(model.buffers[tensor.buffer].data), "uint8")
        halves = np.stack([data & 15, data >> 4], axis=-1).ravel().astype("int8")
        size = int(np.prod(tensor.shape))
        assert data.size == (size + 1) // 2
        signed = np.where(halves > 7, halves - 16, halves)[:size].reshape(tensor.shape)
        scales = np.asarray(tensor.quantization.scale)
        found.append((signed, scales, tensor.quantization.quantizedDimension))
    return found


def models():
    image = (9, 9, 3)
    yield "dense", [layers.Dense(7, activation="relu"), layers.Dense(5)], (11,)
    yield "dense over time", [layers.Dense(7), layers.ReLU()], (6, 5)
    yield "convolution, norm, relu", [
        layers.Conv2D(6, 3, strides=2, use_bias=False), layers.BatchNormalization(), layers.ReLU()
    ], image  # fmt: skip
    yield "depthwise, norm, relu6", [
        layers.DepthwiseConv2D(3, padding="same"), layers.BatchNormalization(), layers.ReLU(6.0)
    ], image  # fmt: skip
    yield "separable", [layers.SeparableConv2D(4, 3, depth_multiplier=2)], image
    yield "over time, causal", [layers.Conv1D(5, 3, padding="causal", activation="silu")], (8, 3)
    yield "depthwise over time", [layers.DepthwiseConv1D(3)], (8, 3)
    yield "separable over time", [layers.SeparableConv1D(4, 3)], (8, 3)


@pytest.mark.parametrize(("made", "shape"), [m[1:] for m in models()], ids=[m[0] for m in models()])
def test_the_file_holds_halves_of_bytes_and_answers_as_the_model(made, shape, tmp_path):
    model = keras.Sequential([keras.Input(shape), *(keras.layers.deserialize(
        keras.layers.serialize(layer)) for layer in made)])  # fmt: skip
    random = np.random.default_rng(0)
    for weight in model.weights:
        low = 0.5 if weight.path.endswith("variance") else -2.0
        if "kernel" not in weight.path:
            weight.assign(random.uniform(low, 2.0, weight.shape))
    x = random.normal(size=(64, *shape)).astype("float32")
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=4)
    export = kd.edge.export_tflite(small, tmp_path / "small.tflite", precision="int8")
    # As many kernels as the model has, of the same sizes.
    kernels = [w for w in model.weights if w.path.endswith("kernel")]
    held = read_int4(export.path)
    assert sorted(w.shape.num_elements() for w in kernels) == sorted(s.size for s, _, _ in held)
    for steps, scales, axis in held:
        others = tuple(n for n in range(steps.ndim) if n != axis)
        # Each channel has a scale, and uses all of it.
        assert scales.size == steps.shape[axis]
        np.testing.assert_array_equal(np.abs(steps).max(axis=others), 7)
    ours, file = small.predict(x, verbose=0), kd.edge.load_tflite(export.path).predict(x)
    (head,) = [r for layer in small.layers[-1:] for r in layer.ranges()][-1:]
    low, high = head.bounds()
    # Of the operations behind each other each may round to the step beside.
    assert np.abs(ours - file).max() <= 3.01 * (high - low) / 255


def test_steps_by_hand():
    kernel = tf.constant([[0.7, 2.0], [-0.26, -14.0], [0.04, 3.1]])
    # Scales 0.1 and 2.
    expected = [[0.7, 2.0], [-0.3, -14.0], [0.0, 4.0]]
    np.testing.assert_allclose(on_grid(kernel, (-1,), 4), expected, atol=1e-6)


def dense():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, name="first"),
            layers.Conv2DTranspose(3, 3, name="up"),
            layers.Flatten(name="flat"),
            layers.Dense(40, name="middle"),
            layers.Dense(5, name="last"),
        ]
    )


def grids(model):
    return {
        layer.name: {t.bits for chain in layer.treatments.values() for t in chain}
        for layer in model.layers
        if getattr(layer, "treatments", None)
    }


def test_bits_by_name_and_where_there_are_kernels_for_them():
    model = dense()
    everywhere = {"first": {4}, "up": {8}, "middle": {4}, "last": {4}}
    assert grids(kd.edge.quantize_aware(model, weight_bits=4)) == everywhere
    named = kd.edge.quantize_aware(model, weight_bits={".*dle|first": 4, layers.Conv2D: 8})
    assert grids(named) == {"first": {8}, "up": {8}, "middle": {4}, "last": {8}}


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (5, r"weight_bits of 4 or 8; got 5"),
        (True, r"weight_bits of 4 or 8; got True"),
        ({"middle": 2}, r"weight_bits of 4 or 8; got 2"),
        ({"muddle": 4}, r"weight_bits names 'muddle', and no layer answers to it. There are first"),
        ({"up": 4}, r"no 'up' \(Conv2DTranspose\) at 4 bits.*first, last, middle"),
        ({"flat": 4}, r"no 'flat' \(Flatten\) at 4 bits"),
    ],
)
def test_what_is_refused(bits, words):
    with pytest.raises(ValueError, match=words):
        kd.edge.quantize_aware(dense(), weight_bits=bits)


def test_some_at_four_bits_saved_loaded_and_smaller(tmp_path):
    model, x = dense(), np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
    sizes = {}
    for name, bits in {"eight": 8, "four": {"middle": 4}}.items():
        small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=bits)
        small.save(tmp_path / "small.keras")
        loaded = keras.saving.load_model(tmp_path / "small.keras")
        export = kd.edge.export_tflite(loaded, tmp_path / f"{name}.tflite", precision="int8")
        sizes[name] = export.bytes
        assert export.dtypes.get("int4", 0) == (name == "four")
        answers = kd.edge.load_tflite(export.path).predict(x)
        assert np.corrcoef(answers.ravel(), small.predict(x, verbose=0).ravel())[0, 1] > 0.9999
    # 192 x 40 weights of the layer, half a byte each.
    assert sizes["eight"] - sizes["four"] == pytest.approx(7680 / 2, abs=100)


def test_a_layer_called_twice_has_one_kernel(tmp_path):
    image, shared = keras.Input((6,)), layers.Dense(6, activation="relu", name="shared")
    model = keras.Model(image, shared(shared(image)))
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=4)
    export = kd.edge.export_tflite(small, tmp_path / "twice.tflite", precision="int8")
    answers = kd.edge.load_tflite(export.path).predict(x)
    assert export.dtypes["int4"] >= 1
    np.testing.assert_allclose(answers, small.predict(x, verbose=0), atol=2e-2)


def test_weights_alone_at_four_bits(tmp_path):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(32, name="a"), layers.Dense(4)])
    x = np.random.default_rng(0).normal(size=(32, 64)).astype("float32")
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=4)
    export = kd.edge.export_tflite(small, tmp_path / "w4.tflite", precision="dynamic_int8")
    # The converter leaves the 128 weights of the other in float.
    ((steps, _, _),) = read_int4(export.path)
    assert steps.shape == (32, 64)
    answers = kd.edge.load_tflite(export.path).predict(x)
    expected = kd.edge.strip(small).predict(x, verbose=0)
    assert np.corrcoef(answers.ravel(), expected.ravel())[0, 1] > 0.999


def test_other_kernels_stay_as_they_are(tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
    small = kd.edge.quantize_aware(dense(), calibration_data=x)
    export = kd.edge.export_tflite(small, tmp_path / "eight.tflite", precision="int8")
    whole = export.path.read_bytes()
    (tmp_path / "again.tflite").write_bytes(
        rewritten(whole, [functools.partial(pack, sizes=[7680])])
    )
    again = kd.edge.load_tflite(tmp_path / "again.tflite")
    assert not read_int4(tmp_path / "again.tflite")
    np.testing.assert_array_equal(again.predict(x), kd.edge.load_tflite(export.path).predict(x))


def test_a_kernel_that_is_not_in_the_file_is_told(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
    small = kd.edge.quantize_aware(dense(), calibration_data=x, weight_bits=4)
    monkeypatch.setattr("keras_distill.edge.export.tflite._of_four_bits", lambda *_: [7680, 11])
    with pytest.raises(kd.edge.ConversionError, match=r"Of 2 kernels of 4 bits 1 came into"):
        kd.edge.export_tflite(small, tmp_path / "small.tflite", precision="int8")
    assert not list(tmp_path.iterdir())


def test_equal_kernels_are_held_once(tmp_path):
    made = [layers.Dense(4, kernel_initializer="identity", name=name) for name in "ab"]
    model = keras.Sequential([keras.Input((4,)), *made, layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=4)
    export = kd.edge.export_tflite(small, tmp_path / "equal.tflite", precision="int8")
    assert {s.shape for s, _, _ in read_int4(export.path)} == {(4, 4), (3, 4)}


def test_a_depthwise_kernel_beside_real_numbers_has_8_bits(tmp_path):
    made = [layers.DepthwiseConv2D(3), layers.GlobalAveragePooling2D(), layers.Dense(10)]
    model = keras.Sequential([keras.Input((5, 5, 128)), *made])
    x = np.random.default_rng(0).normal(size=(16, 5, 5, 128)).astype("float32")
    small = kd.edge.quantize_aware(model, calibration_data=x, weight_bits=4)
    export = kd.edge.export_tflite(small, tmp_path / "w4.tflite", precision="dynamic_int8")
    ((steps, _, _),) = read_int4(export.path)
    assert steps.shape == (10, 128)
    expected = kd.edge.strip(small).predict(x, verbose=0)
    answers = kd.edge.load_tflite(export.path).predict(x)
    assert np.corrcoef(answers.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_whole_path_names_one_layer():
    sub = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="sub")
    x = keras.Input((4,))
    model = keras.Model(x, sub(layers.Dense(4, name="dense")(x)))
    small = kd.edge.quantize_aware(model, weight_bits={"dense": 4})
    assert grids(small)["dense"] == {4}
    assert grids(small.get_layer("sub"))["dense"] == {8}


def test_what_is_skipped_can_have_no_bits():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="h"), keras.layers.Dense(2, name="y")]
    )
    with pytest.raises(ValueError, match=r"'h' for 4 bits, and skip leaves h in float"):
        kd.edge.quantize_aware(model, weight_bits={"h": 4}, skip="h")
    # A pattern may name more than is skipped.
    small = kd.edge.quantize_aware(model, weight_bits={"h|y": 4}, skip="h")
    assert small.get_layer("y").treatments["kernel"][-1].bits == 4
