"""A quantised twin shows the user's layers, computes as integers will, trains, and comes back."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill import edge
from keras_distill.edge import legacy
from keras_distill.edge.compress.model import CompressedModel
from keras_distill.edge.quantize.aware import quantize_aware
from keras_distill.edge.quantize.calibrate import calibrate
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.signals import taps

layers = keras.layers


def teacher():
    keras.utils.set_random_seed(7)
    x = keras.Input((8, 8, 1))
    y = layers.Conv2D(16, 3, strides=2, padding="same", name="high")(x)
    return keras.Model(x, layers.Dense(10)(layers.Flatten()(y)))


def mlp(**options):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,), name="x"),
            layers.Dense(4, activation="relu", name="a"),
            layers.Dense(2, name="b", **options),
        ]
    )


def on_steps(x, low, high):
    """Rounded to 256 steps between bounds of which zero is one."""
    step = (high - low) / 255
    return np.clip(np.rint(x / step), round(low / step), round(high / step)) * step


def on_grid(kernel):
    step = np.abs(kernel).max(axis=0) / 127
    return np.rint(kernel / step) * step


def test_the_twin_has_the_users_layers_and_weights(small):
    before = [v.numpy() for v in small.variables]
    twin = quantize_aware(small)
    assert isinstance(twin, CompressedModel)
    assert twin.name == small.name
    names = [layer.name for layer in small.layers]
    assert [layer.name for layer in twin.layers] == ["image", "image_range", *names]
    for layer in small.layers:
        copy = twin.get_layer(layer.name)
        inside = copy.layer if isinstance(copy, Quantized) else copy
        assert type(inside) is type(layer)
        for ours, theirs in zip(inside.variables, layer.variables, strict=True):
            assert ours is not theirs
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert [tuple(v.shape) for v in twin.trainable_variables] == [
        tuple(v.shape) for v in small.trainable_variables
    ]
    twin.get_layer("first").layer.kernel.assign_add(tf.ones([3, 3, 1, 8]))
    for old, variable in zip(before, small.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_it_computes_what_integers_would():
    model = mlp()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype("float32")
    twin = quantize_aware(model)
    # Steps of 1/64, 1/32 and 1/32: exact in float32, and no value lies between two of them.
    for name, low, high in (("x_range", -2, 127 / 64), ("a", 0, 255 / 32), ("b", -4, 127 / 32)):
        twin.get_layer(name).output_ranges[0].set(low, high)
    (w, b), (v, c) = (model.get_layer(name).get_weights() for name in "ab")
    hidden = on_steps(np.maximum(on_steps(x, -2, 127 / 64) @ on_grid(w) + b, 0), 0, 255 / 32)
    expected = on_steps(hidden @ on_grid(v) + c, -4, 127 / 32)
    np.testing.assert_allclose(twin(x), expected, atol=1e-5)
    assert np.abs(expected - model(x)).max() > 0.005


def test_before_its_ranges_are_set_only_weights_are_rounded():
    model = mlp()
    x = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")
    twin = quantize_aware(model)
    for name in "ab":
        kernel = model.get_layer(name).kernel
        kernel.assign(on_grid(kernel.numpy()))
    np.testing.assert_allclose(twin(x), model(x), atol=1e-6)


def test_calibrated_it_is_close_to_the_float_model(small, digits):
    twin = quantize_aware(small, calibration_data=(digits.x_train[:256], digits.y_train[:256]))
    x = digits.x_test[:100]
    expected = small.predict(x, verbose=0)
    assert np.corrcoef(twin.predict(x, verbose=0).ravel(), expected.ravel())[0, 1] > 0.999


def test_nested_models_stay_nested_and_shared_layers_shared():
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deep"), shared], name="in")
    model = keras.Model(x, {"one": shared(inner(x)), "two": layers.Dense(2, name="two")(x)})
    twin = quantize_aware(model)
    assert isinstance(twin.get_layer("in"), CompressedModel)
    assert isinstance(twin.get_layer("in").get_layer("deep"), Quantized)
    assert twin.get_layer("shared") is twin.get_layer("in").get_layer("shared")
    assert len(twin.trainable_variables) == 6
    answer = twin(np.ones((2, 4), "float32"))
    assert set(answer) == {"one", "two"}
    assert edge.strip(twin).get_layer("in").get_layer("deep").name == "deep"


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 5}])
def test_it_trains_alone(small, digits, few, compiled, options, bounds):
    twin = compiled(quantize_aware(small), keras.optimizers.Adam(0.01), **options)
    history = twin.fit(few(20), epochs=3, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    assert all(high > low for low, high in bounds(twin).values())
    seen = {float(r.seen.numpy()) for layer in twin.layers for r in ranges(layer) if not r.fixed}
    assert seen == {60.0}


def ranges(layer):
    return layer.ranges() if isinstance(layer, Quantized) else ()


def test_evaluate_and_predict_change_nothing(small, digits, few, compiled):
    twin = compiled(quantize_aware(small, freeze_batch_norm_after=5))
    twin.fit(few(3), verbose=0)
    before = [v.numpy() for v in twin.variables]
    twin.evaluate(few(5), verbose=0)
    twin.predict(digits.x_test[:50], verbose=0)
    for old, variable in zip(before, twin.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_the_gradient_goes_through_the_roundings(digits):
    # Of a linear model whose ranges hold everything, it is the float model's at rounded weights.
    model = mlp()
    x = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    twin = quantize_aware(model, calibration_data=x)
    found = []
    kernels = model.get_layer("b").kernel, twin.get_layer("b").layer.kernel
    for one, kernel in zip((model, twin), kernels, strict=True):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(one(x)[:, 0])
        found.append(tape.gradient(loss, kernel.value).numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=0.03, atol=0.05)
    assert np.abs(found[0]).max() > 1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_distiller_with_taps(small, few, compiled, jit_compile):
    twin = quantize_aware(small, freeze_batch_norm_after=4)
    objectives = [kd.SoftTargets(), kd.FeatureHint("relu", "high", adapter="auto")]
    distiller = compiled(kd.Distiller(twin, teacher(), objectives), jit_compile=jit_compile)
    first = distiller.evaluate(few(5), verbose=0)
    logs = distiller.fit(few(10), epochs=3, verbose=0).history
    assert logs["feature_hint"][-1] < logs["feature_hint"][0]
    assert distiller.evaluate(few(5), verbose=0) != first
    assert int(twin.get_layer("norm").updates.numpy()) == 30
    # One forward a step, whatever the number of objectives.
    assert float(twin.get_layer("relu").output_ranges[0].seen.numpy()) == 30.0


def test_a_tap_reads_what_the_file_will_hold(small, digits):
    twin = quantize_aware(small, calibration_data=digits.x_train[:64])
    with taps.recording([taps.find(twin, "relu")]) as recorder:
        (found,) = recorder.outputs(twin(digits.x_test[:8]))
    low, high = twin.get_layer("relu").output_ranges[0].bounds()
    assert low == 0.0
    steps = found.numpy() / (high / 255)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


@pytest.mark.parametrize(
    ("policy", "computes"), [("mixed_float16", "float32"), ("mixed_bfloat16", "bfloat16")]
)
def test_half_precision(digits, few, compiled, policy, computes):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, dtype=policy, name="conv"),
            layers.Flatten(dtype=policy),
            layers.Dense(10, dtype=policy, name="logits"),
        ]
    )
    twin = compiled(quantize_aware(model, calibration_data=digits.x_train[:64]))
    history = twin.fit(few(20), epochs=2, verbose=0).history["loss"]
    assert history[-1] < history[0]
    inside = twin.get_layer("logits").layer
    assert (inside.compute_dtype, inside.kernel.dtype) == (computes, "float32")
    assert twin.get_layer("logits").output_ranges[0].low.dtype == "float32"
    assert model.get_layer("conv").dtype_policy.name == policy


@pytest.mark.slow
def test_on_two_replicas(in_a_fresh_process):
    printed = in_a_fresh_process("""
        import keras, numpy as np, tensorflow as tf
        from keras_distill import edge
        cpu = tf.config.list_physical_devices("CPU")[0]
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half] * 2)
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(8, name="a"),
                                  keras.layers.BatchNormalization(name="norm"),
                                  keras.layers.Dense(3, name="b")])
        x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        x[0, 0], x[1, 1], x[8, 2], x[9, 3] = -10, 20, -30, 40
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            twin = edge.quantize_aware(model, freeze_batch_norm_after=1)
            twin.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        twin.fit(x, np.arange(16) % 3, batch_size=16, shuffle=False, verbose=0)
        print(*twin.get_layer("x_range").output_ranges[0].bounds())
        statistics = twin.get_layer("norm").layer.moving_mean
        once = statistics.numpy()
        twin.fit(x, np.arange(16) % 3, batch_size=16, epochs=3, verbose=0)
        print(int((statistics.numpy() == once).all()), int(twin.get_layer("norm").updates.numpy()))
        spread = 0.0
        # Keras itself keeps a norm's statistics apart.
        for variable in (v for v in twin.weights if "moving" not in v.name):
            one, two = (v.numpy() for v in variable.value.values)
            spread = max(spread, np.abs(one - two).max())
        print(spread)
    """)
    low, high, frozen, updates, spread = map(float, printed.split())
    # The mean of the two replicas' extremes.
    assert (low, high) == pytest.approx((-20.0, 30.0))
    assert (frozen, updates, spread) == (1.0, 4.0, 0.0)


@pytest.mark.slow
def test_loaded_in_a_fresh_process_it_answers_the_same_and_trains_on(
    small, digits, few, compiled, tmp_path, in_a_fresh_process
):
    x, y = digits.x_train[:16], digits.y_train[:16]
    twin = compiled(quantize_aware(edge.prune(small, 0.5), freeze_batch_norm_after=3))
    twin.fit(few(5), verbose=0)
    twin.save(tmp_path / "twin.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y, answer=twin.predict(x, verbose=0))
    losses = [float(twin.train_on_batch(x, y)) for _ in range(2)]
    printed = in_a_fresh_process(f"""
        import keras_distill, keras, numpy as np
        data = np.load({str(tmp_path / "data.npz")!r})
        model = keras.saving.load_model({str(tmp_path / "twin.keras")!r})
        assert (model.predict(data["x"], verbose=0) == data["answer"]).all()
        losses = [float(model.train_on_batch(data["x"], data["y"])) for _ in range(2)]
        kernel = model.get_layer("middle").layer.kernel.numpy()
        print(*losses, int(model.get_layer("norm").updates.numpy()), (kernel == 0).mean())
    """)
    *again, updates, zeros = map(float, printed.split())
    assert again == pytest.approx(losses, rel=1e-6)
    assert (updates, zeros) == (7, 0.5)


def test_a_distillers_checkpoint_resumes_to_the_same_next_loss(small, few, compiled, tmp_path):
    def distiller():
        student = quantize_aware(small, freeze_batch_norm_after=8)
        return compiled(kd.Distiller(student, teacher(), kd.FeatureHint("relu", "high")))

    first, second = distiller(), distiller()
    first.fit(few(6), verbose=0)
    first.save_weights(tmp_path / "d.weights.h5")
    second.optimizer.build(second.trainable_variables)
    second.load_weights(tmp_path / "d.weights.h5")
    ours = first.fit(few(4), verbose=0).history
    assert second.fit(few(4), verbose=0).history == ours
    for one, other in zip(first.student.variables, second.student.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_a_pruned_models_zeros_stay(small, few, compiled, pattern):
    options = {"sparsity": 0.75} if pattern == "unstructured" else {"pattern": pattern}
    pruned = edge.prune(small, **options, skip="first")
    zeros = {row.layer: row.sparsity for row in edge.sparsity_report(pruned).rows}
    assert zeros["middle"] in (0.5, 0.75)
    twin = compiled(quantize_aware(pruned), keras.optimizers.Adam(0.01))
    twin.fit(few(10), verbose=0)
    # The grid rounds a few of the others to zero.
    for row in edge.sparsity_report(twin).rows:
        assert zeros[row.layer] <= row.sparsity < zeros[row.layer] + 0.05
    assert np.mean(twin.get_layer("middle").layer.kernel == 0) == zeros["middle"]
    kernel = edge.strip(twin).get_layer("middle").kernel.numpy()
    assert np.mean(kernel == 0) >= zeros["middle"]


def test_a_gradual_pruning_goes_on(small, few, compiled):
    twin = compiled(quantize_aware(edge.prune(small, 0.8, end_step=10)))
    twin.fit(few(10), verbose=0)
    rows = {row.layer: row for row in edge.sparsity_report(twin).rows}
    assert rows["middle"].sparsity == pytest.approx(0.8, abs=0.001)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("stripped", [True, False])
def test_preserve_sparsity(small, few, compiled, keep, stripped):
    pruned = edge.prune(small, 0.75)
    source = edge.strip(pruned) if stripped else pruned
    twin = quantize_aware(source, preserve_sparsity=keep)
    kernel = twin.get_layer("middle").layer.kernel
    where = kernel.numpy() == 0
    assert where.mean() == 0.75
    compiled(twin).fit(few(4), verbose=0)
    assert np.mean(kernel.numpy()[where] == 0) == (1.0 if keep else pytest.approx(0.0, abs=0.2))
    assert (kernel.numpy()[~where] != 0).all()


INSIDE = {
    "TimeDistributed": lambda x: layers.TimeDistributed(layers.Dense(6), name="inside")(x),
    "MultiHeadAttention": lambda x: layers.MultiHeadAttention(2, 3, name="inside")(x, x),
    "GRU": lambda x: layers.GRU(6, return_sequences=True, name="inside")(x),
    "LSTM": lambda x: layers.LSTM(6, return_sequences=True, name="inside")(x),
    "Bidirectional": lambda x: layers.Bidirectional(layers.LSTM(3), name="inside")(x),
    "skipped": lambda x: layers.Dense(6, name="inside")(x),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("kind", INSIDE)
def test_zeros_inside_layers_without_a_grid_stay(kind, wrapped, keep):
    keras.utils.set_random_seed(0)
    x = keras.Input((4, 6))
    head = layers.Dense(2, name="head")
    source = edge.prune(keras.Model(x, head(INSIDE[kind](x))), 0.75)
    before = [row.zeros for row in edge.sparsity_report(source).rows]
    source = source if wrapped else edge.strip(source)
    skip = "inside" if kind == "skipped" else ()
    twin = quantize_aware(source, preserve_sparsity=keep, skip=skip)
    rows = np.random.default_rng(0).normal(size=(8, 4, 6))
    twin.compile(keras.optimizers.SGD(0.1), "mse")
    twin.fit(rows, np.ones([*twin(rows[:1]).shape]).repeat(8, 0), verbose=0)
    after = [row.zeros for row in edge.sparsity_report(twin).rows]
    assert sum(before) == pytest.approx(0.75 * sum(r.size for r in edge.sparsity_report(twin).rows))
    # Where they may move, most do; the grid rounds some back to zero.
    assert all(a >= b for a, b in zip(after, before, strict=True)) == keep


def test_clusters_stay(small, few, compiled):
    clustered = edge.cluster(small, 8)
    twin = compiled(quantize_aware(clustered))
    twin.fit(few(4), verbose=0)
    kernel = edge.strip(twin).get_layer("logits").kernel.numpy()
    # On a grid a channel, 8 numbers for all are at most 8 numbers in each column.
    assert max(len(np.unique(column)) for column in kernel.T) <= 8


@pytest.mark.parametrize("keep", [True, False])
def test_stripped_of_mask_and_grid_the_users_constraint_is_back(small, keep):
    twin = quantize_aware(edge.prune(small, 0.5), preserve_sparsity=keep)
    assert edge.strip(twin).get_layer("logits").kernel.constraint is None


@pytest.mark.parametrize(
    "keep",
    [
        True,
        False,
    ],
)
def test_pruned_and_clustered_a_twin_keeps_the_clusters(small, keep):
    source = edge.cluster(edge.prune(small, 0.5), 8)
    expected = source.get_layer("logits").treated_weights()["kernel"].numpy()
    twin = quantize_aware(source, preserve_sparsity=keep)
    found = twin.get_layer("logits").treated_weights()["kernel"].numpy()
    # Half a step of the grid.
    assert np.abs(found - expected).max() <= np.abs(expected).max() / 254 * 1.01


def statistics(model):
    norm = model.get_layer("norm").layer
    return np.concatenate([norm.moving_mean.numpy(), norm.moving_variance.numpy()])


@pytest.mark.parametrize(("after", "accumulated"), [(0, 1), (2, 1), (2, 2)])
def test_batch_norm_freezes_after_so_many_updates(small, few, compiled, after, accumulated):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(statistics(self.model))

    steps = {} if accumulated == 1 else {"gradient_accumulation_steps": accumulated}
    twin = quantize_aware(small, freeze_batch_norm_after=after)
    seen.append(statistics(twin))
    compiled(twin, keras.optimizers.Adam(**steps)).fit(few(6), callbacks=[Watch()], verbose=0)
    moved = [bool((one != other).any()) for one, other in itertools.pairwise(seen)]
    assert moved == [True] * after * accumulated + [False] * (6 - after * accumulated)


def test_a_frozen_batch_norm_normalises_by_its_statistics(small, digits):
    small.get_layer("norm").moving_mean.assign(np.linspace(-1, 1, 8))
    x = digits.x_train[:32]
    frozen, free = (
        quantize_aware(small, calibration_data=x, freeze_batch_norm_after=after)
        for after in (0, None)
    )
    expected = small(x, training=False).numpy()
    near, far = (np.abs(twin(x, training=True) - expected).max() for twin in (frozen, free))
    assert near < 0.05 * np.abs(expected).max() < far


def test_frozen_layers_stay_frozen(small):
    small.get_layer("middle").trainable = False
    twin = quantize_aware(small)
    assert not twin.get_layer("middle").trainable_variables
    assert not edge.strip(twin).get_layer("middle").trainable
    assert edge.strip(twin).get_layer("logits").trainable


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("logits", {"logits"}),
        (["first", "norm"], {"first", "norm"}),
        ("(first|logits)", {"first", "logits"}),
        (layers.Conv2D, {"first", "middle"}),
    ],
)
def test_skip(small, skip, left):
    twin = quantize_aware(small, skip=skip)
    float_layers = {layer.name for layer in twin.layers if not isinstance(layer, Quantized)}
    assert float_layers - {"image", "flat"} == left
    twin = quantize_aware(small, skip=small.get_layer("logits"))
    assert not isinstance(twin.get_layer("logits"), Quantized)


def test_a_range_before_a_skipped_layer_stays(small, digits):
    # The norm would have joined the convolution: with it in float, their ranges part.
    twin = quantize_aware(small, skip="logits", calibration_data=digits.x_train[:64])
    assert twin.get_layer("middle").output_ranges[0].is_set
    kernel = small.get_layer("logits").kernel
    np.testing.assert_array_equal(twin.get_layer("logits").kernel, kernel)


def test_a_skipped_layer_is_in_float_in_the_file(small, digits, tmp_path):
    x = digits.x_train[:64]
    twin = quantize_aware(small, skip="middle", calibration_data=x)
    export = edge.export_tflite(twin, tmp_path / "twin.tflite", precision="int8")
    assert "middle" in export.float_layers
    assert "first" not in export.float_layers
    found = edge.load_tflite(export.path).predict(x)
    # A step of the last range at most.
    answers = twin.predict(x, verbose=0)
    assert np.abs(found - answers).max() <= np.ptp(answers) / 200


def test_constraints_and_regularisers_are_kept(few, compiled):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(10, kernel_constraint="non_neg", kernel_regularizer="l2", name="logits"),
        ]
    )
    twin = compiled(quantize_aware(model))
    twin.fit(few(4), verbose=0)
    kernel = twin.get_layer("logits").layer.kernel.numpy()
    assert kernel.min() == 0.0
    # Keras' "l2" is 0.01, on the weight that the optimiser moves.
    assert float(sum(twin.losses)) == pytest.approx(0.01 * np.sum(kernel**2), rel=1e-5)


def test_a_model_of_tf_keras():
    tf_keras = legacy.tf_keras()
    model = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1)),
            tf_keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(3, name="logits"),
        ]
    )
    x = np.random.default_rng(0).random((32, 8, 8, 1)).astype("float32")
    twin = quantize_aware(model, calibration_data=x)
    assert isinstance(twin, CompressedModel)
    expected = model.predict(x, verbose=0)
    assert np.abs(twin(x) - expected).max() < 0.03 * np.abs(expected).max()


def even_kernels(model):
    """Every channel of a kernel has the same largest weight, so that one scale serves all."""
    for layer, axes in (("depthwise", (0, 1)), ("logits", (0,))):
        kernel = model.get_layer(layer).kernel
        value = kernel.numpy()
        kernel.assign(0.5 * value / np.abs(value).max(axis=axes, keepdims=True))


def test_tfmots_own_scheme_with_our_ranges_answers_the_same(small, digits):
    # TFMOT takes one scale a channel for a convolution's kernel, and one in all for the others.
    even_kernels(small)
    norm = small.get_layer("norm")
    norm.moving_mean.assign(np.linspace(-0.3, 0.3, 8))
    norm.moving_variance.assign(np.linspace(0.2, 1.0, 8))
    x = digits.x_test[:100]
    twin = quantize_aware(small, calibration_data=digits.x_train[:200])
    theirs = legacy.tfmot().quantization.keras.quantize_model(edge.to_legacy(small))
    for layer in theirs.layers:
        name = layer.name.removeprefix("quant_")
        # tf_keras numbers the layer through the process: quantize_layer_1.
        ours = twin.get_layer("image_range" if name.startswith("quantize_layer") else name)
        for variable in layer.weights:
            low_or_high = variable.name.split("/")[-1].split(":")[0].rpartition("_")[2]
            if low_or_high not in ("min", "max") or "unquantized" in variable.name:
                continue
            if "kernel" in variable.name:
                kernel = np.abs(ours.layer.kernel.numpy())
                largest = kernel.max(axis=(0, 1, 2)) if variable.shape.rank else kernel.max()
                variable.assign(largest if low_or_high == "max" else -largest)
            elif list(ranges(ours)):
                (one,) = ranges(ours)
                variable.assign(one.bounds()[low_or_high == "max"])
    expected, found = theirs.predict(x, verbose=0), twin.predict(x, verbose=0)
    low, high = twin.get_layer("logits").output_ranges[0].bounds()
    off = np.abs(found - expected) / ((high - low) / 255)
    # TFMOT does not fold the norm either; a value between two steps may go to either.
    assert off.max() < 2.5
    assert np.mean(off > 0.5) < 0.05
    assert np.std(expected) > 10 * (high - low) / 255


def test_a_quantised_model_is_not_quantised_again(small):
    twin = quantize_aware(small)
    with pytest.raises(ValueError, match=r"'image_range' is quantised already.*strip"):
        quantize_aware(twin)
    again = quantize_aware(edge.strip(twin))
    assert [layer.name for layer in again.layers] == [layer.name for layer in twin.layers]


@pytest.mark.parametrize("after", [-1, 2.5, "10", True])
def test_bad_freeze_values(small, after):
    with pytest.raises(ValueError, match="freeze_batch_norm_after as a number of updates"):
        quantize_aware(small, freeze_batch_norm_after=after)


@pytest.mark.parametrize("skip", ["lodgits", [layers.LSTM], ("logits", "nothing")])
def test_skip_that_names_nothing(small, skip):
    with pytest.raises(ValueError, match="no layer answers to it"):
        quantize_aware(small, skip=skip)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x[:0], "0 rows|got none"),
        (lambda x: x[:, :7], r"\(8, 8, 1\)"),
        (lambda x: np.where(x > 0.9, np.nan, x), "NaN"),
    ],
)
def test_bad_calibration_data(small, digits, spoil, words):
    with pytest.raises(ValueError, match=words):
        quantize_aware(small, calibration_data=spoil(digits.x_train[:40]))


def test_no_model(small):
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    subclassed = Subclassed()
    subclassed(np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"(?s)subclassed.*keras\.Input"):
        quantize_aware(subclassed)
    with pytest.raises(ValueError, match=r"[Ee]xpected a built model"):
        quantize_aware(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(TypeError, match="Expected a Keras model"):
        quantize_aware("model")
    with pytest.raises(TypeError, match="got function"):
        quantize_aware(lambda x: x)


def test_a_layer_without_a_config_is_named(small):
    class Mystery(layers.Layer):
        def __init__(self, size):
            super().__init__(name="mystery")
            self.size = size

        def call(self, x):
            return x * self.size

    x = keras.Input((3,))
    with pytest.raises(ValueError, match=r"'mystery'.*get_config"):
        quantize_aware(keras.Model(x, Mystery(3)(x)))


def test_calibration_is_a_start_that_training_moves_slowly(small, few, digits, compiled, bounds):
    twin = compiled(quantize_aware(small), keras.optimizers.SGD(0.0))
    calibrate(twin, digits.x_train[:64])
    before = bounds(twin)
    twin.fit(few(10), verbose=0)
    after = bounds(twin)
    for path, (low, high) in before.items():
        moved = np.abs(after[path] - before[path]).max()
        assert moved <= 0.02 * (high - low)
        assert high > low
