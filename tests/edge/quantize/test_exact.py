"""Ids, categories and marks are rounded by no range, and what else reads them has its own."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize import layout
from keras_distill.edge.quantize.activations import SIGNED_UNIT
from keras_distill.edge.quantize.aware import quantize_aware
from keras_distill.edge.quantize.ranges import Range
from keras_distill.litert import converter

layers, ops = keras.layers, keras.ops
VOCABULARY = 5000


def embedding(**options):
    spread = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    return layers.Embedding(VOCABULARY, 4, embeddings_initializer=spread, **options)


@keras.saving.register_keras_serializable("tests")
class Tokens(layers.Layer):
    """A layer of the user's own that looks its input up inside."""

    def __init__(self, **options):
        super().__init__(**options)
        self.table = embedding()

    def build(self, shape):
        self.table.build(shape)
        self.built = True

    def call(self, x):
        return 2.0 * self.table(ops.reshape(x, (-1, 20)))

    def compute_output_shape(self, shape):
        return (*shape, 4)


def by_index(x):
    return ops.take(np.arange(4.0 * VOCABULARY).reshape(-1, 4) % 7, ops.cast(x, "int32"), axis=0)


READERS = {
    "Embedding": lambda x: embedding()(x),
    "moved": lambda x: embedding()(layers.Flatten()(layers.Reshape((4, 5))(x))),
    "computed": lambda x: embedding()(ops.floor(x / 7.0) + 3.0),
    "take": by_index,
    "own layer": lambda x: Tokens()(x),
    "TimeDistributed": lambda x: layers.TimeDistributed(embedding())(layers.Reshape((4, 5))(x)),
    "Lambda": lambda x: layers.Lambda(by_index, output_shape=(20, 4))(x),
    "joined": lambda x: embedding()(layers.Concatenate()([x[:, 10:], x[:, :10]])),
    "sliced": lambda x: layers.Add()(
        [layers.Dense(4)(x[:, 10:]), layers.GlobalAveragePooling1D()(embedding()(x[:, :10]))]
    ),
    "read twice": lambda x: layers.Add()(
        [
            layers.Dense(4)(layers.Rescaling(1e-3)(x)),
            layers.GlobalAveragePooling1D()(embedding()(x)),
        ]
    ),
}


def ids(rows=64):
    return np.random.default_rng(0).integers(0, VOCABULARY, (rows, 20)).astype("float32")


def correlation(one, other):
    return np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]


def model_of(reader):
    keras.utils.set_random_seed(0)
    x = keras.Input((20,), name="ids")
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(reader(x))))


@pytest.mark.parametrize("kind", READERS)
def test_ids_in_a_real_valued_input_stay_what_they_are(kind):
    model = model_of(READERS[kind])
    twin = quantize_aware(model, calibration_data=ids())
    assert correlation(twin(ids()), model(ids())) > 0.99


def test_what_reads_numbers_beside_ids_has_a_range_of_its_own():
    twin = quantize_aware(model_of(READERS["read twice"]), calibration_data=ids())
    scale = next(layer for layer in twin.layers if "rescaling" in layer.name)
    (low, high), *_ = [one.bounds() for one in scale.input_ranges]
    assert (low, high) == (0.0, ids().max())
    steps = np.asarray(scale.input_ranges[0](ids())) / (high / 255)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def chain(*parts, shape=(4, 3)):
    return layout.plan(Analysis(keras.Sequential([keras.Input(shape), *parts])))


@pytest.mark.parametrize("mark", [-1.0, 7.0])
def test_a_mask_finds_its_mark(mark):
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 3))
    hidden = layers.Dense(4, activation="relu")(layers.Masking(mark)(x))
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(hidden)))
    rows = np.random.default_rng(0).normal(size=(32, 6, 3)).astype("float32")
    rows[:, 3:] = mark
    twin = quantize_aware(model, calibration_data=rows)
    assert correlation(twin(rows), model(rows)) > 0.999


def test_class_numbers_that_a_model_returns_are_not_rounded():
    x = keras.Input((12,))
    numbers = ops.cast(ops.argmax(layers.Dense(10)(x), axis=-1), "float32")
    rows = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
    twin = quantize_aware(keras.Model(x, ops.reshape(numbers, (-1, 1))), calibration_data=rows)
    found = np.unique(twin(rows))
    assert len(found) > 5
    np.testing.assert_array_equal(found, np.round(found))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Discretization(bin_boundaries=[18.0, 35.0, 60.0], output_mode="one_hot"),
        layers.CategoryEncoding(90, output_mode="multi_hot"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_categories_fall_into_their_bins_and_their_marks_are_one(layer):
    ages = np.random.default_rng(0).uniform(0, 89, (256, 1)).astype("float32")
    model = keras.Sequential([keras.Input((1,)), layer])
    twin = quantize_aware(model, calibration_data=ages)
    np.testing.assert_array_equal(twin(ages), model(ages))


def gru(x, **options):
    return layers.GRU(4, name="gru", **options)(x, initial_state=layers.Dense(4)(x[:, 0]))


def test_states_that_are_given_are_not_bound_by_tanh():
    x = keras.Input((3, 2))
    found = layout.plan(Analysis(keras.Model(x, gru(x))))
    assert found["gru"].outputs == (True,)
    assert chain(layers.GRU(4, name="gru"))["gru"].outputs == (SIGNED_UNIT,)


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Dense):
    def call(self, x):
        return 5.0 * super().call(x)


def test_a_layer_of_the_users_own_is_not_bound_by_its_activation():
    assert chain(Scaled(4, activation="tanh", name="own"))["own"].outputs == (True,)
    assert chain(layers.Dense(4, activation="sigmoid", name="own"))["own"].outputs != (True,)


@pytest.mark.parametrize(
    "goes_past",
    [
        lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]], constant_values=9.0),
        lambda x: ops.max(x, axis=1, initial=9.0),
        layers.Resizing(6, 6, interpolation="lanczos3"),
        layers.Resizing(6, 5, pad_to_aspect_ratio=True, fill_value=9.0),
    ],
    ids=["pad", "max", "lanczos", "fill"],
)
def test_what_adds_numbers_has_a_range_of_its_own(goes_past):
    x = keras.Input((4, 4, 3))
    (found,) = layout.plan(Analysis(keras.Model(x, goes_past(x)))).values()
    assert found.outputs == (True,)


@pytest.mark.parametrize(
    "layer", [layers.RandomFlip(), layers.RandomZoom(0.2), layers.RandomBrightness(0.5)]
)
def test_augmentation_has_no_range(layer):
    twin = quantize_aware(keras.Sequential([keras.Input((8, 8, 3)), layer, layers.Conv2D(2, 3)]))
    ranges = [one for one in twin._flatten_layers() if isinstance(one, Range)]
    assert len(ranges) == 2  # The input's and the convolution's.


def test_files_read_what_the_twin_reads(tmp_path):
    """One model with ids moved about, sliced beside numbers, joined and returned."""
    keras.utils.set_random_seed(0)
    x = keras.Input((20,), name="ids")
    words = layers.Flatten()(embedding()(layers.Reshape((2, 5))(x[:, :10])))
    hidden = layers.Concatenate()([layers.Dense(4)(x[:, 10:]), words, x[:, :2] * 1e-3])
    scores = layers.Dense(5, name="scores")(hidden)
    model = keras.Model(x, [scores, ops.cast(ops.top_k(scores, 1)[1], "float32")])
    rows = ids()
    rows[:, 10:] = np.random.default_rng(1).normal(size=(64, 10))
    twin = quantize_aware(model, calibration_data=rows)
    answers = [np.asarray(y) for y in twin(rows)]
    assert correlation(answers[0], model(rows)[0]) > 0.99
    for source, options in ((twin, {}), (model, {"representative_data": rows})):
        export = edge.export_tflite(source, tmp_path / "f.tflite", precision="int8", **options)
        found = [*edge.load_tflite(export).predict(rows).values()]
        assert correlation(found[0], answers[0]) > 0.99
        np.testing.assert_array_equal(found[1], np.round(found[1]))


def test_ids_that_are_computed_are_right_without_training(tmp_path):
    model = model_of(READERS["computed"])
    options = {"precision": "int8", "representative_data": ids()}
    with pytest.raises(ValueError, match=r"the inputs \['ids'\] are ids.*int32"):
        edge.export_tflite(model, tmp_path / "no.tflite", input_type="int8", **options)
    export = edge.export_tflite(model, tmp_path / "f.tflite", **options)
    assert correlation(edge.load_tflite(export).predict(ids()), model(ids())) > 0.99
    # Said before, and by the file.
    in_float = {row.path for row in edge.inspect(model).rows if row.quantisable == "float"}
    assert {path.rstrip("_0123456789") for path in in_float} == {"true_divide", "floor", "add"}
    assert "FLOOR" in export.float_ops


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_what_rounds_computed_ids_is_said_by_name(precision, tmp_path, monkeypatch):
    x = keras.Input((20,), name="ids")
    words = embedding()(ops.floor(x / 7.0))
    hidden = layers.GRU(3, name="gru")(words) if precision == "int8" else layers.Flatten()(words)
    model = keras.Model(x, layers.Dense(2)(hidden))
    monkeypatch.setattr(converter, "convert", refuse)
    said = r"floor.*round.*" + ("gru" if precision == "int8" else "int16x8") + ".*int32"
    with pytest.warns(UserWarning, match=said), pytest.raises(InterruptedError):
        edge.export_tflite(
            model, tmp_path / "f.tflite", precision=precision, representative_data=ids()
        )


def refuse(*arguments, **options):
    raise InterruptedError


def binned(x, boundaries):
    made = layers.Discretization(boundaries, output_mode="one_hot")(x)
    if made.shape[-1] == 1:
        # The oldest Keras does not know its shape.
        numbers = layers.Discretization(boundaries, dtype="float32")(x)
        made = layers.CategoryEncoding(len(boundaries) + 1, "one_hot")(numbers)
    return made


def test_one_hot_categories_are_ones_and_zeros_in_the_file(tmp_path):
    """LiteRT's own ONE_HOT has zeros of 0.502 at int8."""
    keras.utils.set_random_seed(1)
    age, kind = keras.Input((1,), name="age"), keras.Input((1,), dtype="int32", name="kind")
    hot = {
        "bins": binned(age, [18.0, 35.0, 60.0]),
        "kinds": layers.CategoryEncoding(6, "one_hot")(kind),
        "first": ops.one_hot(kind, 6),
    }
    scaled = layers.Normalization(mean=[40.0], variance=[400.0])(age)
    joined = layers.Concatenate()([scaled, hot["bins"], hot["kinds"]])
    model = keras.Model([age, kind], {**hot, "score": layers.Dense(2)(joined)})
    rng = np.random.default_rng(0)
    x = [rng.uniform(0, 90, (64, 1)).astype("float32"), rng.integers(0, 6, (64, 1), "int32")]
    expected = model(x)
    twin = quantize_aware(model, calibration_data=x)
    for source, options in ((twin, {}), (model, {"representative_data": x})):
        export = edge.export_tflite(source, tmp_path / "f.tflite", precision="int8", **options)
        found = edge.load_tflite(export).predict({"age": x[0], "kind": x[1]})
        for name in hot:
            np.testing.assert_allclose(found[name], expected[name], atol=0.005)
        assert correlation(found["score"], expected["score"]) > 0.99
