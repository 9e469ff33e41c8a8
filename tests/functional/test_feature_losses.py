"""Losses on layers' outputs: numbers derived by hand, plain loops, invariances, errors."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist

from keras_distill import functional

RNG = np.random.default_rng(0)


def column(*values):
    """One example of one channel, its positions one behind the other."""
    return np.array(values, "float64")[None, :, None]


def image(rows):
    """One example of one channel."""
    return np.array(rows, "float64")[None, :, :, None]


def one(value):
    (number,) = np.asarray(value)
    return pytest.approx(float(number), rel=1e-9)


def maps(batch=3, size=4, channels=5, rng=RNG):
    return rng.normal(0, 1, (batch, size, size, channels))


def pooled(x, size):
    """Adaptive average pooling by its definition, both axes."""
    bins = [range(i * len(x[0]) // size, -(-(i + 1) * len(x[0]) // size)) for i in range(size)]
    rows = [[x[:, list(r)][:, :, list(c)].mean((1, 2)) for c in bins] for r in bins]
    return np.moveaxis(np.array(rows), 2, 0)


def test_attention_by_hand():
    # a_s = (1, 0, 0, 0), a_t = (1, 1, 1, 1) / 2: (1/4 + 3/4) / 4.
    assert (
        one(functional.attention_transfer(image([[7, 0], [0, 0]]), image([[3, 3], [3, 3]]))) == 0.25
    )
    # (3, 4) / 5 and (1, 0): (0.16 + 0.64) / 2.
    ours, theirs = column(3, 4), column(2, 0)
    assert one(functional.attention_transfer(ours, theirs, power=1)) == 0.4
    # (9, 16) / sqrt(337): both squares of unit vectors, so 2 (1 - their product) / 2.
    assert one(functional.attention_transfer(ours, theirs)) == 1 - 9 / math.sqrt(337)


def test_attention_is_over_channels_of_any_number_and_positions_of_any_size():
    student, teacher = maps(size=4, channels=5), maps(size=6, channels=2)

    def attention(x):
        squares = np.array([[np.mean(p**2) for row in e for p in row] for e in x])
        return squares / np.sqrt((squares**2).sum(1, keepdims=True))

    expected = ((attention(student) - attention(pooled(teacher, 4))) ** 2).mean(1)
    np.testing.assert_allclose(
        functional.attention_transfer(student, teacher), expected, rtol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_attention_does_not_see_the_scale(scale):
    student, teacher = maps().astype("float32"), maps().astype("float32")
    scaled = functional.attention_transfer(student * np.float32(scale), teacher, power=4)
    expected = functional.attention_transfer(student, teacher, power=4)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)


def selectivity(student, teacher):
    def channels(x):
        flat = x.reshape(-1, x.shape[-1]).T
        return [c / np.linalg.norm(c) for c in flat]

    def kernel(first, second):
        return np.mean([(a @ b) ** 2 for a, b in itertools.product(first, second)])

    ours, theirs = channels(student), channels(teacher)
    return kernel(theirs, theirs) + kernel(ours, ours) - 2 * kernel(ours, theirs)


@pytest.mark.parametrize("unseen", [0, 3], ids=["over positions", "over channels"])
def test_selectivity_by_hand(unseen):
    # Kernels: teacher's channels with each other (1 + 0 + 0 + 1) / 4, the student's 1, across 1/2.
    nothing = [[0.0, 0.0]] * unseen
    teacher = np.array([[[1.0, 0.0], [0.0, 5.0], *nothing]])
    student = np.array([[[3.0], [0.0], *[[0.0]] * unseen]])
    assert one(functional.neuron_selectivity(student, teacher)) == 0.5 + 1 - 2 * 0.5


@pytest.mark.parametrize(("size", "channels"), [(4, 3), (2, 7)])
def test_selectivity_by_loops(size, channels):
    student, teacher = maps(size=size, channels=channels), maps(size=size, channels=5)
    expected = [selectivity(s, t) for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(functional.neuron_selectivity(student, teacher), expected, rtol=1e-9)


def test_selectivity_sees_neither_order_nor_scale_nor_sign_of_channels():
    student, teacher = maps(), maps(channels=8)
    moved = student[..., [4, 2, 0, 1, 3]] * np.array([2.0, -1.0, 0.1, 5.0, -3.0])
    expected = functional.neuron_selectivity(student, teacher)
    np.testing.assert_allclose(functional.neuron_selectivity(moved, teacher), expected, rtol=1e-9)
    own = functional.neuron_selectivity(moved, student)
    np.testing.assert_allclose(own, 0.0, atol=1e-12)


def test_affinity_by_hand():
    # 45 degrees against 90: (1 / 2) in two of four pairs.
    ours, theirs = np.array([[[3.0, 0.0], [1.0, 1.0]]]), np.array([[[0.0, 2.0], [7.0, 0.0]]])
    assert one(functional.pairwise_affinity(ours, theirs, pool_scale=None)) == 0.25


def test_affinity_of_patches_by_hand():
    # Patches of 2 of 5 positions: (1, 2), (3, 0) and the last alone, (0, -5), with the cosines
    # 1 / r, -2 / r and 0, r = sqrt 5. The teacher's features all point one way.
    student = np.array([[[1, -9], [0, 2], [3, 0], [-1, -1], [0, -5]]], "float64")
    expected = 2 * ((1 - 1 / 5**0.5) ** 2 + (1 + 2 / 5**0.5) ** 2 + 1) / 9
    assert one(functional.pairwise_affinity(student, column(1, 2, 3, 4, 5))) == expected


@pytest.mark.parametrize(("scale", "patch"), [(None, 1), (0.1, 1), (0.5, 2), (0.7, 3)])
def test_affinity_is_scipys_cosine_distance_of_the_patches_largest_numbers(scale, patch):
    student, teacher = maps(size=10, channels=3), maps(size=5)

    def affinity(x):
        starts = range(0, 5, patch)
        nodes = [x[i : i + patch, j : j + patch].max((0, 1)) for i in starts for j in starts]
        return 1 - cdist(nodes, nodes, "cosine")

    pairs = zip(pooled(student, 5), teacher, strict=True)
    expected = [np.mean((affinity(s) - affinity(t)) ** 2) for s, t in pairs]
    given = functional.pairwise_affinity(student, teacher, pool_scale=scale)
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_affinity_turns_features_and_leaves_their_lengths_and_dead_positions_alone():
    student = maps(channels=3)
    student[:, 1, 2] = 0
    logits = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = functional.pairwise_affinity(logits, maps(), pool_scale=None)
    gradient = tape.gradient(value, logits).numpy()
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose((gradient * student).sum(-1), 0, atol=1e-15)
    np.testing.assert_array_equal(gradient[:, 1, 2], 0)


@pytest.mark.parametrize("scale", [0, 1.0, -0.5])
def test_affinity_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match=rf"None or in \(0, 1\); got {scale}"):
        functional.pairwise_affinity(maps(), maps(), pool_scale=scale)


def test_channels_by_hand():
    # Positions (1, 0) and (0, 1): G = identity. One position (3, 4): G = [[9, 12], [12, 16]], rows
    # (3, 4) / 5 both. Squared distances 2 - 2 * 3/5 and 2 - 2 * 4/5, over two channels.
    ours, theirs = np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([[[3.0, 4.0]]])
    assert one(functional.inter_channel_correlation(ours, theirs)) == (0.8 + 0.4) / 2


def test_channels_are_numpys_covariances_where_maps_are_centred():
    # Rows of a Gram matrix and of a covariance matrix differ by the mean alone.
    student, teacher = maps(size=4), maps(size=6)
    student -= student.mean((1, 2), keepdims=True)
    teacher -= teacher.mean((1, 2), keepdims=True)

    def rows(x):
        found = np.array([np.cov(e.reshape(-1, 5), rowvar=False) for e in x])
        return found / np.linalg.norm(found, axis=2, keepdims=True)

    expected = ((rows(student) - rows(teacher)) ** 2).sum((1, 2)) / 5
    given = functional.inter_channel_correlation(student, 7 * teacher)
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_flow_by_hand():
    # (1 * 2 + 3 * 4) / 2 = 7 against 1: 36. Pooled in twos, the longer layer is the shorter one.
    teacher = column(1, 1), column(1, 1)
    assert one(functional.flow_of_solution((column(1, 3), column(2, 4)), teacher)) == 36
    assert one(functional.flow_of_solution((column(0, 2, 4, 2), column(2, 4)), teacher)) == 36


def test_flow_by_loops_of_models_of_different_sizes():
    low, up = maps(size=4, channels=2), maps(size=2, channels=3)
    other_low, other_up = maps(size=6, channels=2), maps(size=6, channels=3)

    def flow(lower, upper):
        positions = [(y, x) for y in range(lower.shape[1]) for x in range(lower.shape[2])]
        return np.mean([np.einsum("bi,bj->bij", lower[:, y, x], upper[:, y, x])
                        for y, x in positions], axis=0)  # fmt: skip

    expected = ((flow(pooled(low, 2), up) - flow(other_low, other_up)) ** 2).mean((1, 2))
    given = functional.flow_of_solution((low, up), (other_low, other_up))
    np.testing.assert_allclose(given, expected, rtol=1e-9)
    np.testing.assert_array_equal(functional.flow_of_solution((low, up), (low, up)), 0.0)


def test_factors_by_hand():
    # (1, 0) against (9, 16) / sqrt(337), and with the first powers against (0.6, 0.8).
    ours, theirs = column(2, 0), column(3, 4)
    norm = math.sqrt(337)
    assert one(functional.factor_transfer(ours, theirs)) == (1 - 9 / norm + 16 / norm) / 2
    assert one(functional.factor_transfer(ours, theirs, p1=1)) == (0.4 + 0.8) / 2
    assert one(functional.factor_transfer(ours, theirs, p1=1, p2=2)) == (0.16 + 0.64) / 2


def test_a_whole_factor_keeps_its_channels():
    # One position, two channels: (3, 4) / 5 against (1, 0); their mean over channels would be 1, 1.
    ours, theirs = np.array([[[3.0, 4.0]]]), np.array([[[1.0, 0.0]]])
    assert one(functional.factor_transfer(ours, theirs, p1=None)) == (0.4 + 0.8) / 2
    assert one(functional.factor_transfer(ours, theirs)) == 0
    with pytest.raises(ValueError, match=r"equal channels.*\(1, 1, 2\).*\(1, 1, 1\)"):
        functional.factor_transfer(ours, theirs[..., :1], p1=None)


# An error of 1 in stripes of this width is all mean at a coarser scale than its own, where it is 0.
STRIPES = [(1, 1 / 1.875), (2, 1.5 / 1.875), (4, 1.75 / 1.875), (8, 1.0)]


@pytest.mark.parametrize(("width", "expected"), STRIPES)
def test_each_scale_has_half_the_weight_of_the_finer(width, expected):
    row = [(-1.0) ** (x // width) for x in range(8)]
    student = image([row] * 8)
    assert one(functional.hierarchical_context([student], [np.zeros_like(student)])) == expected


@pytest.mark.parametrize(("size", "weights"), [(1, 1), (2, 1.5), (3, 1.75), (4, 1.75), (5, 1.875)])
def test_scales_that_are_not_below_the_maps_height_are_left_out(size, weights):
    # A single position that is off by size^2 has that as mean square, and 1 as mean. Between them
    # lie bins that overlap where they do not divide the size, so these are pooled by hand.
    error = np.zeros((1, size, size, 1))
    error[0, 0, 0, 0] = size**2
    levels = [level for level in (4, 2, 1) if level < size]
    parts = [(error**2).mean(), *((pooled(error, level) ** 2).mean() for level in levels)]
    expected = sum(part / 2**i for i, part in enumerate(parts)) / weights
    assert one(functional.hierarchical_context([error], [np.zeros_like(error)])) == expected


def test_contexts_are_added_and_pooled_to_the_smaller_map():
    pairs = [(maps(size=6), maps(size=4)), (maps(size=2), maps(size=2))]

    def context(student, teacher):
        levels = [level for level in (4, 2, 1) if level < student.shape[1]]
        errors = [student - teacher, *(pooled(student, n) - pooled(teacher, n) for n in levels)]
        weights = [1 / 2**i for i in range(len(errors))]
        terms = [w * (e**2).mean((1, 2, 3)) for w, e in zip(weights, errors, strict=True)]
        return sum(terms) / sum(weights)

    expected = context(pooled(pairs[0][0], 4), pairs[0][1]) + context(*pairs[1])
    given = functional.hierarchical_context(*zip(*pairs, strict=True))
    np.testing.assert_allclose(given, expected, rtol=1e-9)


def test_boundaries_by_hand():
    # On: short of 1 by 0.5, 0 and 3. Off: beyond -1 by 1.5, 0 and 3.
    student = np.array([[0.5, 1.5, -2.0, 0.5, -1.5, 2.0]])
    teacher = [[1e-3, 9.0, 9.0, 0.0, -9.0, -9.0]]
    expected = (0.25 + 0 + 9 + 2.25 + 0 + 9) / 6
    assert one(functional.activation_boundaries(student, teacher)) == expected
    # With twice the margin a neuron at 1.5 is short of it, too.
    assert one(functional.activation_boundaries([[1.5]], [[1.0]], margin=2.0)) == 0.25


def test_the_partial_distance_by_hand():
    # Positive: full distance either way. Between margin and 0: only from above. Below the margin:
    # to the margin, only from above.
    student = np.array([[3.0, -1.0, 0.5, -0.9, 1.0, -2.5]])
    teacher = np.array([[1.0, 1.0, -0.5, -0.5, -9.0, -9.0]])
    expected = (4 + 4 + 1 + 0 + 9 + 0) / 6
    assert one(functional.partial_l2(student, teacher, margin=-2.0)) == expected
    # A margin a channel.
    ones = np.ones((1, 2))
    assert one(functional.partial_l2(ones, -9 * ones, margin=[-1.0, -3.0])) == (4 + 16) / 2


def test_information_by_hand():
    # (4 / v + log v) / 2, for v = 1 and e^2.
    student, teacher = np.array([[1.0, 1.0]]), np.array([[3.0, 3.0]])
    variance = np.array([1.0, math.e**2])
    expected = (4 + (4 / math.e**2 + 2)) / 2 / 2
    assert one(functional.variational_information(student, teacher, variance=variance)) == expected


def test_a_map_is_restored_from_what_the_mask_leaves():
    # (1, 0, 3, 4) doubled is (2, 0, 6, 8): the squares are 0, 9, 1 and 0.
    ours, theirs, mask = column(1, 2, 3, 4), column(2, 3, 5, 8), column(1, 0, 1, 1)
    given = functional.masked_generation(ours, theirs, mask=mask, generate=lambda x: 2 * x)
    assert one(given) == 2.5
    # Channel 0 is hidden at both positions: 1 + 9 and twice nothing.
    ours = np.array([[[5.0, 2.0], [5.0, 4.0]]])
    theirs = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    given = functional.masked_generation(ours, theirs, mask=[[[0, 1]]], generate=lambda x: x)
    assert one(given) == 2.5


ALIKE = {
    "affinity": functional.pairwise_affinity,
    "attention": functional.attention_transfer,
    "selectivity": functional.neuron_selectivity,
    "channels": functional.inter_channel_correlation,
    "flow": lambda s, t: functional.flow_of_solution((s, s), (t, t)),
    "factor": functional.factor_transfer,
    "whole factor": lambda s, t: functional.factor_transfer(s, t, p1=None),
    "context": lambda s, t: functional.hierarchical_context([s], [t]),
    "boundaries": functional.activation_boundaries,
    "partial": lambda s, t: functional.partial_l2(s, t, margin=-0.5),
    "information": lambda s, t: functional.variational_information(s, t, variance=2.0),
    "generation": lambda s, t: functional.masked_generation(s, t, mask=1, generate=lambda x: x),
}
every_loss = pytest.mark.parametrize("loss", ALIKE.values(), ids=ALIKE)


@every_loss
@pytest.mark.parametrize(
    ("dtype", "result"), [("float64", "float64"), ("float32", "float32"), ("bfloat16", "float32")]
)
def test_one_value_an_example_in_at_least_float32(loss, dtype, result):
    values = loss(tf.cast(maps(batch=4), dtype), tf.cast(maps(batch=4), "float32"))
    assert (values.shape, values.dtype) == ((4,), result)


@every_loss
def test_dead_maps_have_finite_gradients(loss):
    student = tf.constant(np.zeros((2, 4, 4, 5)))
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = loss(student, maps(batch=2))
    assert np.isfinite(values).all()
    assert np.isfinite(tape.gradient(values, student)).all()


@pytest.mark.parametrize("name", sorted(set(ALIKE) - {"flow"}))
def test_shapes_that_do_not_fit_are_named(name):
    with pytest.raises(ValueError, match=r"\(3, 4, 4, 5\).*\(3, 4, 5\)"):
        ALIKE[name](maps(), maps()[:, 0])


@pytest.mark.parametrize(
    "loss", [ALIKE[name] for name in ("affinity", "attention", "selectivity", "context")]
)
def test_maps_are_due(loss):
    with pytest.raises(ValueError, match=r"needs two maps .*\(2, 5\)"):
        loss(np.ones((2, 5)), np.ones((2, 5)))


def test_channels_that_differ_are_named():
    with pytest.raises(ValueError, match=r"lower's is \(3, 4, 4, 5\) and the upper's \(3, 4, 5\)"):
        functional.flow_of_solution((maps(), maps()[:, 0]), (maps(), maps()))
    with pytest.raises(ValueError, match="2 and 5 channels and the teacher's 5 and 5"):
        functional.flow_of_solution((maps(channels=2), maps()), (maps(), maps()))
    with pytest.raises(ValueError, match=r"\(3, 4, 4, 2\).*\(3, 4, 4, 5\)"):
        functional.partial_l2(maps(channels=2), maps(), margin=0.0)


def test_lists_that_differ_in_length_are_named():
    with pytest.raises(ValueError, match="got 2 of the student's and 1 of the"):
        functional.hierarchical_context([maps(), maps()], [maps()])
    with pytest.raises(ValueError, match="the lower and the upper; got 3"):
        functional.flow_of_solution([maps()] * 3, [maps()] * 3)


@pytest.mark.parametrize("power", [0, -1, 1.5, "2"])
def test_a_power_is_a_whole_number(power):
    with pytest.raises(ValueError, match="power must be a whole number of at least 1"):
        functional.attention_transfer(maps(), maps(), power=power)
    with pytest.raises(ValueError, match="p2 must be a whole number"):
        functional.factor_transfer(maps(), maps(), p2=power)
