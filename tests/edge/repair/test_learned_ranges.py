"""Ranges that are learned with the rounding: the best ones, one for all that share it, whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize.calibrate import ranges_of
from keras_distill.edge.quantize.ranges import Range
from keras_distill.edge.repair import ranges as learning
from keras_distill.edge.repair import reconstruct as module
from keras_distill.edge.repair.ranges import Ranges, heads_of_float, learned_ends, ranges_to_learn

layers = keras.layers


def by_numpy(x, low, high):
    """256 steps between two ends, zero among them."""
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return step * np.clip(np.rint(x / step), -zero, 255 - zero)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["the upper end", "the lower end"])
def test_the_best_end_is_found(quantised, sign):
    """One number that counts beside one that reaches far and hardly counts: not the range's own
    error decides, by which calibration may set it, but what the next layer makes of it."""
    random = np.random.default_rng(0)
    near, far = random.uniform(0, 1, 2000), np.minimum(random.exponential(1.0, 2000), 8.0)
    x = sign * np.stack([near, far], axis=1).astype("float32")
    weights = np.float32([[1.0], [1 / 127]])  # Both on the grid.
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False, name="sum")])
    model.get_layer("sum").kernel.assign(weights)
    twin = quantised(model, 8, x)
    range_, last = ranges_of(twin)
    # Of the output, which is rounded as well, no end is learned here.
    part = Ranges(Analysis(twin).wrapped, (range_,))
    whole, out = np.abs(x).max(), last.bounds()

    def error(end):
        seen = by_numpy(x, *sorted((0.0, sign * end)))
        return np.mean((by_numpy(seen @ weights, *out) - x @ weights) ** 2)

    shares = np.linspace(0.02, 1.0, 400)
    found = np.array([error(share * whole) for share in shares])
    best = shares[found.argmin()]
    assert 0.3 < best < 0.45
    assert found[-1] > 4 * found.min()
    batches = [[tf.constant(x[start : start + 100])] for start in range(0, 2000, 100)]
    heads = heads_of_float(part, batches)
    ends = learned_ends(part, heads, batches, unit=found[-1], iterations=400, seed=0)
    low, high = ends["0 low"], ends["0 high"]
    assert (low, high)[sign > 0] * sign > 0
    assert (high, low)[sign > 0] == 0.0
    assert error(high - low) < 1.1 * found.min()
    # It is told, not done.
    assert range_.bounds() == pytest.approx(sorted((0.0, sign * whole)))


@pytest.fixture(scope="module")
def joined():
    """Parts that share a range, layers that hand theirs on, a shared layer, known ranges."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 2), name="image")
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    left = layers.MaxPooling2D(name="pool")(shared(layers.Conv2D(2, 1, name="first")(x)))
    right = layers.Conv2D(4, 2, 2, name="right")(x)
    y = layers.Concatenate(name="both")([left, right])
    y = layers.Flatten(name="flat")(y)
    gate = layers.Dense(128, activation="sigmoid", name="gate")(y)
    y = layers.Dense(3, name="scores")(layers.Multiply(name="gated")([y, gate]))
    model = keras.Model(x, layers.Softmax(name="classes")(y), name="joined")
    rows = np.random.default_rng(0).uniform(-1, 1, size=(160, 8, 8, 2)) * [1.0, 20.0]
    for name in ("first", "right"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * [[1.0], [1 / 400]])
    return model, rows.astype("float32")


def moved_ends(twin):
    return np.array([one.bounds() for one in ranges_of(twin)])


def test_what_shares_a_range_shares_it_still_and_known_ones_stay(joined, tmp_path):
    model, rows = joined
    twin = edge.quantize_aware(model, calibration_data=rows)
    known = [one for one in flat_ranges(twin) if one.fixed is not None]
    # The sigmoid's and the softmax's.
    assert len(known) == 2
    before = moved_ends(twin)
    edge.reconstruct(twin, data=rows, iterations=60, verbose=False)
    after = moved_ends(twin)
    assert (np.abs(after - before) > 1e-3 * np.abs(before)).mean() > 0.5
    np.testing.assert_array_equal(after[before == 0], 0.0)
    assert [one.bounds() for one in known] == [(0.0, 255 / 256)] * 2
    path = edge.export_tflite(twin, tmp_path / "joined.tflite", precision="int8").path
    pairs = scales_by_operator(path)
    handing_on = ("MAX_POOL_2D", "CONCATENATION", "RESHAPE")
    for name in handing_on:
        assert pairs[name], name
        for inputs, outputs in pairs[name]:
            assert set(inputs) == set(outputs), name
    ((_, (scale,)),) = pairs["SOFTMAX"]
    assert scale == pytest.approx(1 / 256)
    # The file has the learned ones: the sum's of both parts, and the scores'.
    ends = twin.get_layer("both").output_ranges[0].bounds()
    assert pairs["CONCATENATION"][0][1][0] == pytest.approx((ends[1] - ends[0]) / 255, rel=1e-5)
    answers = edge.load_tflite(path).predict(rows)
    assert np.abs(answers - twin.predict(rows, verbose=0)).max() < 3.01 / 256


def flat_ranges(twin):
    return [one for one in twin._flatten_layers() if isinstance(one, Range)]


def scales_by_operator(path):
    """By the operator's name, pairs of the scales of the int8 tensors that it reads and gives."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph, found = model.Subgraphs(0), {}
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}

    def scales(numbers):
        tensors = [graph.Tensors(int(number)) for number in numbers if number >= 0]
        whole = [t for t in tensors if t.Type() == schema.TensorType.INT8]
        return tuple(float(t.Quantization().ScaleAsNumpy()[0]) for t in whole)

    for number in range(graph.OperatorsLength()):
        one = graph.Operators(number)
        name = names[model.OperatorCodes(one.OpcodeIndex()).BuiltinCode()]
        pair = scales(one.InputsAsNumpy()), scales(one.OutputsAsNumpy())
        found.setdefault(name, []).append(pair)
    return found


def test_exact_values_and_masked_scores_are_left():
    x, mask = keras.Input((4, 3), name="x"), keras.Input((4,), name="mask")
    ids = keras.Input((4,), name="ids")  # Real-valued, and read as whole numbers.
    y = layers.Add()([layers.Embedding(9, 3, name="table")(ids), x])
    scores = layers.Reshape((4,))(layers.Dense(1, name="score")(y))
    weights = layers.Softmax(name="weights")(scores + mask * -1e9)
    twin = edge.quantize_aware(keras.Model([x, mask, ids], weights))
    part = ranges_to_learn(twin, Analysis(twin).wrapped, of_answers=True)
    kinds = {type(one).__name__ for one in ranges_of(twin)}
    assert kinds == {"Range", "MaskedRange"}
    assert {type(one) for one in part.ranges} == {Range}
    assert len(part.ranges) == sum(type(one) is Range for one in ranges_of(twin))
    # A model that answers with whole numbers alone tells nothing of its ranges.
    z = keras.Input((3,))
    chosen = keras.Model(z, keras.ops.argmax(layers.Dense(4)(z), axis=-1))
    twin = edge.quantize_aware(chosen)
    assert ranges_to_learn(twin, Analysis(twin).wrapped, of_answers=True) is None


def dense(seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6,), name="x"),
            layers.Dense(8, activation="relu", name="a"),
            layers.Dense(8, activation="relu", name="b"),
            layers.Dense(3, name="c"),
        ],
        name="dense",
    )
    kernel = model.get_layer("a").kernel
    kernel.assign(kernel * FAR[:, None] ** -2)
    return model


# One input reaches far, and hardly counts: it costs the others their steps.
FAR = np.float32([10, 1, 1, 1, 1, 1])
ROWS = np.random.default_rng(0).uniform(-1, 1, size=(160, 6)).astype("float32") * FAR
OPTIONS = {"data": ROWS, "iterations": 100, "verbose": False}


def values(model):
    return {one.path: one.numpy() for one in model.variables}


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path], err_msg=path)


@pytest.fixture(scope="module")
def whole(quantised):
    model = quantised(dense(), 8, ROWS)
    before = moved_ends(model)
    edge.reconstruct(model, **OPTIONS)
    # Else all below would hold of ranges that never move.
    assert np.any(moved_ends(model) != before)
    # Of the answers nothing is cut off.
    np.testing.assert_array_equal(moved_ends(model)[-1], before[-1])
    return values(model)


@pytest.mark.parametrize("kept", ["in memory", "in a folder", "in another process"])
@pytest.mark.parametrize("place", ["ranges", "a", "b"])
def test_a_stopped_call_is_whole_and_goes_on(place, kept, quantised, whole, monkeypatch, tmp_path):
    model, folder = quantised(dense(), 8, ROWS), None if kept == "in memory" else tmp_path
    before = values(model)
    learn, learn_ends, begun, stops = module.learned, module.learned_ends, [], [place]

    def stopping(path, call):
        begun.append(path)
        if stops and stops[0] == path:
            raise KeyboardInterrupt(stops.pop())
        return call()

    monkeypatch.setattr(
        module,
        "learned",
        lambda block, *a, **o: stopping(block.path, lambda: learn(block, *a, **o)),
    )
    monkeypatch.setattr(
        module, "learned_ends", lambda *a, **o: stopping("ranges", lambda: learn_ends(*a, **o))
    )
    with pytest.raises(KeyboardInterrupt):
        edge.reconstruct(model, folder=folder, **OPTIONS)
    stopped = values(model)
    finished = {"ranges": (), "a": ("range",), "b": ("range", "a/")}[place]
    for path, value in stopped.items():
        done = any(name in path for name in finished)
        np.testing.assert_array_equal(value, (whole if done else before)[path], err_msg=path)
    if kept == "in another process":
        model = quantised(dense(), 8, ROWS)
    begun.clear()
    edge.reconstruct(model, folder=folder, **OPTIONS)
    assert begun == ["ranges", "a", "b", "c"][["ranges", "a", "b"].index(place) :]
    assert_same(values(model), whole)
    begun.clear()
    edge.reconstruct(model, folder=folder, **OPTIONS)
    assert begun == []
    assert_same(values(model), whole)


def test_without_them_ranges_stay_and_begin_anew(quantised, whole):
    """Not from those that an earlier call has learned."""
    plain, model = quantised(dense(), 8, ROWS), quantised(dense(), 8, ROWS)
    edge.reconstruct(plain, learned_ranges=False, **OPTIONS)
    np.testing.assert_array_equal(moved_ends(plain), moved_ends(quantised(dense(), 8, ROWS)))
    edge.reconstruct(model, **OPTIONS)
    edge.reconstruct(model, learned_ranges=False, **OPTIONS)
    assert_same(values(model), values(plain))
    # Of a teacher those of the answers are learned, too.
    edge.reconstruct(model, dense(), **OPTIONS)
    edge.reconstruct(model, **OPTIONS)
    assert_same(values(model), whole)


def test_ranges_that_are_no_better_are_not_taken(quantised, monkeypatch):
    def halves(part, *args, **options):
        return {key: variable.numpy() / 2 for key, variable in part.weights.items()}

    monkeypatch.setattr(module, "learned_ends", halves)
    model = quantised(dense(), 8, ROWS)
    before = moved_ends(model)
    edge.reconstruct(model, **OPTIONS)
    np.testing.assert_array_equal(moved_ends(model), before)


def test_rows_that_judge_are_not_learned_from(quantised, monkeypatch):
    learn, seen = module.learned_ends, []

    def learned(part, heads, inputs, **options):
        seen.extend(np.concatenate([x for (x,) in inputs]))
        return learn(part, heads, inputs, **options)

    monkeypatch.setattr(module, "learned_ends", learned)
    edge.reconstruct(quantised(dense(), 8, ROWS), **OPTIONS)
    np.testing.assert_array_equal(seen, ROWS[:128])


def test_a_large_pass_is_cut_into_rows(quantised, monkeypatch):
    monkeypatch.setattr(learning, "_BYTES", 1)
    model = quantised(dense(), 8, ROWS)
    before = moved_ends(model)
    edge.reconstruct(model, **OPTIONS)
    assert np.any(moved_ends(model) != before)


def test_with_a_teacher_ranges_serve_what_it_tells(quantised):
    """A score far below the largest is nothing to a soft target, and costs the others steps."""
    model, ends = dense(), {}
    model.get_layer("c").bias.assign([0.0, 0.0, -60.0])
    for name, teacher in (("numbers", None), ("classes", model)):
        twin = quantised(model, 8, ROWS)
        edge.reconstruct(twin, teacher, ROWS, iterations=100, verbose=False)
        ends[name] = twin.get_layer("c").output_ranges[0].bounds()[0]
    assert ends["numbers"] < -55 < -45 < ends["classes"]
