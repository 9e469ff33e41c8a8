"""TFMOT's own wrappers under Keras 3: trained, evaluated, saved, loaded and stripped."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

import keras_distill as kd
from keras_distill.edge import legacy
from keras_distill.edge.bridge import to_legacy, wrap_legacy

tfmot = legacy.tfmot()
# Behind it: the import alone would leave an environment variable to the whole process.
from tensorflow_model_optimization.python.core.clustering.keras.experimental import (  # noqa: E402
    cluster as experimental,
)
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve.default_8bit_cluster_preserve_quantize_scheme import (  # noqa: E402, E501
    Default8BitClusterPreserveQuantizeScheme,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning  # noqa: E402

sparsity, quantization = tfmot.sparsity.keras, tfmot.quantization.keras
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
AT_ONCE = sparsity.ConstantSparsity(0.5, 0, frequency=1)
KERNELS = ("conv", "logits")


def student(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1), name="image"),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(4, name="logits"),
        ],
        name="student",
    )


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(3)
    return generator.normal(size=(16, 6, 6, 1)).astype("float32"), np.arange(16) % 4


def halved():
    """A student half of whose kernels' numbers are zero, as strip_pruning leaves it."""
    net = to_legacy(student())
    for name in KERNELS:
        kernel = net.get_layer(name).kernel
        kernel.assign(tf.where(tf.abs(kernel) < np.median(np.abs(kernel)), 0.0, kernel))
    return net


def in_clusters(net, **options):
    clusters = {"number_of_clusters": 4, **options}
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    if "preserve_sparsity" in options:
        return experimental.cluster_weights(net, cluster_centroids_init=start, **clusters)
    return tfmot.clustering.keras.cluster_weights(net, cluster_centroids_init=start, **clusters)


def four_numbers(net, **options):
    """A student of four different numbers a kernel, as strip_clustering leaves it."""
    wrapped = in_clusters(net, **options)
    wrapped(np.zeros((1, 6, 6, 1), "float32"))
    return tfmot.clustering.keras.strip_clustering(wrapped)


def quantised(net, scheme):
    return quantization.quantize_apply(quantization.quantize_annotate_model(net), scheme)


WRAPPED = {
    "pruned": lambda: sparsity.prune_low_magnitude(to_legacy(student()), AT_ONCE),
    "clustered": lambda: in_clusters(to_legacy(student())),
    "pruned, clustered": lambda: in_clusters(halved(), preserve_sparsity=True),
    "quantised": lambda: quantization.quantize_model(to_legacy(student())),
    "PQAT": lambda: quantised(
        halved(), quantization.collab_opts.Default8BitPrunePreserveQuantizeScheme()
    ),
    "CQAT": lambda: quantised(
        four_numbers(to_legacy(student())),
        Default8BitClusterPreserveQuantizeScheme(),
    ),
    "PCQAT": lambda: quantised(
        four_numbers(halved(), preserve_sparsity=True),
        Default8BitClusterPreserveQuantizeScheme(True),
    ),
}


def compiled(model, **options):
    optimizer = keras.optimizers.Adam(0.02, **options.pop("optimizer", {}))
    model.compile(optimizer, LOSS, **{"jit_compile": False, **options})
    return model


def trained(model, batch, epochs=1, **options):
    return model.fit(*batch, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)


def values(model):
    return [variable.numpy() for variable in model.weights]


def check_kernels(name, model):
    """Zeros and clusters in a plain model's kernels, as TFMOT promises them."""
    for layer in KERNELS:
        kernel = model.get_layer(layer).get_weights()[0]
        if name.startswith(("pruned", "P")):
            # A zero is a cluster's: others may have come near it. -0.0 costs the zipped file.
            assert np.mean((kernel == 0) & ~np.signbit(kernel)) >= 0.5, layer
        if "lustered" in name or "CQAT" in name:
            # A preserving quantiser counts a convolution's clusters channel by channel.
            per_channel = "CQAT" in name and layer == "conv"
            rows = kernel.reshape(-1, kernel.shape[-1]).T if per_channel else [kernel]
            assert all(len(np.unique(row)) <= 4 for row in rows), layer


@pytest.mark.parametrize(
    "options",
    [
        {"pruning_schedule": sparsity.PolynomialDecay(0.2, 0.8, 2, 6, frequency=2)},
        {"pruning_schedule": sparsity.ConstantSparsity(0.5, 1, 4, frequency=1)},
        {"pruning_schedule": AT_ONCE, "block_size": (2, 2), "block_pooling_type": "MAX"},
        {"sparsity_m_by_n": (2, 4)},
    ],
    ids=["polynomial", "constant", "blocks", "2:4"],
)
def test_after_each_update_it_is_the_plain_student_pruned_by_tfmot(options, batch):
    """The yardstick: plain Keras updates, and TFMOT's own pruning of the student after each."""
    if "sparsity_m_by_n" in options or "block_size" in options:
        chosen = {"logits": options}
    else:
        chosen = dict.fromkeys(KERNELS, options)
    plain, net = student(), to_legacy(student())
    wrapped = tf_keras.models.clone_model(
        net,
        clone_function=lambda layer: (
            sparsity.prune_low_magnitude(layer, **chosen[layer.name])
            if layer.name in chosen
            else layer
        ),
    )
    outer = wrap_legacy(wrapped)
    step = tf.Variable(0, dtype="int64")
    pruning = []
    for name, given in chosen.items():
        kernel = plain.get_layer(name).kernel.value
        mask = tf.Variable(tf.ones_like(kernel))
        given = {"pruning_schedule": AT_ONCE, "block_size": (1, 1), **given}
        given.setdefault("block_pooling_type", "AVG")
        held = [(kernel, mask, tf.Variable(0.0))]
        pruning.append((name, mask, Pruning(lambda: step, held, **given)))
    for model in (plain, outer):
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, run_eagerly=True)
    for update in range(1, 9):
        for model in (plain, outer):
            model.train_on_batch(*batch)
        step.assign(update)
        for name, mask, each in pruning:
            each.conditional_mask_update()
            each.weight_mask_op()
            inner = wrapped.get_layer(f"prune_low_magnitude_{name}")
            np.testing.assert_array_equal(inner.pruning_vars[0][1], mask)
            np.testing.assert_array_equal(inner.layer.kernel, plain.get_layer(name).kernel)
            assert int(inner.pruning_step) == update
    assert all(float(np.mean(mask)) < 1 for _, mask, _ in pruning)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist", "ignore:The student 'student' has")
@pytest.mark.parametrize("name", WRAPPED)
def test_a_distiller_trains_saves_and_resumes_it(name, batch, tmp_path):
    inner = WRAPPED[name]()
    outer, teacher = wrap_legacy(inner), student(7)
    hint = kd.FeatureHint(next(x.name for x in outer.layers if x.name.endswith("conv")), "conv")
    distiller = compiled(kd.Distiller(outer, teacher, [kd.SoftTargets(), hint]), run_eagerly=True)
    before = values(outer)
    trained(distiller, batch)
    assert any(not np.array_equal(a, b) for a, b in zip(before, values(outer), strict=True))
    after = values(distiller)
    distiller.evaluate(*batch, verbose=0)
    outer.predict(batch[0], verbose=0)
    for mine, old, variable in zip(values(distiller), after, distiller.weights, strict=True):
        np.testing.assert_array_equal(mine, old, err_msg=variable.path)

    distiller.save(tmp_path / "d.keras")
    again = kd.Distiller.load(tmp_path / "d.keras", teacher)
    again.run_eagerly = True
    for one in (distiller, again):
        trained(one, batch, epochs=2)
    for mine, theirs in zip(again.weights, distiller.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=theirs.path)

    plain = kd.edge.strip(again.student)
    check_kernels(name, plain)
    assert outer.count_params() >= plain.count_params() == student().count_params()
    if "Q" not in name and name != "quantised":
        np.testing.assert_allclose(plain(batch[0]), outer(batch[0]), atol=1e-5)
    plain.save(tmp_path / "plain.keras")
    assert type(keras.saving.load_model(tmp_path / "plain.keras").layers[1]).__name__ == "Conv2D"


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_nested_shared_and_recurrent_layers_come_off(batch):
    layers = tf_keras.layers
    prune = sparsity.prune_low_magnitude
    inner = tf_keras.Sequential(
        [tf_keras.Input((6, 6)), prune(layers.Dense(6, name="shared"), AT_ONCE)], name="inner"
    )
    rows = tf_keras.Input((6, 6))
    found = prune(layers.LSTM(4, name="lstm"), AT_ONCE)(inner(inner(rows)))
    outer = wrap_legacy(tf_keras.Model(rows, in_clusters(layers.Dense(4, name="logits"))(found)))
    x, y = batch[0][..., 0], batch[1]
    trained(compiled(outer, optimizer={"gradient_accumulation_steps": 2}, run_eagerly=True), (x, y))
    wrappers = [outer.get_layer("inner").layers[0], outer.get_layer("prune_low_magnitude_lstm")]
    # Two batches are one update here, and two calls a batch are no more.
    assert [int(each.inner.pruning_step) for each in wrappers] == [1, 1]
    rows = {(row.layer, row.weight): row for row in kd.edge.sparsity_report(outer).rows}
    assert rows["inner/shared", "kernel"].sparsity == 0.5
    assert rows["lstm", "lstm_cell/recurrent_kernel"].sparsity == 0.5
    plain = kd.edge.strip(outer)
    assert len(np.unique(plain.get_layer("logits").kernel)) <= 4
    np.testing.assert_allclose(plain(x), outer(x), atol=1e-6)


def test_averaged_weights_are_masked_when_they_come_back(batch):
    schedule = sparsity.PolynomialDecay(0.2, 0.8, 1, 4, frequency=1)
    outer = wrap_legacy(sparsity.prune_low_magnitude(to_legacy(student()), schedule))
    trained(compiled(outer, optimizer={"use_ema": True}, run_eagerly=True), batch, epochs=3)
    plain = kd.edge.strip(outer)
    assert kd.edge.sparsity_report(plain).sparsity == pytest.approx(0.8, abs=0.01)
    np.testing.assert_allclose(plain(batch[0]), outer(batch[0]), atol=1e-5)


def test_tfmots_callback_does_no_harm(batch):
    wrapped = sparsity.prune_low_magnitude(to_legacy(student()), AT_ONCE)
    outer = compiled(wrap_legacy(wrapped), steps_per_execution=2)
    trained(outer, batch, epochs=2, callbacks=[sparsity.UpdatePruningStep()])
    assert {int(layer.pruning_step) for layer in wrapped.layers} == {4}
    assert kd.edge.sparsity_report(outer).sparsity == 0.5


def test_several_replicas_are_refused_when_it_is_wrapped(monkeypatch):
    wrapped = WRAPPED["clustered"]()

    class Strategy:
        num_replicas_in_sync = 2

    monkeypatch.setattr(tf.distribute, "get_strategy", Strategy)
    with pytest.raises(ValueError, match=r"'cluster_conv' .* strategy of 2 replicas"):
        wrap_legacy(wrapped)


def test_what_could_not_keep_its_promise_is_refused_before_training():
    layers, prune = tf_keras.layers, sparsity.prune_low_magnitude

    class Hidden(tf_keras.Model):
        def __init__(self):
            super().__init__(name="hidden")
            self.dense = prune(layers.Dense(3))

        def call(self, x):
            return self.dense(x)

    inner = Hidden()
    inner(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match=r"'hidden' .* pruning wrapper .* kd.edge.prune"):
        wrap_legacy(inner)
    ids = tf_keras.Input((5,), dtype="int32")
    embedded = prune(layers.Embedding(4, 3, mask_zero=True, name="table"))(ids)
    with pytest.raises(ValueError, match=r"drop the mask that 'table'"):
        wrap_legacy(tf_keras.Model(ids, layers.LSTM(2)(embedded)))


@pytest.mark.parametrize(("name", "precision"), [("pruned", "float32"), ("PCQAT", "int8")])
def test_the_file_has_the_zeros_and_the_clusters(name, precision, batch, tmp_path):
    outer = compiled(wrap_legacy(WRAPPED[name]()), run_eagerly=True)
    trained(outer, batch)
    path = tmp_path / "m.tflite"
    export = kd.edge.export_tflite(outer, path, precision=precision)
    answers = kd.edge.load_tflite(path).predict(batch[0])
    expected = outer.predict(batch[0], verbose=0)
    assert np.corrcoef(np.ravel(answers), np.ravel(expected))[0, 1] > 0.99
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    # LiteRT has the outputs first: those of the convolution, and of the Dense layer.
    shapes = ([8, 3, 3, 1], [4, 32])
    kernels = [
        interpreter.get_tensor(entry["index"])
        for entry in interpreter.get_tensor_details()
        if list(entry["shape"]) in shapes
    ]
    assert len(kernels) == 2
    for kernel in kernels:
        assert np.mean(kernel == 0) >= 0.5
        if name != "pruned":
            assert all(len(np.unique(row)) <= 4 for row in kernel)
    assert export.sparsity >= 0.5
