"""Objectives on layers: what they add up, what they make, what is saved, what they refuse."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import keras_distill as kd
from keras_distill import functional, objectives
from keras_distill.objectives import (
    ActivationBoundaries,
    AffinityTransfer,
    AttentionTransfer,
    FactorTransfer,
    FlowOfSolution,
    LayerFusion,
    MaskedGeneration,
    NeuronSelectivity,
    Overhaul,
    ReviewKD,
    VariationalInformation,
)

RNG = np.random.default_rng(0)
PAIRS = {"student": ["low", "high"], "teacher": ["low", "high"]}
ALL = {
    "AffinityTransfer": lambda: AffinityTransfer(**PAIRS),
    "AttentionTransfer": lambda: AttentionTransfer(**PAIRS, weight=100.0),
    "NeuronSelectivity": lambda: NeuronSelectivity(**PAIRS),
    "FlowOfSolution": lambda: FlowOfSolution(**PAIRS),
    "FactorTransfer": lambda: FactorTransfer("high", "high"),
    "ActivationBoundaries": lambda: ActivationBoundaries(**PAIRS),
    "Overhaul": lambda: Overhaul(**PAIRS),
    "VariationalInformation": lambda: VariationalInformation(**PAIRS, initial_variance=1.0),
    "ReviewKD": lambda: ReviewKD(**PAIRS),
    "LayerFusion": lambda: LayerFusion("high", ["low", "high"]),
    "MaskedGeneration": lambda: MaskedGeneration(**PAIRS),
}
every_objective = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


def tapped(values):
    """Signals of layers' outputs."""
    return kd.Signals(tf.zeros((len(next(iter(values.values()))), 2)), values)


def shaped(**shapes):
    """Signals to build with, of layers' shapes."""
    layers = {name: keras.KerasTensor((None, *shape)) for name, shape in shapes.items()}
    return kd.Signals(keras.KerasTensor((None, 2)), layers)


def maps(batch=4, size=4, channels=3):
    return tf.constant(RNG.normal(0, 1, (batch, size, size, channels)), "float32")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_saved_and_loaded_they_go_on_as_if_they_had_not_been(small_cnn, digits, tmp_path):
    def trained(distiller):
        x = digits.x_train[:32]
        return distiller.fit(x, batch_size=16, shuffle=False, verbose=0).history

    student, teacher = small_cnn(3), small_cnn(5, seed=1)
    size = student.count_params()
    distiller = kd.Distiller(student, teacher, [make() for make in ALL.values()])
    distiller.compile(keras.optimizers.Adam(0.01), loss=None, jit_compile=False)
    first = trained(distiller)
    distiller.save(tmp_path / "d.keras")
    loaded = kd.Distiller.load(tmp_path / "d.keras", teacher)
    expected = trained(distiller)
    assert trained(loaded) == expected
    assert expected["loss"] < first["loss"]
    assert distiller.student.count_params() == size
    for ours, theirs in zip(distiller.objectives, loaded.objectives, strict=True):
        assert ours.get_config() == theirs.get_config()


@every_objective
def test_under_mixed_precision_adapters_are_trained_in_float32(make):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        objective = make()
        spec = {"low": (8, 8, 3), "high": (4, 4, 6)}
        made = objective.build(shaped(**spec), shaped(**{k: (*s[:2], 5) for k, s in spec.items()}))
        ours = {"low": tf.cast(maps(size=8), "float16"), "high": tf.cast(maps(channels=6), "half")}
        theirs = {"low": tf.cast(maps(size=8, channels=5), "half"), "high": maps(channels=5)}
        with tf.GradientTape() as tape:
            values = objective(tapped(ours), tapped(theirs), None)
    finally:
        keras.config.set_dtype_policy("float32")
    assert values.dtype == "float32"
    layers = [layer for adapter in made.values() for layer in adapter._flatten_layers()]
    assert {layer.compute_dtype for layer in layers} <= {"float32"}
    variables = [v for adapter in made.values() for v in adapter.trainable_variables]
    assert {v.dtype for v in variables} <= {"float32"}
    assert all(np.isfinite(g).all() for g in tape.gradient(values, variables))


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (AffinityTransfer, functional.pairwise_affinity),
        (AttentionTransfer, functional.attention_transfer),
        (NeuronSelectivity, functional.neuron_selectivity),
        (VariationalInformation, None),
    ],
)
def test_pairs_of_layers_are_added(kind, loss):
    ours, theirs = ({"a": maps(), "b": maps(size=2)} for _ in range(2))
    objective = kind(["a", "b"], ["b", "a"])
    objective.build(shaped(a=(4, 4, 3), b=(2, 2, 3)), shaped(a=(4, 4, 3), b=(2, 2, 3)))
    if loss is None:
        pairs = objective.adapted(tapped(ours), tapped(theirs))
        expected = sum(functional.variational_information(*p, variance=5.0) for p in pairs)
    else:
        expected = loss(ours["a"], theirs["b"]) + loss(ours["b"], theirs["a"])
    given = objective(tapped(ours), tapped(theirs), None)
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_attentions_power_reaches_the_function():
    ours, theirs = {"a": maps()}, {"a": maps(channels=7)}
    given = AttentionTransfer("a", "a", power=4)(tapped(ours), tapped(theirs), None)
    expected = functional.attention_transfer(ours["a"], theirs["a"], power=4)
    np.testing.assert_array_equal(given, expected)


def test_affinity_its_scale_reaches_the_function_and_is_checked():
    ours, theirs = {"a": maps()}, {"a": maps(channels=7)}
    given = AffinityTransfer("a", "a", pool_scale=None)(tapped(ours), tapped(theirs), None)
    expected = functional.pairwise_affinity(ours["a"], theirs["a"], pool_scale=None)
    np.testing.assert_array_equal(given, expected)
    with pytest.raises(ValueError, match=r"affinity_transfer: pool_scale must be in .*; got 1.0"):
        AffinityTransfer("a", "a", pool_scale=1.0)


def test_a_flow_is_projected_layer_by_layer_where_the_widths_differ():
    objective = FlowOfSolution(("a", "b"), ("a", "b"))
    student, teacher = shaped(a=(4, 4, 3), b=(2, 2, 5)), shaped(a=(8, 8, 6), b=(4, 4, 5))
    made = objective.build(student, teacher)
    assert {name: layer.kernel.shape for name, layer in made.items()} == {"adapter_0": (1, 1, 3, 6)}
    ours = {"a": maps(), "b": maps(size=2, channels=5)}
    theirs = {"a": maps(size=8, channels=6), "b": maps(channels=5)}
    projected = tf.einsum("byxc,cd->byxd", ours["a"], made["adapter_0"].kernel[0, 0])
    expected = functional.flow_of_solution((projected, ours["b"]), (theirs["a"], theirs["b"]))
    given = objective(tapped(ours), tapped(theirs), None)
    np.testing.assert_allclose(given, expected, rtol=1e-4)


def test_of_boundaries_the_last_layer_counts_in_full_and_each_before_it_half():
    # Off by the margin of 1 everywhere in one layer, and right by far in the others.
    right, wrong = tf.fill((1, 3), 9.0), tf.zeros((1, 3))
    for place, expected in enumerate((0.25, 0.5, 1.0)):
        names = ["a", "b", "c"]
        objective = ActivationBoundaries(names, names)
        assert objective.build(*[shaped(a=(3,), b=(3,), c=(3,))] * 2) == {}
        ours = {name: wrong if i == place else right for i, name in enumerate(names)}
        theirs = dict.fromkeys(names, right)
        assert float(objective(tapped(ours), tapped(theirs), None)[0]) == expected


def test_a_connector_normalises_over_the_batch_it_sees():
    objective = Overhaul("a", "a", margin=-0.5)
    made = objective.build(shaped(a=(4, 4, 3)), shaped(a=(4, 4, 2)))
    assert list(made) == ["adapter_0"]
    linear, norm = made["adapter_0"].steps
    ours, theirs = maps(), maps(channels=2)
    x = np.einsum("byxc,cd->byxd", ours, linear.kernel[0, 0])
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    given = objective(tapped({"a": ours}), tapped({"a": theirs}), None)
    expected = functional.partial_l2(x, theirs, margin=-0.5)
    np.testing.assert_allclose(given, expected, rtol=1e-4)
    assert np.abs(norm.moving_mean).max() > 0


def test_the_margin_is_the_mean_of_all_that_was_negative():
    objective = Overhaul("a", "a")
    layer = objective.build(shaped(a=(4, 4, 3)), shaped(a=(4, 4, 3)))["margin_0"]
    # The last channel is never negative.
    batches = [maps(batch) * [1.0, 3.0, 0.0] + [0.0, -1.0, 2.0] for batch in (2, 5, 3)]
    for batch in batches:
        objective(tapped({"a": batch}), tapped({"a": batch}), None)
    seen = np.concatenate(batches).reshape(-1, 3)
    expected = [c[c < 0].mean() if (c < 0).any() else 0.0 for c in seen.T]
    np.testing.assert_allclose(layer.mean, expected, rtol=1e-5)
    # The next batch is compared with a margin that counts it in.
    other = maps(3)
    given = objective(tapped({"a": other}), tapped({"a": -other}), None)
    seen = np.concatenate([seen, -np.reshape(other, (-1, 3))])
    margin = [c[c < 0].mean() for c in seen.T]
    ((projected, _),) = objective.adapted(tapped({"a": other}), tapped({"a": -other}))
    expected = functional.partial_l2(projected, -other, margin=margin)
    np.testing.assert_allclose(given, expected, rtol=1e-4)


def test_evaluate_leaves_margins_and_connectors_alone(small_cnn, digits):
    distiller = kd.Distiller(small_cnn(3), small_cnn(5, seed=1), Overhaul("high", "high"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss)
    x, y = digits.x_train[:32], digits.y_train[:32]
    distiller.fit(x, y, batch_size=16, verbose=0)
    variables = [v for a in distiller._adapters.values() for v in a.variables]
    before = [v.numpy() for v in variables]
    distiller.evaluate(x, y, verbose=0)
    distiller.predict(x, verbose=0)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    distiller.fit(x, y, batch_size=16, verbose=0)
    assert all(np.any(v != value) for v, value in zip(variables, before, strict=True))


def test_a_batch_norms_margin_is_the_truncated_normals_mean():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 5))
    gamma, beta = [1.0, -2.0, 0.5, 0.0, 1.0], [0.0, 1.0, -3.0, -0.25, 3.5]
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    normal = [
        scipy.stats.truncnorm(-np.inf, -b / abs(g), loc=b, scale=abs(g)).mean()
        for g, b in zip(gamma[:3], beta[:3], strict=True)
    ]
    # A channel without spread gives its mean; at 3.5 deviations above zero hardly one is negative.
    expected = [*normal, -0.25, -3.0]
    np.testing.assert_allclose(objectives.batch_norm_margin(layer), expected, rtol=1e-6)
    plain = keras.layers.BatchNormalization(center=False, scale=False)
    plain.build((None, 1))
    assert objectives.batch_norm_margin(plain) == pytest.approx([-np.sqrt(2 / np.pi)])
    for wrong in (keras.layers.Dense(2), keras.layers.BatchNormalization()):
        with pytest.raises(ValueError, match=f"built BatchNormalization.*{type(wrong).__name__}"):
            objectives.batch_norm_margin(wrong)


def test_margins_are_numbers_arrays_or_one_a_pair():
    spec = shaped(a=(3,), b=(2,))
    twice = (["a", "b"], ["a", "b"])
    for margin, config in [
        (-1, -1),
        (np.array([-1.0, -2.0, 0.0]), [-1.0, -2.0, 0.0]),
        ([np.float32(-1), -0.5, -2], [-1.0, -0.5, -2]),
    ]:
        objective = Overhaul("a", "a", margin=margin)
        assert list(objective.build(spec, spec)) == ["adapter_0"]
        assert objective.get_config()["margin"] == config
    objective = Overhaul(*twice, margin=[None, [-1.0, -2.0]])
    assert list(objective.build(spec, spec)) == ["adapter_0", "adapter_1", "margin_0"]


@pytest.mark.parametrize(
    ("taps", "margin", "message"),
    [
        ("a", 0.5, r"Overhaul\('a', 'a'\): a margin .* can't be positive; got 0.5"),
        ("a", [-1.0, 2.0, 0.0], "can't be positive; got 2.0"),
        ("a", [-1.0, -2.0], r"\(None, 3\): 2 margins for 3 channels"),
        ("a", float("nan"), "can't be positive; got nan"),
        (["a", "b"], [-1.0], "1 margins for 2 pairs of layers"),
    ],
)
def test_margins_that_do_not_fit_are_refused(taps, margin, message):
    objective = Overhaul(taps, taps, margin=margin)
    with pytest.raises(ValueError, match=message):
        objective.build(*[shaped(a=(3,), b=(2,))] * 2)


def test_what_can_be_predicted_gets_the_smaller_variance():
    objective = VariationalInformation("a", "a", width=8, initial_variance=1.0)
    made = objective.build(*[shaped(a=(2,))] * 2)
    variances = made["variance_0"]
    np.testing.assert_allclose(variances.value(), 1.0, rtol=1e-6)
    weights = [v for layer in made.values() for v in layer.trainable_variables]
    optimizer = keras.optimizers.Adam(0.03)
    optimizer.build(weights)
    x = RNG.normal(0, 1, (256, 2)).astype("float32")
    # The first channel is the student's own, the second nothing that it knows.
    y = np.stack([x[:, 0], RNG.normal(0, 2, 256)], axis=1).astype("float32")

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(objective(tapped({"a": x}), tapped({"a": y}), None))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    for _ in range(400):
        step()
    known, unknown = variances.value().numpy()
    assert known < 0.1
    assert unknown > 2


@pytest.mark.parametrize("initial", [1e-6, 1e-3, 5.0, 1000.0])
def test_the_initial_variance_is_met_from_small_to_large(initial):
    objective = VariationalInformation("a", "a", initial_variance=initial)
    value = objective.build(*[shaped(a=(2,))] * 2)["variance_0"].value()
    np.testing.assert_allclose(value, max(initial, 2e-5), rtol=1e-4)


OVER_POSITIONS = {"AttentionTransfer", "NeuronSelectivity", "FactorTransfer"}


@every_objective
def test_shapes_are_refused_with_both_layers_named(make):
    objective, kind = make(), type(make()).__name__
    good = {"low": (8, 8, 3), "high": (4, 4, 3)}
    for who, tap in (("student", "high"), ("teacher", "low")):
        if kind in ("FactorTransfer", "LayerFusion"):
            tap = "high"
        for wrong in ((None, 4, 3), (4, 4, 4, 3)):
            sides = {"student": good, "teacher": good, who: {**good, tap: wrong}}
            with pytest.raises(ValueError, match=rf"({kind}|{objective.name}).*'{tap}'.*\(None, "):
                objective.build(shaped(**sides["student"]), shaped(**sides["teacher"]))
    unknown = {**good, "low": (None, None, 3), "high": (None, None, 3)}
    # Open in both models alike, nothing need be pooled beforehand.
    other = good if objective.open_axes else unknown
    with pytest.raises(ValueError, match="fixed input size"):
        objective.build(shaped(**unknown), shaped(**other))


@pytest.mark.parametrize("kind", sorted(OVER_POSITIONS))
def test_vectors_and_single_positions_are_refused_where_maps_are_due(kind):
    objective = getattr(objectives, kind)("a", "a")
    label = rf"{kind}\('a', 'a'\): the student's output is \(None, 7\) and the teacher's"
    with pytest.raises(ValueError, match=rf"{label} \(None, 9\), vectors where maps"):
        objective.build(shaped(a=(7,)), shaped(a=(9,)))
    with pytest.raises(ValueError, match=r"one position.*before the pooling"):
        objective.build(shaped(a=(1, 4, 3)), shaped(a=(4, 1, 3)))
    objective.build(shaped(a=(1, 4, 3)), shaped(a=(1, 4, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionTransfer(["a", "b"], "a"), "2 layers of the student and 1 of the"),
        (lambda: NeuronSelectivity([], []), "0 layers of the student and 0"),
        (lambda: AttentionTransfer("a", "a", power=0.5), "power must be a whole number"),
        (lambda: FlowOfSolution("a", "a"), "student= must name two layers.*got 'a'"),
        (lambda: FactorTransfer(["a", "b"], ["a", "b"]), "one layer of each model"),
        (lambda: FactorTransfer("a", "a", rate=0.0), "rate must be positive"),
        (lambda: ActivationBoundaries("a", "a", margin=0.0), "margin must be positive"),
        (lambda: VariationalInformation("a", "a", width=0), "width must be a whole number"),
        (lambda: FactorTransfer("a", "a", p2=0), "p2 must be a whole number"),
        (lambda: FactorTransfer("a", "a", p1=0.5), "p1 must be a whole number"),
        (lambda: MaskedGeneration("a", "a", mask_ratio=1.5), r"mask_ratio must be in \[0, 1\]"),
        (
            lambda: MaskedGeneration("a", "a", mask_ratio=1.0),
            r"mask_ratio must be in \[0, 1\), below 1",
        ),
        (lambda: MaskedGeneration("a", "a", masked="rows"), "'positions', 'channels'; got 'rows'"),
        (lambda: ReviewKD("a", ["a", "b"]), "1 layers of the student and 2"),
        (lambda: LayerFusion("a", ["b"]), "1 of the teacher.*FeatureHint"),
        (lambda: LayerFusion(["a", "b"], ["b", "c"]), "got 2 of the student"),
        (lambda: LayerFusion("a", ["b", "c"], reconstruction_weight=-1), "at least 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "objective", [kd.FeatureHint("a", "a"), ActivationBoundaries("a", "a", margin=258.0)]
)
def test_half_precision_maps_are_pooled_in_float32(objective):
    # Their mean is 257, which is no number of bfloat16: off by 1 from 256 as well as from 258.
    x = tf.constant([[[256.0], [258.0]]], "bfloat16")
    objective.build(shaped(a=(2, 1)), shaped(a=(1, 1)))
    (value,) = objective(tapped({"a": x}), tapped({"a": tf.constant([[[256.0]]])}), None)
    assert float(value) == 1.0


MIRRORED = """
import keras, numpy as np, tensorflow as tf
import keras_distill as kd
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    student = keras.Sequential([keras.Input((6,)), dense(5, name="features"), dense(4)])
    teacher = keras.Sequential([keras.Input((6,)), dense(9, name="features"), dense(4)])
    distiller = kd.Distiller(student, teacher, kd.objectives.Overhaul("features", "features"))
    distiller.compile("sgd", loss=None)
distiller.fit(x, batch_size=16, epochs=2, shuffle=False, verbose=0)
connector, margin = distiller._adapters.values()
for variable in [*connector.trainable_variables, *margin.variables]:
    copies = [v.numpy() for v in variable.value.values]
    np.testing.assert_array_equal(*copies, err_msg=variable.path)
    assert np.isfinite(copies[0]).all() and np.any(copies[0] != 0)
print("same")
"""


@pytest.mark.slow
def test_replicas_hold_the_same_margins_and_connectors():
    run = subprocess.run([sys.executable, "-c", MIRRORED], capture_output=True, text=True)
    assert run.stdout.strip() == "same", run.stderr[-3000:]
