"""What masks scores before a softmax leaves the scores their steps, however it is written."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.quantize.scores import MASK, SCORES, kinds_of
from keras_distill.graph.replay import trace

layers, ops = keras.layers, keras.ops
LOWEST = float(np.finfo("float32").min)
# What a user makes of an array, beside what the model computes.
ABOVE = np.triu(np.full((6, 6), -1e9, "float32"), 1)


class Masked(layers.Layer):
    """A user's own layer that masks, and attends or not."""

    def __init__(self, fill=-1e9, attends=False, **kwargs):
        super().__init__(**kwargs)
        self.fill, self.attends = fill, attends

    def call(self, inputs):
        scores, padding = inputs
        masked = ops.where(padding > 0, self.fill, scores)
        return ops.softmax(masked) if self.attends else masked

    def compute_output_shape(self, shapes):
        return shapes[0]


class Far(layers.Layer):
    """A user's own layer that makes what is added to scores."""

    def call(self, padding):
        return padding * -1e9


def attention(x, scores):
    return ops.matmul(ops.softmax(scores), x)


def similar(x):
    return ops.matmul(x, ops.transpose(x, (0, 2, 1)))


def added(make):
    return lambda x, _, padding: attention(x, similar(x) + make(x, padding))


def selected(fill):
    return lambda x, _, padding: attention(x, ops.where(padding > 0, fill, similar(x)))


# By name, what is made of words, those that carry a mask, and where there is padding, 1 there.
KINDS = {
    "MultiHeadAttention": lambda x, masked, _: layers.MultiHeadAttention(2, 4)(masked, masked),
    "causal": lambda x, *_: layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True),
    "Attention": lambda x, masked, _: layers.Attention()([masked, masked]),
    "AdditiveAttention": lambda x, masked, _: layers.AdditiveAttention()([masked, masked]),
    "Softmax": lambda x, _, padding: ops.matmul(layers.Softmax()(similar(x), padding < 1), x),
    "selected": selected(-1e9),
    "selected infinity": selected(-np.inf),
    "selected lowest": selected(LOWEST),
    "selected half's lowest": selected(-65504.0),
    "selected near": selected(-1e4),
    "selected full": lambda x, _, padding: attention(
        x, ops.where(padding < 1, similar(x), ops.full_like(similar(x), -1e9))
    ),
    "added": added(lambda x, padding: padding * -1e9),
    "added lowest": added(lambda x, padding: LOWEST * padding),
    "added near": added(lambda x, padding: padding * -1e4),
    "added kept": added(lambda x, padding: (1.0 - (1.0 - padding)) * -1e9),
    "added kept less one": added(lambda x, padding: ((1.0 - padding) - 1.0) * 1e9),
    "added selected": added(lambda x, padding: ops.where(padding > 0, -1e9, 0.0)),
    "added array": added(lambda x, _: ABOVE),
    "added rescaled": added(lambda x, padding: layers.Rescaling(-1e9)(padding)),
    "added with a bias": added(lambda x, padding: 0.3 * similar(x) + padding * -1e9),
    "added by a layer": added(lambda x, padding: Far()(padding)),
    "added by a Lambda": added(lambda x, padding: layers.Lambda(lambda one: one * -1e9)(padding)),
    "added twice": lambda x, _, padding: attention(x, similar(x) + padding * -1e9 + ABOVE),
    "added to dropped": lambda x, _, padding: attention(
        x, layers.Dropout(0.1)(similar(x) + padding * -1e9)
    ),
    "added three at once": lambda x, _, padding: attention(
        x, layers.Add()([similar(x), padding * -1e9, 0.1 * similar(x)])
    ),
    "subtracted": lambda x, _, padding: attention(x, similar(x) - padding * 1e9),
    "a layer that selects": lambda x, _, padding: attention(x, Masked()([similar(x), padding])),
    "a layer that attends": lambda x, _, padding: ops.matmul(
        Masked(LOWEST, attends=True)([similar(x), padding]), x
    ),
    "the largest": lambda x, _, padding: ops.max(similar(x) + padding * -1e9, axis=-1),
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    ids = keras.Input((6,), dtype="int32")
    normal = keras.initializers.RandomNormal(stddev=1.0)
    masked = layers.Embedding(20, 8, mask_zero=True, embeddings_initializer=normal)(ids)
    x = layers.Embedding(20, 8, embeddings_initializer=normal)(ids)
    padding = ops.cast(ops.equal(ids, 0), "float32")[:, None, :]
    made = {name: make(x, masked, padding) for name, make in KINDS.items()}
    return keras.Model(ids, {name: layers.Flatten()(y) for name, y in made.items()})


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 20, (64, 6)).astype("int32")
    rows[np.arange(6) >= rng.integers(3, 7, (64, 1))] = 0
    return rows


@pytest.fixture(scope="module", params=["int8", "int16x8"])
def answers(request, model, rows, tmp_path_factory):
    """By name, the model's answers and its file's."""
    path = tmp_path_factory.mktemp("masked") / "file.tflite"
    edge.export_tflite(model, path, precision=request.param, representative_data=rows)
    return model.predict(rows, verbose=0), edge.load_tflite(path).predict(rows)


@pytest.fixture(scope="module")
def trained(model, rows, tmp_path_factory):
    """By name, the plain model's answers, the quantised one's and its int8 file's."""
    path = tmp_path_factory.mktemp("masked") / "file.tflite"
    small = edge.quantize_aware(model, calibration_data=rows)
    edge.export_tflite(small, path, precision="int8")
    found = small.predict(rows, verbose=0), edge.load_tflite(path).predict(rows)
    return model.predict(rows, verbose=0), *found


# Far numbers for all places, each beside scores of its own: none helps another.
FILLS = {
    "full_like": lambda x: ops.full_like(x, -1e9),
    "less": lambda x: ops.zeros_like(x) - 1e9,
    "infinite": lambda x: ops.full_like(x, -np.inf),
}


@pytest.mark.parametrize("with_rows", [True, False])
def test_numbers_for_all_places_are_as_far_as_the_choice_needs(with_rows, tmp_path):
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((6, 6), name="x"), keras.Input((1, 6), name="mask")
    scores = {name: (2 + number) * x / 4 for number, name in enumerate(FILLS)}
    made = {name: ops.where(mask > 0, FILLS[name](one), one) for name, one in scores.items()}
    model = keras.Model([x, mask], {name: ops.softmax(one) for name, one in made.items()})
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(64, 6, 6)), rng.random((64, 1, 6)) < 0.3]
    data = [one.astype("float32") for one in data]
    small = edge.quantize_aware(model, calibration_data=data)
    if not with_rows:
        small.calibration_rows = None
    path = tmp_path / "file.tflite"
    edge.export_tflite(small, path, precision="int8")
    expected, found = small.predict(data, verbose=0), edge.load_tflite(path).predict(data)
    for name in FILLS:
        # In steps of 39: 0.66.
        assert correlation(found[name], expected[name]) > 0.999, name


WITH_ROWS_WRONG = {
    "full": lambda x: ops.full((6, 6), -1e9),
    "ones": lambda x: ops.ones_like(x) * -1e9,
    "repeated": lambda x: ops.repeat(ops.full_like(x[..., :1], -1e9), 6, axis=-1),
    "negative": lambda x: -ops.full_like(x, 1e9),
}


@pytest.mark.parametrize("far", WITH_ROWS_WRONG)
def test_a_file_that_rows_made_wrong_is_made_of_the_models_ranges(far, tmp_path):
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((6, 8), name="x"), keras.Input((1, 6), name="mask")
    scores = ops.matmul(layers.Dense(8)(x), ops.transpose(layers.Dense(8)(x), (0, 2, 1)))
    masked = ops.where(mask < 0.5, scores, WITH_ROWS_WRONG[far](scores))
    attended = ops.matmul(layers.Softmax()(masked), layers.Dense(8)(x))
    model = keras.Model([x, mask], layers.Dense(3)(layers.Flatten()(attended)))
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(64, 6, 8)), rng.random((64, 1, 6)) < 0.3]
    data = [one.astype("float32") for one in data]
    small = edge.quantize_aware(model, calibration_data=data)
    path = tmp_path / "file.tflite"
    edge.export_tflite(small, path, precision="int8")
    expected, found = small.predict(data, verbose=0), edge.load_tflite(path).predict(data)
    assert correlation(found, expected) > 0.998


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_integers_follows(answers, name):
    expected, found = answers
    # Where a billion is in the scores' range: 0.4 to 0.92.
    assert correlation(found[name], expected[name]) > 0.998


@pytest.mark.parametrize("name", KINDS)
def test_a_quantised_model_keeps_its_scores_and_its_file_follows(trained, name):
    plain, small, found = trained
    assert correlation(small[name], plain[name]) > 0.998
    assert correlation(found[name], small[name]) > 0.998


def test_a_mask_that_is_given_to_the_model(tmp_path):
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((6, 8)), keras.Input((1, 6))
    model = keras.Model([x, mask], attention(x, similar(x) + mask))
    rng = np.random.default_rng(0)
    hidden = np.where(np.arange(6) >= rng.integers(3, 7, (64, 1)), -1e9, 0.0)[:, None]
    data = [rng.normal(size=(64, 6, 8)).astype("float32"), hidden.astype("float32")]
    small = edge.quantize_aware(model, calibration_data=data)
    path = tmp_path / "file.tflite"
    edge.export_tflite(small, path, precision="int8")
    plain, quantised = model.predict(data, verbose=0), small.predict(data, verbose=0)
    assert correlation(quantised, plain) > 0.998
    assert correlation(edge.load_tflite(path).predict(data), quantised) > 0.998


def halves(scores):
    return ops.concatenate(list(map(ops.softmax, ops.split(scores, 2, axis=1))), axis=1)


# What stands between masked scores and their softmax, by name.
BETWEEN = {
    "minimum": lambda x: ops.softmax(ops.minimum(x, 50.0)),
    "clip": lambda x: ops.softmax(ops.clip(x, -1e4, 1e4)),
    "flip": lambda x: ops.softmax(ops.flip(x, axis=-1)),
    "split": halves,
    "stack": lambda x: ops.softmax(ops.stack([x, -x], axis=1))[:, 0],
    "pad": lambda x: ops.softmax(ops.pad(x, ((0, 0), (0, 0), (0, 1)), constant_values=-1e9)),
    "take": lambda x: ops.softmax(ops.take(x, [2, 1, 0], axis=1)),
    "divided": lambda x: ops.softmax(x / 8.0),
    "rescaled": lambda x: ops.softmax(layers.Rescaling(0.125)(x)),
    "flip, divided": lambda x: ops.softmax(ops.flip(x, axis=-1) / 8.0),
    "less the largest": lambda x: ops.softmax(x - ops.max(x, axis=-1, keepdims=True)),
}


def test_masked_scores_keep_their_range_past_what_hands_them_on(tmp_path):
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((6, 8)), keras.Input((1, 6))
    scores, far = similar(layers.Dense(8)(x)), mask * -1e9
    model = keras.Model([x, mask], {name: make(scores + far) for name, make in BETWEEN.items()})
    rng = np.random.default_rng(0)
    hidden = np.float32(np.arange(6) >= rng.integers(3, 7, (64, 1)))[:, None]
    data = [rng.normal(size=(64, 6, 8)).astype("float32"), hidden]
    small = edge.quantize_aware(model, calibration_data=data)
    path = tmp_path / "file.tflite"
    edge.export_tflite(small, path, precision="int8")
    plain, quantised = model.predict(data, verbose=0), small.predict(data, verbose=0)
    found = edge.load_tflite(path).predict(data)
    for name in BETWEEN:
        # Where a billion is in the scores' range: 0.6; where a mask's place is scaled down: 0.95.
        assert correlation(quantised[name], plain[name]) > 0.998, name
        assert correlation(found[name], quantised[name]) > 0.998, name


def test_an_offset_behind_masked_scores_is_not_masked_by_them(tmp_path):
    x, mask = keras.Input((6, 4)), keras.Input((1, 6))
    scores = layers.Rescaling(0.125, offset=1.0)(similar(x) + mask * -1e9)
    model = keras.Model([x, mask], ops.softmax(scores))
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(16, 6, 4)).astype("float32"), np.zeros((16, 1, 6), "float32")]
    path = tmp_path / "file.tflite"
    edge.export_tflite(model, path, precision="int8", representative_data=rows)
    found = edge.load_tflite(path).predict(rows)
    assert correlation(found, model.predict(rows, verbose=0)) > 0.9


@pytest.mark.parametrize("method", ["minmax", "percentile", "kl", "mse"])
def test_training_and_every_calibration_find_the_scores_range(method, rows):
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((6, 6)), keras.Input((6, 6))
    model = keras.Model([x, mask], ops.softmax(x + mask * -1e9))
    rng = np.random.default_rng(0)
    hidden = (rng.random((64, 6, 6)) < 0.4).astype("float32")
    data = [rng.uniform(-2, 3, (64, 6, 6)).astype("float32"), hidden]
    small = edge.quantize_aware(model)
    # One batch as it is, a place 12 below the lowest for a mask.
    low = float(data[0][hidden == 0].min()) - 12.0
    if method == "minmax":
        small(data, training=True)
    edge.calibrate(small, data, method)
    (found,) = next(one.output_ranges for one in small.layers if one.name.startswith("add"))
    np.testing.assert_allclose(found.bounds(), (low, data[0][hidden == 0].max()), rtol=1e-4)


def test_only_what_is_compared_and_masked_counts():
    x, bias, mask = (keras.Input((4,), name=name) for name in ("x", "bias", "mask"))
    far, score = mask * -1e9, layers.Dense(4)(x)
    with_bias = layers.Add(name="with_bias")([layers.Dense(4)(bias), far])
    used = layers.Add(name="used")([score, mask * -1e5])
    sums = [
        layers.Add(name="scores")([score, far]),
        layers.Add(name="both")([layers.Dense(4)(x), with_bias]),
        layers.Add(name="unmasked")([layers.Dense(4)(x), layers.Dense(4)(x)]),
    ]
    # What is returned, and what is computed with, keeps all of its numbers.
    returned = layers.Add(name="returned")([score, mask * -1e9])
    answers = [*map(ops.softmax, sums), layers.Dense(2)(used), returned, ops.softmax(returned)]
    graph = trace(keras.Model([x, bias, mask], answers))
    kinds = kinds_of(graph)
    found = {step.path: kinds.get(id(step.outputs[0])) for step in graph.steps}
    expected = {"scores": SCORES, "both": SCORES, "with_bias": MASK}
    plain = dict.fromkeys(("unmasked", "used", "returned"))
    assert {name: found[name] for name in (*expected, *plain)} == expected | plain


def test_scores_too_coarse_for_a_softmax_are_told(rows, tmp_path):
    keras.utils.set_random_seed(1)
    x = keras.Input((6, 4))
    far = ops.where(ops.abs(similar(x)) < 0.3, 1e9, -1e9)
    model = keras.Model(x, layers.Flatten()(attention(x, ops.minimum(similar(x), far))))
    data = np.random.default_rng(0).normal(size=(32, 6, 4)).astype("float32")
    with pytest.warns(UserWarning, match=r"oftmax' reads scores in steps of [0-9.]+e\+06"):
        edge.export_tflite(model, tmp_path / "m.tflite", precision="int8", representative_data=data)
