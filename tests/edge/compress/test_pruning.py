import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.model import CompressedModel
from keras_distill.edge.compress.pruning import Mask, prune
from keras_distill.edge.compress.schedule import Schedule
from keras_distill.edge.compress.sparsity import sparsity_report
from keras_distill.edge.compress.strip import strip


def variables(model):
    """The kernels as they lie in the optimiser's hands, not as the layers see them."""
    return {
        (layer.name, path): variable.numpy()
        for layer in model._flatten_layers()
        if isinstance(layer, Compressed)
        for path, variable in layer._treated.items()
    }


def zeros(model):
    """The share of zeros in the variables themselves."""
    found = variables(model).values()
    return sum(int(np.sum(v == 0)) for v in found) / sum(v.size for v in found)


def promise(step, sparsity=0.8, begin=0, end=40):
    return float(Schedule(sparsity, begin, end)(step))


def batches(digits, count, size=16):
    x, y = digits.x_train[: count * size], digits.y_train[: count * size]
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def teacher():
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(200),
            keras.layers.Dense(10),
        ]
    )


def test_by_default_every_kernel_is_three_quarters_zero_at_once(small):
    before = small.get_weights()
    pruned = prune(small)
    report = sparsity_report(pruned)
    assert [row.layer for row in report.rows] == ["first", "middle", "logits"]
    assert {row.sparsity for row in report.rows} == {0.75}
    assert report.sparsity == report.rows[0].promised == zeros(pruned) == 0.75
    assert [layer.name for layer in pruned.layers][1:] == [layer.name for layer in small.layers]
    for ours, theirs in zip(before, small.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_plain_student_and_its_twin_before_the_first_zero_are_one(small, digits, compiled):
    twin = prune(small, begin_step=10**6)
    plain = compiled(small).fit(batches(digits, 8), verbose=0).history
    wrapped = compiled(twin).fit(batches(digits, 8), verbose=0).history
    assert wrapped == plain
    for layer in small.layers:
        inside = twin.get_layer(layer.name)
        inside = getattr(inside, "layer", inside)
        for ours, theirs in zip(layer.get_weights(), inside.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("options", [{"steps_per_execution": 4}, {"jit_compile": True}])
def test_twelve_updates_move_the_schedule_by_twelve(small, digits, compiled, options):
    pruned = compiled(prune(small, 0.8, end_step=40), **options)
    pruned.fit(batches(digits, 12), verbose=0)
    report = sparsity_report(pruned)
    assert report.rows[0].promised == pytest.approx(promise(12), abs=1e-6)
    assert zeros(pruned) == pytest.approx(promise(12), abs=0.005)


def test_accumulated_gradients_are_one_update(small, digits, compiled):
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    pruned = compiled(prune(small, 0.8, end_step=40), optimizer)
    pruned.fit(batches(digits, 16), verbose=0)
    assert zeros(pruned) == pytest.approx(promise(8), abs=0.005)


def test_under_a_distiller_with_many_objectives_and_evaluations(small, digits, compiled):
    pruned = prune(small, 0.8, begin_step=2, end_step=40)
    objectives = [kd.SoftTargets(), kd.LogitsMSE(), kd.HardTargets()]
    distiller = compiled(kd.Distiller(pruned, teacher(), objectives))
    for updates in (6, 12):
        distiller.fit(batches(digits, 6), validation_data=batches(digits, 3), verbose=0)
        distiller.evaluate(batches(digits, 5), verbose=0)
        assert zeros(pruned) == pytest.approx(promise(updates, begin=2), abs=0.005)


def test_evaluate_and_predict_change_nothing(small, digits, compiled):
    pruned = compiled(prune(small, 0.8, end_step=40))
    pruned.fit(batches(digits, 3), verbose=0)
    before = [v.numpy() for v in pruned.variables]
    pruned.evaluate(batches(digits, 5), verbose=0)
    pruned.predict(digits.x_test, verbose=0)
    for old, variable in zip(before, pruned.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


@pytest.mark.parametrize("last", [1, 7, 23])
def test_stopped_in_mid_epoch_it_is_as_sparse_as_tfmot_promises(
    small, digits, compiled, tfmot, last
):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == last:
                raise KeyboardInterrupt

    pruned = compiled(prune(small, 0.8, end_step=40))
    with pytest.raises(KeyboardInterrupt):
        pruned.fit(batches(digits, 60), callbacks=[Stop()], verbose=0)
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, 0, 40)
    assert zeros(pruned) == pytest.approx(float(schedule(tf.constant(last))[1]), abs=0.005)


def test_at_the_end_the_sparsity_is_exact(small, digits, compiled):
    pruned = compiled(prune(small, 0.8, end_step=9))
    pruned.fit(batches(digits, 9), verbose=0)
    for kernel in variables(pruned).values():
        assert np.sum(kernel != 0) == round(kernel.size * 0.2)


def test_momentum_does_not_fill_what_is_zero(small, digits, compiled):
    pruned = compiled(prune(small, 0.9, begin_step=6), keras.optimizers.Adam(0.05))
    history = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            history.append({key: value == 0 for key, value in variables(pruned).items()})

    pruned.fit(batches(digits, 12), callbacks=[Watch()], verbose=0)
    assert not any(mask.any() for mask in history[4].values())
    for key, mask in history[5].items():
        assert mask.mean() == pytest.approx(0.9, abs=0.005)
        for later in history[6:]:
            np.testing.assert_array_equal(later[key], mask)


def test_pruned_weights_have_no_gradient_and_kept_ones_their_own(small, digits):
    pruned = prune(small, 0.5)
    plain = strip(pruned)
    gradients = []
    for model, variable in (
        (pruned, pruned.get_layer("logits").layer.kernel),
        (plain, plain.get_layer("logits").kernel),
    ):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(digits.x_train[:8]) ** 2)
        gradients.append(tape.gradient(loss, variable.value).numpy())
    kept = plain.get_layer("logits").kernel.numpy() != 0
    assert np.abs(gradients[1][~kept]).max() > 0
    np.testing.assert_allclose(gradients[0], np.where(kept, gradients[1], 0), rtol=1e-5)


def test_a_new_optimiser_gives_no_weight_back(small, digits, compiled):
    pruned = compiled(prune(small, 0.8, end_step=8))
    pruned.fit(batches(digits, 8), verbose=0)
    compiled(pruned).fit(batches(digits, 2), verbose=0)
    assert zeros(pruned) == pytest.approx(0.8, abs=0.001)
    assert sparsity_report(pruned).rows[0].promised == pytest.approx(0.8)


@pytest.mark.slow
def test_loaded_in_a_fresh_process_it_answers_the_same_and_trains_on(
    small, digits, compiled, tmp_path, in_a_fresh_process
):
    pruned = compiled(prune(small, 0.8, end_step=40))
    pruned.fit(batches(digits, 5), verbose=0)
    x, y = digits.x_train[:16], digits.y_train[:16]
    pruned.save(tmp_path / "pruned.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y, answer=pruned.predict(x, verbose=0))
    loss = pruned.train_on_batch(x, y)
    printed = in_a_fresh_process(f"""
        import keras, keras_distill, numpy as np
        import keras_distill.edge.compress.pruning
        data = np.load({str(tmp_path / "data.npz")!r})
        model = keras.saving.load_model({str(tmp_path / "pruned.keras")!r})
        assert (model.predict(data["x"], verbose=0) == data["answer"]).all()
        loss = model.train_on_batch(data["x"], data["y"])
        report = keras_distill.edge.sparsity_report(model)
        print(float(loss), report.sparsity, report.rows[0].promised)
    """)
    again, sparsity, promised = map(float, printed.split())
    assert again == pytest.approx(float(loss), rel=1e-6)
    assert promised == pytest.approx(promise(6), abs=1e-6)
    assert sparsity == pytest.approx(promise(6), abs=0.005)


def test_a_distillers_checkpoint_resumes_to_the_same_next_loss(small, digits, compiled, tmp_path):
    def distiller():
        return compiled(kd.Distiller(prune(small, 0.8, end_step=40), teacher()))

    first, second = distiller(), distiller()
    first.fit(batches(digits, 6), verbose=0)
    first.save_weights(tmp_path / "d.weights.h5")
    second.optimizer.build(second.trainable_variables)
    second.load_weights(tmp_path / "d.weights.h5")
    assert zeros(second.student) == zeros(first.student) > 0.2
    following = batches(digits, 3)
    ours = first.fit(following, verbose=0).history
    assert second.fit(following, verbose=0).history == ours
    assert zeros(second.student) == pytest.approx(promise(9), abs=0.005)


@pytest.mark.slow
def test_on_two_replicas(in_a_fresh_process):
    printed = in_a_fresh_process("""
        import keras, numpy as np, tensorflow as tf
        from keras_distill import edge
        cpu = tf.config.list_physical_devices("CPU")[0]
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half] * 2)
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(40, name="a"),
                                  keras.layers.Dense(3, name="b")])
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(160, 20)).astype("float32"), rng.integers(0, 3, 160)
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            pruned = edge.prune(model, 0.8, end_step=20)
            pruned.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        pruned.fit(x, y, batch_size=16, epochs=1, verbose=0)
        for name in "ab":
            kernel = pruned.get_layer(name).layer.kernel.value
            kept = pruned.get_layer(name).treatments["kernel"][0].kept.value
            one, two = (v.numpy() for v in kernel.values)
            print(int((one == two).all()), np.mean(one == 0),
                  int((kept.values[0].numpy() == kept.values[1].numpy()).all()))
    """)
    for line in printed.splitlines():
        weights_agree, sparsity, masks_agree = map(float, line.split())
        assert weights_agree == masks_agree == 1
        assert sparsity == pytest.approx(promise(10, end=20), abs=0.01)


@pytest.mark.parametrize("stripped", [True, False])
def test_the_file_has_the_zeros(small, tmp_path, stripped):
    pruned = prune(small, 0.75)
    export = kd.edge.export_tflite(strip(pruned) if stripped else pruned, tmp_path / "a.tflite")
    # Depthwise kernel and biases stay dense: 6,032 of some 6,250 numbers are in kernels.
    assert export.sparsity == pytest.approx(0.75, abs=0.04)


def test_two_of_four_takes_no_sparsity(small):
    pruned = prune(small, pattern="2:4", skip="first")
    assert zeros(pruned) == 0.5
    assert {row.pattern for row in sparsity_report(pruned).rows} == {None, "2:4"}
    with pytest.raises(ValueError, match="half zeros"):
        prune(small, 0.75, pattern="2:4", skip="first")
    with pytest.raises(ValueError, match="comes at once"):
        prune(small, pattern="2:4", end_step=100, skip="first")


def test_blocks_come_gradually(small, digits, compiled):
    pruned = compiled(prune(small, 0.75, pattern=(4, 2), end_step=4, skip="first"))
    pruned.fit(batches(digits, 4), verbose=0)
    kernel = variables(pruned)["middle", "kernel"].reshape(36, 4, 16, 2)
    share = (kernel == 0).mean(axis=(1, 3))
    assert set(np.unique(share)) == {0.0, 1.0}
    assert share.mean() == 0.75


def test_first_and_last(small):
    pruned = prune(small, skip=("first", "last"))
    assert [key for key, _ in variables(pruned)] == ["middle"]


def test_layers_pruned_one_after_another(small):
    once = prune(small, 0.5, skip="logits")
    twice = prune(once, 0.9, skip=("first", "middle"))
    sparsity = {row.layer: round(row.sparsity, 3) for row in sparsity_report(twice).rows}
    assert sparsity == {"first": 0.5, "middle": 0.5, "logits": 0.9}


def test_a_nested_model_a_shared_layer_and_a_recurrent_one(compiled):
    keras.utils.set_random_seed(0)
    shared = keras.layers.Dense(8, name="shared")
    inputs = keras.Input((4, 8))
    inner = keras.Sequential([keras.Input((4, 8)), shared], name="inner")
    both = keras.layers.Add()([inner(inputs), shared(inner(inputs))])
    outputs = keras.layers.LSTM(6, name="lstm")(both)
    pruned = prune(keras.Model(inputs, outputs), 0.5, end_step=4)
    x, y = np.ones((32, 4, 8), "float32"), np.zeros(32)
    compiled(pruned).fit(x, y, batch_size=8, verbose=0)
    report = {(row.layer, row.weight): row.sparsity for row in sparsity_report(pruned).rows}
    assert len(variables(pruned)) == 3
    assert report["inner/shared", "kernel"] == 0.5
    assert report["lstm", "lstm_cell/recurrent_kernel"] == 0.5
    np.testing.assert_array_equal(strip(pruned)(x), pruned(x))


def test_a_constraint_of_the_users_own_is_kept(digits, compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, kernel_constraint="non_neg", name="logits"),
        ]
    )
    pruned = compiled(prune(model, 0.5, begin_step=2))
    pruned.fit(batches(digits, 4), verbose=0)
    kernel = pruned.get_layer("logits").layer.kernel.numpy()
    assert kernel.min() == 0
    assert np.mean(kernel == 0) >= 0.5
    plain = strip(pruned).get_layer("logits")
    assert isinstance(plain.kernel.constraint, keras.constraints.NonNeg)


def test_frozen_layers_stay_frozen(small):
    small.get_layer("middle").trainable = False
    pruned = prune(small)
    assert not pruned.get_layer("middle").trainable_variables
    assert not strip(pruned).get_layer("middle").trainable
    assert strip(pruned).get_layer("logits").trainable


@pytest.mark.parametrize(
    ("policy", "computes"), [("mixed_float16", "float32"), ("mixed_bfloat16", "bfloat16")]
)
def test_half_precision(digits, compiled, policy, computes):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, dtype=policy, name="logits"),
        ]
    )
    pruned = compiled(prune(model, 0.5, skip=()))
    pruned.fit(batches(digits, 3), verbose=0)
    assert pruned.get_layer("logits").layer.compute_dtype == computes
    assert zeros(pruned) == 0.5


def test_a_model_of_tf_keras(tf_keras):
    model = tf_keras.Sequential(
        [tf_keras.Input((8,)), tf_keras.layers.Dense(4, name="a"), tf_keras.layers.Dense(2)]
    )
    pruned = prune(model, 0.5)
    assert isinstance(pruned, CompressedModel)
    assert zeros(pruned) == 0.5
    kept = pruned.get_layer("a").layer.kernel.numpy()
    np.testing.assert_array_equal(kept[kept != 0], model.get_layer("a").kernel.numpy()[kept != 0])


def test_a_mask_renews_only_when_the_promise_has_moved(small):
    layer = prune(small, 0.8, end_step=10_000).get_layer("logits")
    (mask,) = layer.treatments["kernel"]
    made = []
    for step in range(0, 10_001, 10):
        layer.after_update(tf.constant(step, tf.int64))
        made.append(float(mask.reached.numpy()))
        assert abs(made[-1] - promise(step, end=10_000)) < 0.0025
    assert 200 < len(set(made)) <= 322  # 0.8 / 0.0025 and the ends
    assert made[-1] == pytest.approx(0.8)


def test_the_report_prints_and_is_json(small):
    report = sparsity_report(prune(small, 0.5))
    assert "middle" in str(report)
    assert "50.0%" in str(report)
    assert '"zeros": 3016, "size": 6032' in report.to_json()


@pytest.mark.parametrize("pattern", ["unstructured", (4, 2)])
def test_under_tfmots_schedule_masks_are_tfmots_at_every_step(small, tfmot, tf_keras, pattern):
    schedules = tfmot.sparsity.keras
    schedule = schedules.PolynomialDecay(0.2, 0.75, 2, 12, frequency=3)
    block = (1, 1) if pattern == "unstructured" else pattern
    pruned = prune(small, schedule, pattern=pattern, skip=("first", "middle"))
    layer = pruned.get_layer("logits")
    dense = tf_keras.layers.Dense(10)
    dense.build(layer.layer.kernel.shape[:1])
    dense.set_weights(small.get_layer("logits").get_weights())
    theirs = schedules.prune_low_magnitude(dense, schedule, block_size=block)
    theirs.build((None, dense.kernel.shape[0]))
    (ours,) = layer.treatments["kernel"]
    for step in range(1, 16):
        pruned.after_update(step)
        theirs.pruning_step.assign(step)
        theirs.pruning_obj.conditional_mask_update()
        mask = theirs.pruning_vars[0][1].numpy()
        np.testing.assert_array_equal(ours.kept.value.numpy(), mask > 0, err_msg=str(step))
    assert mask.mean() < 0.3


def test_tfmots_constant_schedule_and_what_goes_with_it(small, tfmot):
    schedules = tfmot.sparsity.keras
    half = schedules.ConstantSparsity(0.5, 0)
    assert zeros(prune(small, half)) == 0.5
    assert zeros(prune(small, half, pattern="2:4", skip="first")) == 0.5
    with pytest.raises(ValueError, match="has its own steps"):
        prune(small, half, end_step=10)
    with pytest.raises(ValueError, match=r"2:4.* comes at once"):
        prune(small, schedules.PolynomialDecay(0.0, 0.5, 0, 10), pattern="2:4", skip="first")
    with pytest.raises(ValueError, match="never filled again"):
        prune(small, schedules.PolynomialDecay(0.8, 0.5, 0, 10))

    class Mine(schedules.PruningSchedule):
        def __call__(self, step):
            return True, 0.5

        def get_config(self):
            return {}

    with pytest.raises(ValueError, match="ConstantSparsity or PolynomialDecay"):
        prune(small, Mine())


def test_masks_come_back_from_their_config():
    stepped = Mask(0.5, 3, 9, initial_sparsity=0.1, power=1, frequency=2)
    assert Mask.from_config(stepped.get_config()).schedule == stepped.schedule
    mask = Mask(0.5, 3, 9, (4, 2), (0, 1, 2))
    assert Mask.from_config(mask.get_config()).get_config() == mask.get_config()


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 75, float("nan"), "0.5", True])
def test_sparsity_outside_its_range(small, sparsity):
    with pytest.raises(ValueError, match="Expected sparsity as the share of zeros"):
        prune(small, sparsity)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"begin_step": -1}, "Expected begin_step"),
        ({"end_step": -1}, "Expected end_step"),
        ({"end_step": 10.5}, "Expected end_step"),
        ({"begin_step": 10, "end_step": 9}, "at or after begin_step=10"),
    ],
)
def test_steps_in_the_wrong_order(small, steps, words):
    with pytest.raises(ValueError, match=words):
        prune(small, **steps)


def test_a_pattern_that_does_not_divide_names_every_such_layer(small):
    with pytest.raises(ValueError, match="2:4") as caught:
        prune(small, pattern="2:4")
    assert "'first' (kernel (3, 3, 1, 16)): its 1 input channels" in str(caught.value)
    assert "skip=('first',)" in str(caught.value)
    with pytest.raises(ValueError, match="as a matrix it is 9 by 16") as caught:
        prune(small, pattern=(16, 4))
    assert "logits" in str(caught.value)


@pytest.mark.parametrize("skip", ["lodgits", [keras.layers.LSTM]])
def test_skip_that_names_nothing(small, skip):
    with pytest.raises(ValueError, match="no layer answers to it"):
        prune(small, skip=skip)


def test_nothing_to_prune(small):
    with pytest.raises(ValueError, match=r"nothing to prune.*skip leaves out all"):
        prune(small, skip=(keras.layers.Conv2D, keras.layers.Dense))
    empty = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match="nothing to prune"):
        prune(empty)


def test_pruned_and_quantised_models_are_refused(small):
    with pytest.raises(ValueError, match="pruned already"):
        prune(prune(small))
    with pytest.raises(ValueError, match=r"(?s)Clusters.*Prune first"):
        prune(kd.edge.cluster(small))
    with pytest.raises(ValueError, match=r"quantised: .* Prune first"):
        prune(kd.edge.quantize_aware(small))


def test_no_model():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclassed"):
        prune(Subclassed())
    with pytest.raises(ValueError, match="Expected a built model"):
        prune(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(TypeError, match="Expected a Keras model"):
        prune("model")
