"""Lookups: in the file where LiteRT has them, else named in an error, and the model behind."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import edge

WORDS = ["red", "green", "grün"]
ROWS = np.array([["red", "grün"], ["blue", "green"]], dtype=object)


def text(**kwargs):
    return layers.TextVectorization(vocabulary=WORDS, output_sequence_length=3, **kwargs)


def looking_up(layer, shape=(2,), dtype="string"):
    """A model whose lookup has a small network behind it."""
    keras.utils.set_random_seed(0)
    x = keras.Input(shape, dtype=dtype, name="raw")
    y = layer(x)
    y = y if "float" in y.dtype else layers.Flatten()(layers.Embedding(8, 3)(y))
    return keras.Model(x, layers.Dense(2)(y))


def asked(model, rows):
    return np.asarray(model(keras.ops.convert_to_tensor(rows)))


# By a name: the layer, the shape and dtype of its input.
WITHOUT_KERNEL = {
    "text": (lambda: text(name="look"), (1,), "string"),
    "two_unknown": (
        lambda: layers.StringLookup(vocabulary=WORDS, num_oov_indices=2, name="look"),
        (2,),
        "string",
    ),
    "masked": (
        lambda: layers.StringLookup(vocabulary=WORDS, mask_token="", name="look"),
        (2,),
        "string",
    ),
    "counted": (
        lambda: layers.StringLookup(vocabulary=WORDS, output_mode="multi_hot", name="look"),
        (2,),
        "string",
    ),
    "numbers": (lambda: layers.IntegerLookup(vocabulary=[3, 5], name="look"), (2,), "int64"),
    "hashed": (lambda: layers.Hashing(5, name="look"), (2,), "string"),
}


@pytest.fixture(scope="module")
def model():
    return looking_up(layers.StringLookup(vocabulary=WORDS, name="look"))


def test_a_table_of_strings_answers_in_the_file_as_in_keras(model, tmp_path):
    export = edge.export_tflite(model, tmp_path / "words.tflite")
    assert "HASHTABLE_FIND" in export.ops
    for isolated in (True, False):
        runner = edge.load_tflite(export.path, isolated=isolated)
        np.testing.assert_allclose(runner.predict(ROWS), asked(model, ROWS), atol=1e-6)
    assert edge.inspect(model).rows[0].quantisable == "native"


def test_int8_has_the_ranges_of_quantize_aware(model, tmp_path):
    small = edge.quantize_aware(model, calibration_data=ROWS)
    export = edge.export_tflite(small, tmp_path / "words.tflite", precision="int8")
    assert export.float_ops == {}
    expected = asked(model, ROWS)
    found = edge.load_tflite(export.path).predict(ROWS)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_calibration_finds_its_tables_empty(model, tmp_path):
    with pytest.raises(
        edge.ConversionError, match=r"'look'.*without_preprocessing.*quantize_aware"
    ):
        edge.export_tflite(
            model, tmp_path / "no.tflite", precision="int8", representative_data=ROWS
        )


@pytest.mark.parametrize("name", WITHOUT_KERNEL)
def test_what_litert_cannot_look_up_is_named(name, tmp_path):
    layer, shape, dtype = WITHOUT_KERNEL[name]
    model = looking_up(layer(), shape, dtype)
    with pytest.raises(edge.ConversionError, match=r"'look'.*without_preprocessing"):
        edge.export_tflite(model, tmp_path / "no.tflite")
    row = next(row for row in edge.inspect(model).rows if row.path == "look")
    assert row.quantisable == "no kernel"
    assert "without_preprocessing" in row.why


@pytest.mark.parametrize("name", WITHOUT_KERNEL)
def test_the_model_behind_answers_the_same(name):
    layer, shape, dtype = WITHOUT_KERNEL[name]
    model = looking_up(layer(), shape, dtype)
    rows = np.array([["red"], ["x y"]], dtype=object) if name == "text" else ROWS
    if dtype == "int64":
        rows = np.array([[3, 4], [5, 3]])
    core = edge.without_preprocessing(model)
    assert [x.name for x in core.inputs] == ["look"]
    found = core(model.get_layer("look")(rows))
    np.testing.assert_array_equal(found, asked(model, rows))
    ours, theirs = core.get_weights(), model.get_weights()
    assert all(np.array_equal(*pair) for pair in zip(ours, theirs, strict=True))
    # A copy: training it leaves the model as it was.
    core.layers[-1].kernel.assign(core.layers[-1].kernel + 1.0)
    assert not np.array_equal(core.layers[-1].kernel, model.layers[-1].kernel)


def test_several_inputs_and_models_nested_in_it(tmp_path):
    city = keras.Input((1,), dtype="string", name="city")
    code = keras.Input((1,), dtype="int64", name="code")
    size = keras.Input((2,), name="size")
    hot = layers.StringLookup(vocabulary=WORDS, output_mode="one_hot", name="cities")(city)
    known = layers.CategoryEncoding(2, output_mode="one_hot")(
        layers.IntegerLookup(vocabulary=[5], name="codes")(code)
    )
    before = keras.Model([city, code], layers.Concatenate()([hot, known]), name="before")
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, activation="relu"), layers.Dense(3)], name="inner"
    )
    whole = layers.Concatenate(name="whole")([before([city, code]), size])
    model = keras.Model({"city": city, "code": code, "size": size}, {"answer": inner(whole)})
    core = edge.without_preprocessing(model)
    rows = {
        "city": np.array([["red"], ["x"]], dtype=object),
        "code": np.array([[5], [6]]),
        "size": np.ones((2, 2), "float32"),
    }
    given = {
        "cities": before.get_layer("cities")(rows["city"]),
        "codes": before.get_layer("codes")(rows["code"]),
        "size": keras.ops.convert_to_tensor(rows["size"]),
    }
    expected = {name: keras.ops.convert_to_tensor(value) for name, value in rows.items()}
    np.testing.assert_array_equal(core(given)["answer"], model(expected)["answer"])
    assert core.get_layer("inner").count_params() == inner.count_params()
    assert [layer.name for layer in model.layers if layer.name == "inner"] == ["inner"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: keras.Sequential([keras.Input((2,)), layers.Dense(2)]), "no lookups"),
        (lambda: keras.Sequential([keras.Input((1,), dtype="string"), text()]), "nothing but"),
    ],
)
def test_what_has_no_model_behind_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        edge.without_preprocessing(build())
