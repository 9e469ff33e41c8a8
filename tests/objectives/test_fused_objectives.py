"""Objectives that translate, review or merge layers: where their gradients go, and where not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill import functional
from keras_distill.objectives import FactorTransfer, LayerFusion, ReviewKD
from keras_distill.objectives.review import nearest

RNG = np.random.default_rng(0)


def tapped(values):
    """Signals of layers' outputs."""
    return kd.Signals(tf.zeros((len(next(iter(values.values()))), 2)), values)


def shaped(**shapes):
    """Signals to build with, of layers' shapes."""
    layers = {name: keras.KerasTensor((None, *shape)) for name, shape in shapes.items()}
    return kd.Signals(keras.KerasTensor((None, 2)), layers)


def normal(*shape):
    return tf.constant(RNG.normal(0, 1, shape), "float32")


def gradients(objective, student, teacher, variables):
    """The values, and their sum's gradient (None where there is none)."""
    with tf.GradientTape() as tape:
        tape.watch(variables)
        values = objective(tapped(student), tapped(teacher), None)
    return values, tape.gradient(values, variables)


def train(objective, made, student, teacher, steps):
    """Train the adapters alone on one batch."""
    weights = [v for layer in made.values() for v in layer.trainable_variables]
    optimizer = keras.optimizers.Adam(0.02)

    @tf.function
    def step():
        values, found = gradients(objective, student, teacher, [v.value for v in weights])
        optimizer.apply_gradients(zip(found, weights, strict=True))
        return tf.reduce_mean(values)

    optimizer.build(weights)
    return [float(step()) for _ in range(steps)]


@pytest.mark.parametrize("reconstruction_weight", [0.0, 1.0])
def test_the_paraphraser_learns_from_its_own_loss_alone(reconstruction_weight):
    objective = FactorTransfer("a", "a", reconstruction_weight=reconstruction_weight)
    made = objective.build(shaped(a=(4, 4, 3)), shaped(a=(4, 4, 6)))
    assert sorted(made) == ["decoder", "encoder", "translator"]
    widths = {name: layer.trainable_variables[-1].shape for name, layer in made.items()}
    assert widths == {"translator": (3,), "encoder": (3,), "decoder": (6,)}
    weights = {name: layer.trainable_variables[0].value for name, layer in made.items()}
    student, teacher = {"a": normal(5, 4, 4, 3)}, {"a": normal(5, 4, 4, 6)}
    values, found = gradients(objective, student, teacher, weights)
    moved = {name: bool(np.any(gradient != 0)) for name, gradient in found.items()}
    learns = reconstruction_weight > 0
    assert moved == {"translator": True, "encoder": learns, "decoder": learns}
    factor = made["encoder"](teacher["a"])
    expected = functional.factor_transfer(made["translator"](student["a"]), factor)
    restored = np.square(made["decoder"](factor) - teacher["a"]).mean((1, 2, 3))
    np.testing.assert_allclose(values, expected + reconstruction_weight * restored, rtol=1e-5)


def test_a_paraphraser_learns_to_restore_the_teachers_features():
    keras.utils.set_random_seed(0)
    objective = FactorTransfer("a", "a", rate=1.0)
    made = objective.build(shaped(a=(3, 3, 2)), shaped(a=(3, 3, 2)))
    # Two numbers an example, which every position and channel follows.
    pattern, hidden = RNG.normal(0, 1, (2, 3, 3, 2)), RNG.normal(0, 1, (32, 2))
    teacher = tf.constant(np.einsum("bk,kyxc->byxc", hidden, pattern), "float32")

    def error():
        return float(tf.reduce_mean((made["decoder"](made["encoder"](teacher)) - teacher) ** 2))

    before = error()
    train(objective, made, {"a": normal(32, 3, 3, 2)}, {"a": teacher}, steps=60)
    assert error() < 0.3 * before


def reviewed(**options):
    objective = ReviewKD(["a", "b"], ["a", "b"], **options)
    made = objective.build(shaped(a=(4, 4, 3), b=(2, 2, 5)), shaped(a=(4, 4, 6), b=(2, 2, 7)))
    return objective, made


def test_review_goes_from_the_deepest_layer_to_the_first():
    objective, made = reviewed()
    ours, theirs = ({"a": normal(3, 4, 4, a), "b": normal(3, 2, 2, b)} for a, b in ((3, 5), (6, 7)))
    shallow, deep = made["fusion_0"], made["fusion_1"]
    # A share of 1 for what comes from below, 0 for the layer's own: sigmoid(+-40).
    shallow.attention.kernel.assign(tf.zeros_like(shallow.attention.kernel))
    shallow.attention.bias.assign([-40.0, 40.0])
    _, (to_a, to_b) = gradients(objective, ours, theirs, [ours["a"], ours["b"]])
    assert np.abs(to_a).max() < 1e-12
    assert np.abs(to_b).max() > 1e-3
    # The other way about, the shallow layer stands alone.
    shallow.attention.bias.assign([40.0, -40.0])
    features, handed_on = deep([ours["b"]], training=True)
    alone, _ = shallow([ours["a"], handed_on * 100], training=True)
    values, _ = gradients(objective, ours, theirs, [ours["a"]])
    expected = functional.hierarchical_context([alone, features], [theirs["a"], theirs["b"]])
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_what_a_fusion_does_by_hand():
    objective = ReviewKD("a", "a", width=2)
    (fusion,) = objective.build(shaped(a=(1, 1, 2)), shaped(a=(2, 2, 2))).values()
    assert fusion.attention is None
    inward, outward = fusion.inward.steps[0], fusion.outward.steps[0]
    inward.kernel.assign(np.eye(2)[None, None])
    kernel = np.zeros((3, 3, 2, 2))
    kernel[1, 1] = [[0, 1], [1, 0]]
    outward.kernel.assign(kernel)
    # Both normalisations see +-1 and leave it (but for 2 x 1e-5 / 2); the channels change places,
    # and one position becomes four.
    ours = tf.constant([[1.0, -1.0], [-1.0, 1.0]])[:, None, None]
    (features, handed_on) = fusion([ours], training=True)
    np.testing.assert_allclose(handed_on, np.tile(ours, (1, 2, 2, 1)), atol=2e-5)
    np.testing.assert_allclose(features, np.tile(-ours, (1, 2, 2, 1)), atol=3e-5)


def test_a_review_meets_the_teachers_sizes_and_takes_vectors_as_single_positions():
    names = ["a", "b", "pool"]
    objective = ReviewKD(names, names)
    student = {"a": (6, 6, 3), "b": (3, 3, 4), "pool": (4,)}
    teacher = {"a": (9, 9, 5), "b": (2, 2, 6), "pool": (6,)}
    objective.build(shaped(**student), shaped(**teacher))
    ours, theirs = ({k: normal(2, *s) for k, s in side.items()} for side in (student, teacher))
    values, found = gradients(objective, ours, theirs, ours)
    assert values.shape == (2,)
    assert all(np.abs(gradient).max() > 0 for gradient in found.values())


@pytest.mark.parametrize(("size", "target"), [(1, 4), (2, 6), (4, 6), (6, 4), (3, 3), (8, 4)])
def test_nearest_takes_the_position_at_its_share_of_the_way(size, target):
    x = normal(2, size, size, 3)
    rows = [int(np.floor(i * size / target)) for i in range(target)]
    given = nearest(x, (None, target, target, 3))
    np.testing.assert_array_equal(given, x.numpy()[:, rows][:, :, rows])
    if target % size == 0:
        np.testing.assert_array_equal(given, tf.image.resize(x, (target, target), "nearest"))


def merged(student=(4,), teacher=((4,), (4,)), **options):
    names = [f"t{index}" for index in range(len(teacher))]
    objective = LayerFusion("s", names, **options)
    shapes = dict(zip(names, teacher, strict=True))
    return objective, objective.build(shaped(s=student), shaped(**shapes))


def test_a_merged_target_by_hand():
    objective, made = merged(teacher=((2,), (2,)), width=2, reconstruction_weight=3.0)
    adapter, merging = made["adapter"], made["merging"]
    for layer in (*merging.inward, *merging.outward, adapter):
        layer.kernel.assign(np.eye(4, 2) if layer is adapter else np.eye(2))
    merging.scores.assign([np.log(3.0), 0.0])
    # Standardised, each layer is (1, -1) or (-1, 1): 3/4 of one and 1/4 of the other.
    teacher = {"t0": tf.constant([[8.0, 2.0]]), "t1": tf.constant([[-1.0, 5.0]])}
    student = {"s": tf.constant([[0.5, 0.5, 9.0, 9.0]])}
    # The target is (1/2, -1/2). Read back from it, t0 is off by 1/2 and t1 by 3/2: squared, and
    # these errors squared again.
    expected = (0 + 1) / 2 + 3 * (0.25**2 + 2.25**2) / 2
    (value,) = objective(tapped(student), tapped(teacher), None)
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert objective.shares == pytest.approx({"t0": 0.75, "t1": 0.25})


def test_layers_are_brought_to_the_students_size():
    objective, _ = merged((4, 4, 3), ((8, 8, 5), (2, 2, 6)))
    student = {"s": normal(2, 4, 4, 3)}
    teacher = {"t0": normal(2, 8, 8, 5), "t1": normal(2, 2, 2, 6)}
    expected = objective(tapped(student), tapped(teacher), None)
    pooled = tf.nn.avg_pool2d(teacher["t0"], 2, 2, "VALID")
    repeated = tf.image.resize(teacher["t1"], (4, 4), "nearest")
    given = objective(tapped(student), tapped({"t0": pooled, "t1": repeated}), None)
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_the_students_distance_moves_no_share():
    objective, made = merged(reconstruction_weight=0.0)
    student, teacher = {"s": normal(5, 4)}, {"t0": normal(5, 4), "t1": normal(5, 4)}
    weights = {
        "adapter": made["adapter"].kernel.value,
        "scores": made["merging"].scores.value,
        "inward": made["merging"].inward[0].kernel.value,
    }
    _, found = gradients(objective, student, teacher, weights)
    assert {k: bool(np.any(g != 0)) for k, g in found.items()} == {
        "adapter": True,
        "scores": False,
        "inward": False,
    }


def test_shares_do_not_collapse_to_the_layer_that_is_easiest_to_match():
    # The student knows the first layer by heart and nothing of the second.
    known, unknown = normal(128, 4), normal(128, 4)
    student, teacher = {"s": known}, {"t0": known, "t1": unknown}
    objective, made = merged(width=8)
    losses = train(objective, made, student, teacher, steps=200)
    assert losses[-1] < losses[0]
    assert min(objective.shares.values()) > 0.3
    # Nor does the target: what it holds restores both layers.
    layers = [teacher["t0"], teacher["t1"]]
    _, unread = made["merging"](layers)
    assert float(tf.reduce_mean(unread)) < 0.1


def test_shares_follow_what_there_is_to_restore():
    # Room for four numbers: all of the narrow layer or a third of the wide one. Most goes where it
    # restores more, but not all.
    objective, made = merged(teacher=((4,), (12,)), width=4)
    assert objective.shares == {"t0": 0.5, "t1": 0.5}
    teacher = {"t0": normal(128, 4), "t1": normal(128, 12)}
    train(objective, made, {"s": normal(128, 4)}, teacher, steps=300)
    assert sum(objective.shares.values()) == pytest.approx(1.0)
    assert 0.25 < objective.shares["t1"] < 0.45


def test_shares_are_not_known_before_they_are_built():
    with pytest.raises(ValueError, match="before a Distiller has built it"):
        LayerFusion("a", ["b", "c"]).shares  # noqa: B018
