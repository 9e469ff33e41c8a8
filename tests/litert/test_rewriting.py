"""Files that are opened, changed and written again."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.litert.rewriting import rewritten, short_names

layers = keras.layers


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="last"),
        ]
    )
    path = tmp_path_factory.mktemp("files") / "model.tflite"
    return edge.export_tflite(model, path)


def tensors_of(content):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    held = [model.buffers[tensor.buffer].data is not None for tensor in graph.tensors]
    return list(zip(graph.tensors, held, strict=True))


def test_constants_have_short_names_and_data_those_of_their_layers(export):
    tensors = tensors_of(export.path.read_bytes())
    constants = [tensor.name for tensor, is_held in tensors if is_held]
    assert len(constants) >= 4
    assert not any(b";" in name or b"/" in name for name in constants)
    moving = [tensor.name for tensor, is_held in tensors if not is_held]
    assert any(b"relu" in name for name in moving)


def test_no_two_tensors_have_one_name(export):
    """litert-quantizer refuses a file in which they have."""

    def as_in_deep_networks(schema, model):
        for number, tensor in enumerate(model.subgraphs[0].tensors):
            tensor.name = b"network/norm_%d/batchnorm/mul_1;more" % number

    content = rewritten(export.path.read_bytes(), [as_in_deep_networks, short_names])
    names = [tensor.name for tensor, is_held in tensors_of(content) if is_held]
    counted = [b"mul_1", *(b"mul_1_%d" % n for n in range(1, len(names)))]
    assert names == counted


def test_the_converters_record_of_itself_is_left_out_and_no_other(export):
    from ai_edge_litert import schema_py_generated as schema

    content = export.path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    assert [one.name for one in model.metadata] == [b"min_runtime_version"]
    for one in model.metadata:
        assert model.buffers[one.buffer].data is not None
    assert b"CONVERSION" not in content


def test_nothing_else_changes(export, tmp_path):
    content = export.path.read_bytes()
    (tmp_path / "again.tflite").write_bytes(rewritten(content, []))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype("float32")
    again = edge.load_tflite(tmp_path / "again.tflite")
    np.testing.assert_array_equal(again.predict(x), edge.load_tflite(export.path).predict(x))
    assert (again.inputs, again.outputs) == (export.inputs, export.outputs)


@pytest.mark.parametrize("names", [("zulu", "alpha"), ("alpha", "zulu")])
def test_inputs_in_another_order_than_the_converters(names, tmp_path):
    late, early = keras.Input((3,), name="zulu"), keras.Input((3,), name="alpha")
    # The first operator reads just what the graph does, in this order or the other.
    first, second = (late, early) if names[0] == "zulu" else (early, late)
    model = keras.Model([late, early], layers.Subtract(name="apart")([first, second]))
    export = edge.export_tflite(model, tmp_path / "two.tflite")
    assert [info.name for info in export.inputs] == ["zulu", "alpha"]
    given = {"zulu": np.float32([[1, 2, 3]]), "alpha": np.float32([[10, 20, 30]])}
    answers = edge.load_tflite(export.path).predict(given)
    np.testing.assert_array_equal(answers, given[names[0]] - given[names[1]])
