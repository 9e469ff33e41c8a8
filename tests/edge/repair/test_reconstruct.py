"""Learned roundings bring the network's answers nearer, and stay true all the way to the file."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_distill as kd
from keras_distill import edge
from keras_distill.edge.repair import arguments
from keras_distill.edge.repair import reconstruct as module
from keras_distill.functional import soft_target_kl
from keras_distill.progress import LOG

layers = keras.layers
KERNELS = ("first", "left", "right", "logits")
# The largest whole number by bits.
MOST = {4: 7, 8: 127}


def kernels(model):
    return {name: model.get_layer(name).layer.kernel.numpy() for name in KERNELS}


def steps_of(kernel, levels, axes=(-1,)):
    """A kernel in steps of its channels, by NumPy."""
    others = tuple(a for a in range(kernel.ndim) if a - kernel.ndim not in axes)
    largest = np.abs(kernel).max(axis=others, keepdims=True)
    return kernel / (largest / levels)


def off(model, reference, x):
    difference = model.predict(x, verbose=0) - reference.predict(x, verbose=0)
    return float(np.mean(difference**2))


@pytest.fixture(scope="module")
def twin(branched, quantised, digits):
    """A twin at four bits that has learned, one that has not, and the lines that were said."""
    nearest, learned = quantised(branched, 4), quantised(branched, 4)
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LOG, "info", lambda words, *given: lines.append(words % given))
        edge.reconstruct(learned, data=digits.x_train[:320], iterations=150, learned_ranges=False)
    return learned, nearest, lines


def test_answers_to_other_inputs_come_nearer(twin, branched, digits):
    learned, nearest, _ = twin
    before = off(nearest, branched, digits.x_test)
    assert off(learned, branched, digits.x_test) < 0.6 * before


def test_weights_lie_on_one_of_their_two_steps_and_nothing_else_moved(twin, branched):
    learned, nearest, _ = twin
    ours, theirs, flipped = kernels(learned), kernels(nearest), 0
    for name, kernel in ours.items():
        axes = (-2, -1) if name == "right" else (-1,)
        steps, before = steps_of(kernel, MOST[4], axes), steps_of(theirs[name], MOST[4], axes)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert (np.abs(np.rint(steps) - before) < 1).all()
        largest = np.abs(np.abs(before) - MOST[4]) < 1e-4
        np.testing.assert_array_equal(kernel[largest], theirs[name][largest])
        flipped += int((np.rint(steps) != np.rint(before)).sum())
        # What the layer sees is what was chosen.
        seen = learned.get_layer(name).treated_weights()["kernel"].numpy()
        np.testing.assert_allclose(seen, kernel, atol=1e-6)
    assert flipped > 20
    kept = {id(learned.get_layer(name).layer.kernel) for name in KERNELS}
    for variable, before in zip(learned.variables, nearest.variables, strict=True):
        if id(variable) not in kept:
            np.testing.assert_array_equal(variable.numpy(), before.numpy())


def test_a_line_a_layer(twin):
    _, _, lines = twin
    assert [line.split(":")[0] for line in lines] == [
        f"{i + 1}/4 {n}" for i, n in enumerate(KERNELS)
    ]
    assert any("% off, now " in line for line in lines)


def test_the_file_holds_what_was_learned(branched, quantised, digits, tmp_path):
    """Whole number by whole number; a norm that is folded scales a channel, and may turn it."""
    model = quantised(branched)
    before = kernels(model)
    edge.reconstruct(model, data=digits.x_train[:64], iterations=60, verbose=False)
    export = edge.export_tflite(model, tmp_path / "small.tflite", precision="int8")
    held = held_in(export.path)
    turned = np.sign(branched.get_layer("norm").gamma.numpy())
    flipped = 0
    for name, to_file in (
        ("first", lambda k: (k * turned).transpose(3, 0, 1, 2)),
        ("left", lambda k: k.transpose(3, 0, 1, 2)),
        ("right", lambda k: k.transpose(3, 0, 1, 2)),
        ("logits", lambda k: k.T),
    ):
        axes = (-2, -1) if name == "right" else (-1,)
        learned = np.rint(steps_of(kernels(model)[name], 127, axes))
        expected = to_file(learned)
        assert any(np.array_equal(found, expected) for found in held[expected.shape]), name
        flipped += int((learned != np.rint(steps_of(before[name], 127, axes))).sum())
    # Else nearest rounding would pass as well.
    assert flipped > 20
    # Nothing of it needs keras_distill any more.
    seen = model.get_layer("left").treated_weights()["kernel"].numpy()
    np.testing.assert_allclose(edge.strip(model).get_layer("left").kernel, seen, atol=1e-7)


def held_in(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    held = {}
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] == np.int8 and len(tensor["quantization_parameters"]["scales"]):
            try:
                value = interpreter.get_tensor(tensor["index"])
            except ValueError:
                continue
            held.setdefault(value.shape, []).append(value.astype("float32"))
    return held


def dense(units=3, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,), name="x"),
            layers.Dense(8, activation="relu", name="a"),
            layers.Dense(8, activation="relu", name="b"),
            layers.Dense(units, name="c"),
        ],
        name="dense",
    )


ROWS = np.random.default_rng(0).normal(size=(160, 6)).astype("float32")
OPTIONS = {"data": ROWS, "iterations": 40, "verbose": False}


def values(model):
    return [variable.numpy() for variable in model.variables]


def same(model, before):
    return all(np.array_equal(v.numpy(), b) for v, b in zip(model.variables, before, strict=True))


@pytest.fixture(scope="module")
def whole(quantised):
    """What a call that nobody stops makes of it."""
    return values(edge.reconstruct(quantised(dense(), 4, ROWS), **OPTIONS))


def begun_and_stopped(model, monkeypatch, **options):
    """A call that ends in its second layer."""
    with monkeypatch.context() as patch:
        stopped_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            edge.reconstruct(model, **options, **OPTIONS)


def stopped_at(monkeypatch, last):
    """Has the learning of the block number `last` interrupted; the paths that were begun."""
    begun, learn = [], module.learned

    def learned(block, *args, **options):
        begun.append(block.path)
        if len(begun) == last:
            raise KeyboardInterrupt
        return learn(block, *args, **options)

    monkeypatch.setattr(module, "learned", learned)
    return begun


@pytest.mark.parametrize("fresh", [True, False], ids=["another process", "the same model"])
def test_a_stopped_call_goes_on_to_the_same_end(fresh, quantised, whole, monkeypatch, tmp_path):
    model = quantised(dense(), 4, ROWS)
    raw = values(model)
    begun_and_stopped(model, monkeypatch, folder=tmp_path)
    # The first layer has learned, the others are as they were.
    learned = [not np.array_equal(now, old) for now, old in zip(values(model), raw, strict=True)]
    assert sum(learned) == 1
    np.testing.assert_array_equal(model.get_layer("b").layer.kernel, dense().get_layer("b").kernel)
    if fresh:
        model = quantised(dense(), 4, ROWS)
    begun = stopped_at(monkeypatch, 99)
    edge.reconstruct(model, folder=tmp_path, **OPTIONS)
    assert begun == ["b", "c"]
    assert same(model, whole)
    # All of it is there now.
    edge.reconstruct(model, folder=tmp_path, **OPTIONS)
    assert begun == ["b", "c"]
    assert same(model, whole)


def test_a_folder_of_another_repair(quantised, whole, tmp_path):
    model = quantised(dense(), 4, ROWS)
    edge.reconstruct(model, folder=tmp_path, **OPTIONS)
    other = quantised(dense(seed=1), 4, ROWS)
    for changed, options in (
        (other, {}),
        (model, {"seed": 1}),
        (model, {"iterations": 41}),
        (model, {"data": ROWS + 1}),
    ):
        before = values(changed)
        with pytest.raises(ValueError, match="other settings"):
            edge.reconstruct(changed, folder=tmp_path, **{**OPTIONS, **options})
        assert same(changed, before)


def test_a_layer_reads_the_quantised_model_and_is_to_answer_as_the_float_one(
    quantised, monkeypatch
):
    learn, seen = module.learned, {}

    def learned(block, inputs, targets, *args, **options):
        seen[block.path] = np.concatenate([x for (x,) in inputs]), np.concatenate(targets)
        return learn(block, inputs, targets, *args, **options)

    monkeypatch.setattr(module, "learned", learned)
    model = quantised(dense(), 4, ROWS)
    edge.reconstruct(model, **OPTIONS)
    inputs, targets = seen["c"]
    # Of five batches the last one judges. The layers before have learned by then.
    before = keras.Model(model.input, model.get_layer("b").output)
    np.testing.assert_allclose(inputs, before(ROWS[:128], training=False), atol=1e-5)
    np.testing.assert_allclose(targets, dense()(ROWS[:128]), atol=1e-5)


def test_the_same_seed_gives_the_same_integers(quantised, whole):
    model = quantised(dense(), 4, ROWS)
    edge.reconstruct(model, **OPTIONS)
    assert same(model, whole)


def test_without_a_folder_a_stopped_call_goes_on_too(quantised, whole, monkeypatch):
    model = quantised(dense(), 4, ROWS)
    begun_and_stopped(model, monkeypatch)
    begun = stopped_at(monkeypatch, 99)
    edge.reconstruct(model, **OPTIONS)
    assert begun == ["b", "c"]
    assert same(model, whole)
    edge.reconstruct(model, **OPTIONS)
    assert begun == ["b", "c"]
    assert same(model, whole)


@pytest.mark.parametrize("kept", ["in memory", "in a folder"])
def test_other_settings_begin_anew_with_the_float_model(kept, quantised, whole, tmp_path):
    """Not with what the first call made of it."""
    model, folder = quantised(dense(), 4, ROWS), tmp_path if kept == "in a folder" else None
    edge.reconstruct(model, **{**OPTIONS, "seed": 7}, folder=folder)
    assert not same(model, whole)
    edge.reconstruct(model, **OPTIONS)
    assert same(model, whole)


def test_what_was_trained_on_is_the_float_model(quantised, monkeypatch):
    model = quantised(dense(), 4, ROWS)
    edge.reconstruct(model, **OPTIONS)
    kernel = model.get_layer("b").layer.kernel
    trained = np.random.default_rng(1).normal(size=kernel.shape).astype("float32")
    kernel.assign(trained)
    seen = {}

    def learned(block, *args, **options):
        seen[block.path] = block.weights["kernel"].numpy()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "learned", learned)
    monkeypatch.setattr(arguments, "blocks_of", only("b"))
    with pytest.raises(KeyboardInterrupt):
        edge.reconstruct(model, **OPTIONS)
    np.testing.assert_array_equal(seen["b"], trained)


def only(path):
    whole = arguments.blocks_of

    def blocks_of(graph):
        found, left = whole(graph)
        return [one for one in found if one.path == path], left

    return blocks_of


def test_a_saved_model_that_was_stopped_is_told(quantised, monkeypatch, tmp_path):
    model = quantised(dense(), 4, ROWS)
    begun_and_stopped(model, monkeypatch)
    model.save(tmp_path / "stopped.keras")
    loaded = keras.saving.load_model(tmp_path / "stopped.keras")
    first = loaded.get_layer("a").layer.kernel.numpy()
    with pytest.warns(UserWarning, match=r"1 of the 3 layers of 'dense' lie on steps.*: a\. If"):
        edge.reconstruct(loaded, **OPTIONS)
    # What lies on steps stays there.
    np.testing.assert_array_equal(loaded.get_layer("a").layer.kernel, first)


@pytest.mark.parametrize("rows", [2, 7, 32, 33, 100])
def test_of_few_rows_too_some_judge_that_nothing_is_learned_from(rows, quantised, monkeypatch):
    learn, learners, judges = module.learned, [], []
    judged = module.Lesson.error

    def learned(block, inputs, targets, *args, **options):
        learners.append(np.concatenate([x for (x,) in inputs]))
        return learn(block, inputs, targets, *args, **options)

    def error(lesson, inputs, targets):
        judges.append(np.concatenate([x for (x,) in inputs]))
        return judged(lesson, inputs, targets)

    monkeypatch.setattr(module, "learned", learned)
    monkeypatch.setattr(module.Lesson, "error", error)
    model = quantised(dense(), 4, ROWS)
    edge.reconstruct(model, **{**OPTIONS, "data": ROWS[:rows], "iterations": 5})
    # The first layer reads the rows, rounded one by one.
    rounded = np.asarray(model.layers[1](ROWS[:rows]))
    ours, theirs = learners[0], judges[0]
    np.testing.assert_allclose(np.concatenate([ours, theirs]), rounded, atol=1e-6)
    # A fifth at most, where there is no row less.
    assert 1 <= len(theirs) <= max(1, rows / 5)


def reconstructed_at_four_bits(model, x, quantised):
    small = quantised(model, 4, x)
    before = [layer.layer.kernel.numpy() for layer in small.layers if kernel_of(layer)]
    edge.reconstruct(small, data=x, iterations=60, verbose=False)
    after = [layer.layer.kernel.numpy() for layer in small.layers if kernel_of(layer)]
    return small, before, after


def kernel_of(layer):
    return hasattr(getattr(layer, "layer", None), "kernel")


def test_a_file_of_four_bits_answers_as_what_was_learned(branched, quantised, digits, tmp_path):
    model, _, _ = reconstructed_at_four_bits(branched, digits.x_train[:160], quantised)
    export = edge.export_tflite(model, tmp_path / "small.tflite", precision="int8")
    assert export.dtypes["int4"] == 4
    answers = edge.load_tflite(export.path).predict(digits.x_test)
    expected = model.predict(digits.x_test, verbose=0)
    low, high = list(model.get_layer("logits").ranges())[-1].bounds()
    # Four operations behind each other may each round to the step beside.
    assert np.abs(answers - expected).max() <= 4.01 * (high - low) / 255
    # Nearest rounding is further off than that.
    nearest = quantised(branched, 4, digits.x_train[:160]).predict(digits.x_test, verbose=0)
    assert np.abs(answers - nearest).max() > 8 * (high - low) / 255


def test_saved_and_loaded_it_answers_the_same_and_makes_the_same_file(quantised, tmp_path):
    small, _, _ = reconstructed_at_four_bits(dense(), ROWS, quantised)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded.predict(ROWS, verbose=0), small.predict(ROWS, verbose=0))
    files = [
        edge.export_tflite(one, tmp_path / f"{n}.tflite", precision="int8").path.read_bytes()
        for n, one in enumerate((small, loaded))
    ]
    assert files[0] == files[1]


def test_transposed_kernels_have_their_channels_elsewhere(quantised, tmp_path):
    """(height, width, out, in): a step an output, which the converter takes as it is."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 3)),
            layers.Conv2DTranspose(4, 3, strides=2, name="up"),
        ]
    )
    # Inputs that are much alike: what is rounded in one direction adds up.
    x = np.random.default_rng(0).normal(1.0, 0.05, (160, 5, 5, 3)).astype("float32")
    small = quantised(model, 8, x)
    before = small.get_layer("up").layer.kernel.numpy()
    edge.reconstruct(small, data=x, iterations=60, verbose=False)
    after = small.get_layer("up").layer.kernel.numpy()
    largest = np.abs(before).max(axis=(0, 1, 3), keepdims=True)
    steps, learned = 127 * before / largest, 127 * after / largest
    np.testing.assert_allclose(learned, np.rint(learned), atol=1e-3)
    assert (np.abs(np.rint(learned) - steps) < 1).all()
    assert (np.rint(learned) != np.rint(steps)).sum() > 5
    export = edge.export_tflite(small, tmp_path / "up.tflite", precision="int8")
    held = held_in(export.path)[(4, 3, 3, 3)]
    expected = np.rint(learned).transpose(2, 0, 1, 3)
    assert any(np.array_equal(found, expected) for found in held)


def test_what_is_no_better_is_not_taken(quantised, monkeypatch):
    def all_upwards(block, *args, **options):
        return {key: np.ceil(w * 10) / 10 for key, w in block.before_grids().items()}

    monkeypatch.setattr(module, "learned", all_upwards)
    model = quantised(dense(), 4, ROWS)
    before = values(model)
    edge.reconstruct(model, **OPTIONS)
    assert same(model, before)


def test_pruned_weights_stay_zero(quantised):
    pruned = edge.prune(dense(), 0.5)
    model = quantised(edge.strip(pruned), 4, ROWS)
    edge.reconstruct(model, **OPTIONS)
    for name in "ab":
        kernel = model.get_layer(name).layer.kernel.numpy()
        assert np.mean(kernel == 0) >= 0.5


def test_the_last_layer_learns_of_a_teacher(branched, quantised, digits):
    x = digits.x_train[:320]
    model = quantised(branched, 4)
    # As if all but the last had been finished: its nearest rounding, beside what it learns.
    for name in ("first", "left", "right"):
        layer = model.get_layer(name)
        layer.layer.kernel.assign(layer.treated_weights()["kernel"])

    def divergence():
        answers = (one.predict(digits.x_test, verbose=0) for one in (model, branched))
        return float(np.mean(soft_target_kl(*answers)))

    before = divergence()
    kept = kernels(model)
    with pytest.warns(UserWarning, match="3 of the 4 layers .* lie on steps already"):
        edge.reconstruct(model, branched, x, iterations=150, verbose=False)
    assert divergence() < 0.8 * before
    assert not np.array_equal(kernels(model)["logits"], kept["logits"])


def test_errors_before_any_work(quantised, digits):
    model, number = quantised(dense(), 4, ROWS), quantised(dense(units=1), 4, ROWS)
    before = values(model)
    shared = keras.layers.Dense(6)
    x = keras.Input((6,))
    twice = quantised(keras.Model(x, shared(shared(x))), 4, ROWS)
    for given, options, error, words in (
        ("model", {}, TypeError, r"quantize_aware\(\); got str"),
        (dense(), {}, ValueError, "'dense' is not quantised"),
        (edge.quantize_aware(dense()), {}, ValueError, "4 of its 4 ranges are not set.*calibrate"),
        (twice, {}, ValueError, "no layer whose rounding can be learned.*several calls"),
        (model, {"data": None}, ValueError, r"reconstruct\(quantized, data=x\)"),
        (model, {"data": ROWS[:0]}, ValueError, "0 rows|no rows|got 0"),
        (model, {"data": ROWS[:1]}, ValueError, "2 at least.*got 1"),
        (model, {"data": ROWS[:, :5]}, ValueError, r"to reconstruct from.*\(6,\).*\(32, 5\)"),
        (model, {"data": ROWS * np.nan}, ValueError, "to reconstruct from: NaN"),
        (model, {"iterations": 0}, ValueError, "iterations as a number, 1 or more; got 0"),
        (model, {"examples": True}, ValueError, "examples"),
        (model, {"teacher": dense(units=4)}, ValueError, "3.*4|4.*3"),
        (number, {"teacher": dense(units=1)}, ValueError, "one number.*Leave the teacher out"),
    ):
        with pytest.raises(error, match=words):
            edge.reconstruct(given, **{**OPTIONS, **options})
    assert same(model, before)


def test_it_is_kd_edges():
    assert kd.edge.reconstruct is module.reconstruct
