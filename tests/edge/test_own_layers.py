import keras
import numpy as np
import pytest
import users_layers

from keras_distill import edge, transfer
from keras_distill.edge import legacy
from keras_distill.edge.interface import in_float32

layers = keras.layers


@pytest.fixture(params=list(users_layers.MODELS))
def model(request):
    return users_layers.MODELS[request.param]()


def test_copies_answer_as_the_model_does(model):
    x = users_layers.batch_for(model)
    expected = np.asarray(model(x, training=False))
    assert len(edge.inspect(model).rows) >= 2
    assert transfer.blocks(model)
    for copy in (
        edge.prune(model, 0.5, begin_step=10),
        edge.strip(edge.prune(model, 0.5, begin_step=10)),
        transfer.submodel(model, lambda _: True)[0],
    ):
        np.testing.assert_array_equal(copy(x, training=False), expected)


def test_a_tf_keras_clone_answers_as_the_model_does():
    # TFMOT begins with such a clone.
    for make in (users_layers.MODELS["transformer"], users_layers.MODELS["lambda_of_a_global"]):
        model = make()
        x = users_layers.batch_for(model)
        twin = edge.to_legacy(model)
        clone = legacy.tf_keras().models.clone_model(twin)
        clone.set_weights(twin.get_weights())
        np.testing.assert_allclose(clone(x), model(x, training=False), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def quantised():
    """A pruned and quantised Transformer block, calibrated; and what it was made of."""
    model = users_layers.MODELS["transformer"]()
    x = users_layers.batch_for(model)
    return model, edge.quantize_aware(edge.prune(model, 0.5), calibration_data=x), x


def test_kernels_inside_are_pruned_clustered_and_quantised(quantised):
    model, small, x = quantised
    block = small.layers[3].layer
    zeros = [float(np.mean(np.asarray(one.kernel) == 0)) for one in block.ffn.layers]
    assert zeros == [0.5, 0.5]
    clustered = edge.strip(edge.cluster(model, 4))
    kernel = np.asarray(clustered.layers[2].ffn.layers[0].kernel)
    assert len(np.unique(kernel)) == 4
    found, pruned = small(x, training=False), edge.prune(model, 0.5)(x, training=False)
    assert np.corrcoef(np.ravel(found), np.ravel(pruned))[0, 1] > 0.99


def test_a_saved_one_loads(quantised, tmp_path):
    _, small, x = quantised
    small.save(tmp_path / "small.keras")
    own = {"TransformerBlock": users_layers.TransformerBlock}
    loaded = keras.saving.load_model(tmp_path / "small.keras", custom_objects=own)
    expected = small(x, training=False)
    np.testing.assert_array_equal(loaded(x, training=False), expected)
    again = edge.strip(loaded)
    np.testing.assert_array_equal(again(x), edge.strip(small)(x))


def test_a_saved_twin_of_tf_keras_loads(tmp_path):
    model = users_layers.MODELS["transformer"]()
    x = users_layers.batch_for(model)
    edge.to_legacy(model).save(tmp_path / "twin.keras")
    own = {"TransformerBlock": users_layers.TransformerBlock}
    with keras.saving.custom_object_scope(own):
        loaded = legacy.tf_keras().models.load_model(tmp_path / "twin.keras", safe_mode=False)
    np.testing.assert_allclose(loaded(x), model(x, training=False), rtol=1e-5, atol=1e-5)


@pytest.fixture
def mixed():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("kind", ["transformer", "local_class", "nested", "time_distributed"])
def test_half_precision_is_taken_back_inside_too(kind, mixed):
    model = users_layers.MODELS[kind]()
    x = users_layers.batch_for(model)
    copy = in_float32(model)
    bare = (keras.Model, layers.InputLayer)
    parts = [part for part in copy._flatten_layers() if not isinstance(part, bare)]
    assert {part.name for part in parts if part.compute_dtype != "float32"} == set()
    np.testing.assert_allclose(copy(x), model(x, training=False), atol=0.1)
    assert keras.config.dtype_policy().name == "mixed_float16"


def test_a_function_keeps_its_name():
    model = users_layers.MODELS["lambda_of_a_global"]()
    edge.prune(model, 0.5)
    assert model.layers[2].function.__name__ == "<lambda>"


def test_unnamed_layers_inside_are_partners_by_their_order():
    teacher = users_layers.MODELS["list_and_dict"]()
    layers.Dense(1)  # Keras counts on.
    student = users_layers.MODELS["list_and_dict"]()
    for variable in student.variables:
        variable.assign(0 * variable)
    for one in (teacher, student):
        one.layers[2].name = "several"
    x = users_layers.batch_for(teacher)
    _, report = transfer.copy_layers(teacher, student)
    assert not report.left
    np.testing.assert_array_equal(student(x), teacher(x))


def test_names_that_a_user_gave_inside_are_kept_to():
    class Named(layers.Layer):
        def __init__(self, names, **kwargs):
            super().__init__(**kwargs)
            self.parts = [layers.Dense(8, name=name) for name in names]

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return x

    teacher = users_layers.chain(Named(["dense_1", "dense_2"], name="own"))
    student = users_layers.chain(Named(["dense_2"], name="own"))
    transfer.copy_layers(teacher, student)
    found, expected = (one.get_layer("own").parts[-1].kernel for one in (student, teacher))
    np.testing.assert_array_equal(found, expected)


def test_a_layer_that_cannot_be_made_again_says_so():
    class Lost(layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(units)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {"name": self.name}

    model = users_layers.chain(Lost(8, name="lost"))
    with pytest.raises(ValueError, match=r"'lost' .*Lost\) can't be copied .*get_config"):
        edge.prune(model, 0.5)
