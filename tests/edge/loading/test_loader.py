"""What either Keras generation saved loads as a Keras 3 model of the same answers."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from google.protobuf import message
from tensorflow.core.protobuf import saved_model_pb2
from tf_keras.protobuf import saved_metadata_pb2

import keras_distill as kd
from keras_distill.edge.bridge import LegacyLayer

layers = tf_keras.layers


@tf_keras.saving.register_keras_serializable("old_files")
class Scaled(layers.Layer):
    """A registered layer with a weight."""

    def build(self, shape):
        self.factor = self.add_weight("factor", initializer=tf_keras.initializers.Constant(3.0))

    def call(self, x):
        return self.factor * x


class Doubled(layers.Layer):
    """A layer that nobody registered."""

    def call(self, x):
        return 2.0 * x


class Doubled3(keras.layers.Layer):
    """The same layer of Keras 3."""

    def call(self, x):
        return 2.0 * x


def spread(model, seed=0):
    """Gives every weight another value: statistics of 0 and 1 would hide one that is left out."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.3, 1.2, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def separable():
    x = tf_keras.Input((6, 6, 2), name="image")
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Activation("relu6")(y)
    return spread(tf_keras.Model(x, layers.Dense(3, "softmax")(layers.Flatten()(y)), name="old"))


def trained():
    model = separable()
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8, 6, 6, 2)).astype("float32")
    model.fit(x, rng.integers(0, 3, 8), verbose=0)
    return model


def nested():
    inner = tf_keras.Sequential(
        [tf_keras.Input((4,)), layers.Dense(4, "tanh"), layers.BatchNormalization()], name="inner"
    )
    a, b = tf_keras.Input((4,), name="a"), tf_keras.Input((4,), name="b")
    return spread(tf_keras.Model([a, b], layers.Add()([inner(a), inner(b)])))


def adapted():
    norm = layers.Normalization()
    norm.adapt(np.array([[1.0, 2.0], [5.0, 10.0]], "float32"))
    return tf_keras.Sequential([tf_keras.Input((2,)), norm, layers.Dense(2)])


def scaled():
    return tf_keras.Sequential([tf_keras.Input((2,)), Scaled(), layers.Dense(2)])


MODELS = {
    "separable": separable,
    "trained": trained,
    "nested": nested,
    "adapted": adapted,
    "scaled": scaled,
}
PLACES = ("old.h5", "old.hdf5", "old.keras", "folder")


def saved(model, path):
    model.save(path, save_format="tf") if not path.suffix else model.save(path)
    return path


def inputs_of(model, rows=5):
    rng = np.random.default_rng(7)
    found = [rng.normal(size=(rows, *x.shape[1:])).astype("float32") for x in model.inputs]
    return found if len(found) > 1 else found[0]


def as_before_2_5(folder):
    """Puts what is noted of the layers where older TensorFlows put it: into the graph's file."""
    noted = folder / "keras_metadata.pb"
    graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    nodes = graph.meta_graphs[0].object_graph_def.nodes
    for node in saved_metadata_pb2.SavedMetadata.FromString(noted.read_bytes()).nodes:
        nodes[node.node_id].user_object.metadata = node.metadata
    (folder / "saved_model.pb").write_bytes(graph.SerializeToString())
    noted.unlink()
    return folder


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_older_keras_answers_as_it_did(name, place, tmp_path):
    model = MODELS[name]()
    loaded = kd.load_model(saved(model, tmp_path / place))
    assert isinstance(loaded, keras.Model)
    x = inputs_of(model)
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-5)
    wanted = [layer.name for layer in model.layers]
    assert {layer.name for layer in loaded.layers} >= {*wanted} - {x.name for x in model.inputs}


def test_a_saved_model_from_before_tensorflow_2_5(tmp_path):
    model = trained()
    folder = as_before_2_5(saved(model, tmp_path / "folder"))
    x = inputs_of(model)
    np.testing.assert_allclose(kd.load_model(folder)(x), model(x), atol=1e-5)


def test_what_keras_3_refuses_is_read_by_the_older_one(tmp_path, said):
    path = saved(trained(), tmp_path / "old.h5")
    with pytest.raises(Exception, match="groups"):
        keras.saving.load_model(path, compile=False)
    kd.load_model(path)
    (line,) = said()
    for words in (str(path), f"legacy .h5 of Keras {tf_keras.__version__}", "read by tf_keras",
                  "brought over to Keras 3", "left behind: the optimiser's state"):  # fmt: skip
        assert words in line


@pytest.fixture
def said():
    """The lines that the library said since."""
    lines = []

    class Noting(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Noting()
    logging.getLogger("keras_distill").addHandler(handler)
    yield lambda: lines
    logging.getLogger("keras_distill").removeHandler(handler)


def test_keras_3_reads_its_own(tmp_path, said):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x = np.ones((2, 3), "float32")
    for name in ("new.keras", "new.h5"):
        model.save(tmp_path / name)
        np.testing.assert_array_equal(kd.load_model(tmp_path / name)(x), model(x))
    # Nothing is to be said of the plain way.
    (line,) = said()
    assert f"a legacy .h5 of Keras {keras.__version__}, read by Keras" in line


def test_a_distillers_file_gives_its_student(tmp_path):
    student, teacher = (
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="logits")], name=name)
        for name in ("student", "teacher")
    )
    kd.Distiller(student, teacher).save(tmp_path / "d.keras")
    assert kd.load_model(tmp_path / "d.keras").name == "student"


def test_a_layer_of_ones_own_stays_what_it_is(tmp_path):
    loaded = kd.load_model(saved(scaled(), tmp_path / "folder"))
    assert isinstance(loaded.layers[0], LegacyLayer)


@pytest.mark.parametrize("place", PLACES)
def test_a_class_that_nobody_registered_is_refused_or_given(place, tmp_path):
    model = tf_keras.Sequential([tf_keras.Input((2,)), Doubled()])
    path = saved(model, tmp_path / place)
    with pytest.raises(ValueError, match=r"the class .*Doubled at /.*register"):
        kd.load_model(path)
    x = np.ones((2, 2), "float32")
    given = kd.load_model(path, custom_objects={"Doubled": Doubled})
    np.testing.assert_array_equal(given(x), 2 * x)


def test_a_layer_rewritten_for_keras_3_is_taken(tmp_path, said):
    path = saved(tf_keras.Sequential([tf_keras.Input((2,)), Doubled()]), tmp_path / "old.h5")
    model = kd.load_model(path, custom_objects={"Doubled": Doubled3})
    assert type(model.layers[0]) is Doubled3
    assert f"read by Keras {keras.__version__}" in said()[0]


def test_tfmots_wrappers_come_off_and_it_is_said(tmp_path, said):
    prune = kd.edge.legacy.tfmot().sparsity.keras.prune_low_magnitude
    model = tf_keras.Sequential([tf_keras.Input((4,)), prune(layers.Dense(2, name="dense"))])
    loaded = kd.load_model(saved(model, tmp_path / "old.h5"))
    assert [type(layer) for layer in loaded.layers] == [keras.layers.Dense]
    assert "TFMOT's wrappers" in said()[0]


def code(mark):
    """A function that leaves a mark where it is called, as a constant of its own code."""
    return eval(f"lambda x: (open({str(mark)!r}, 'a').close(), x)[1]")


@pytest.mark.parametrize("generation", [keras, tf_keras])
@pytest.mark.parametrize("place", PLACES)
def test_code_in_a_file_is_refused_before_it_runs(generation, place, tmp_path):
    mark = tmp_path / "sprung"
    model = generation.Sequential(
        [generation.Input((2,)), generation.layers.Lambda(code(mark)), generation.layers.Dense(1)]
    )
    if generation is keras and place == "folder":
        pytest.skip("Keras 3 writes no such folder")
    path = saved(model, tmp_path / place)
    mark.unlink()
    with pytest.raises(ValueError, match=r"code|[Ll]ambda"):
        kd.load_model(path)
    assert not mark.exists()


def test_no_function_of_a_saved_model_is_called(tmp_path):
    """A layer's traced call may read and write files; a revived one would."""
    mark = tmp_path / "sprung"

    class Writing(layers.Layer):
        def call(self, x):
            with tf.control_dependencies([tf.io.write_file(str(mark), "ran")]):
                return tf.identity(x)

    path = saved(tf_keras.Sequential([tf_keras.Input((2,)), Writing()]), tmp_path / "folder")
    mark.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"the class .*Writing"):
        kd.load_model(path)
    assert not mark.exists()


class Subclassed(tf_keras.Model):
    """Its layers are in its own Python."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_saved_model_says_the_ways_out(tmp_path):
    model = Subclassed()
    model(np.ones((1, 3), "float32"))
    model.save(tmp_path / "folder", save_format="tf")
    with pytest.raises(ValueError, match=r"subclassed model, Subclassed.*load_weights.*signatures"):
        kd.load_model(tmp_path / "folder")


def functions_alone(folder):
    module = tf.Module()
    module.call = tf.function(lambda x: x, input_signature=[tf.TensorSpec([None, 2])])
    tf.saved_model.save(module, str(folder))


def exported(folder):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).export(folder, verbose=False)


@pytest.mark.parametrize("write", [functions_alone, exported])
def test_a_saved_model_of_functions_is_no_keras_model(write, tmp_path):
    write(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"functions alone.*tf_keras Functional or Sequential"):
        kd.load_model(tmp_path / "folder")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("place", "damage", "words"),
    [
        ("old.h5", cut, "cut off or damaged"),
        ("folder", lambda f: cut(f / "keras_metadata.pb"), "cut off or damaged"),
        ("folder", lambda f: (f / "variables" / "variables.index").unlink(), "whole folder"),
        ("folder", lambda f: cut(f / "variables" / "variables.data-00000-of-00001"), "."),
        ("old.keras", cut, "cut off or damaged"),
    ],
)
def test_a_damaged_file_is_refused(place, damage, words, tmp_path):
    path = saved(separable(), tmp_path / place)
    damage(path)
    with pytest.raises(ValueError, match=f"does not load as a Keras model: .*{words}") as refusal:
        kd.load_model(path)
    assert not isinstance(refusal.value, message.DecodeError)


def test_weights_from_other_files_are_not_read(tmp_path):
    import h5py

    path, other = saved(separable(), tmp_path / "old.h5"), tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.ones((3, 3, 2, 1), "float32")
    with h5py.File(path, "a") as file:
        group = file["model_weights/depthwise/depthwise"]
        del group["depthwise_kernel:0"]
        group["depthwise_kernel:0"] = h5py.ExternalLink(str(other), "secret")
    with pytest.raises(ValueError, match=r"depthwise_kernel:0.*from another file"):
        kd.load_model(path)


def test_what_is_no_path(tmp_path):
    with pytest.raises(TypeError, match=r"Expected the path .*Sequential"):
        kd.load_model(keras.Sequential())
    with pytest.raises(FileNotFoundError, match="there is no model at"):
        kd.load_model(tmp_path / "nowhere.h5")
