"""What is no Keras 3 model is named by all that takes models, with the way to one."""

import keras
import numpy as np
import pytest
import tf_keras

import keras_distill as kd


@pytest.fixture(scope="module")
def legacy():
    return tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")])


X = np.zeros((8, 4), "float32")
# They take a tf_keras model as it is.
BOTH = {
    "inspect": lambda wrong, _: kd.edge.inspect(wrong),
    "prune": lambda wrong, _: kd.edge.prune(wrong, 0.5),
    "cluster": lambda wrong, _: kd.edge.cluster(wrong, 4),
    "quantize_aware": lambda wrong, _: kd.edge.quantize_aware(wrong),
    "equalize": lambda wrong, _: kd.edge.equalize(wrong),
    "sparsity_report": lambda wrong, _: kd.edge.sparsity_report(wrong),
    "a teacher": lambda wrong, model: kd.Distiller(model, wrong),
    "copy_layers": lambda wrong, model: kd.transfer.copy_layers(wrong, model),
}
KERAS_3 = {
    "export_tflite": lambda wrong, _: kd.edge.export_tflite(wrong, "never.tflite"),
    "to_legacy": lambda wrong, _: kd.edge.to_legacy(wrong),
    "Distiller": lambda wrong, model: kd.Distiller(wrong, model),
    "MutualDistiller": lambda wrong, model: kd.MutualDistiller([model, wrong]),
    "SelfDistiller": lambda wrong, _: kd.SelfDistiller(wrong),
    "with_exits": lambda wrong, _: kd.with_exits(wrong, ["logits"]),
    "explain": lambda wrong, model: kd.explain(wrong, model, X, verbose=False),
    "shrink": lambda wrong, _: kd.transfer.shrink(wrong, 0.5),
    "submodel": lambda wrong, _: kd.transfer.submodel(wrong, keep=1),
    "blocks": lambda wrong, _: kd.transfer.blocks(wrong),
    "profile": lambda wrong, _: kd.transfer.profile(wrong),
}


@pytest.mark.parametrize("name", KERAS_3)
def test_of_a_tf_keras_model_the_ways_to_keras_3_are_named(name, legacy, model):
    with pytest.raises((TypeError, ValueError)) as caught:
        KERAS_3[name](legacy, model)
    for word in ("tf_keras", "to_keras3", "wrap_legacy"):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", [*BOTH, *KERAS_3])
def test_a_path_is_to_be_loaded(name, model):
    with pytest.raises((TypeError, ValueError), match=r"got (builtins\.)?str\. Load it first"):
        (BOTH | KERAS_3)[name]("student.keras", model)


@pytest.mark.parametrize("wrong", ["student.keras", None])
def test_verify_asks_what_can_answer(wrong, model, tmp_path):
    path = kd.edge.export_tflite(model, tmp_path / "small.tflite").path
    with pytest.raises(TypeError, match="Expected reference to be a Keras model or a callable"):
        kd.edge.verify(path, wrong, X)
    with pytest.raises(TypeError, match="Expected a Keras 3 model"):
        kd.edge.debug(path, wrong, X)
