"""Equal vectors lie once in a file, which says and answers what it did; weights are aligned."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import keras_distill as kd
from keras_distill.litert.rewriting import rewritten

CHANNELS = 96
LAYERS = 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An int8 file with each vector wherever it is named, and as it is exported."""
    import flatbuffers

    folder = tmp_path_factory.mktemp("sharing")
    x = keras.Input((CHANNELS,))
    y = x
    for _ in range(LAYERS):
        y = keras.layers.BatchNormalization(beta_initializer="random_normal")(
            keras.layers.Dense(CHANNELS)(y)
        )
        y = keras.layers.ReLU()(y)
    rows = np.random.default_rng(0).normal(size=(32, CHANNELS)).astype("float32")
    after = kd.edge.export_tflite(
        keras.Model(x, y), folder / "after.tflite", precision="int8", representative_data=rows
    ).path
    builder, before = flatbuffers.Builder(1024), folder / "before.tflite"
    builder.Finish(unpacked(after).Pack(builder), b"TFL3")
    before.write_bytes(bytes(builder.Output()))
    return before, after, rows


def unpacked(path):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))


def assert_equal(ours, theirs):
    """Two unpacked parts of files, field by field."""
    assert type(ours) is type(theirs)
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    elif hasattr(ours, "__dict__"):
        for name, value in vars(ours).items():
            assert_equal(value, getattr(theirs, name))
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_the_zero_points_lie_once(files):
    before, after, _ = files
    # 8 bytes a channel, of a kernel and of a bias each; one of these vectors stays.
    saved = (2 * LAYERS - 1) * 8 * CHANNELS
    assert before.stat().st_size - after.stat().st_size >= saved


def test_the_file_says_what_it_said(files):
    before, after, _ = files
    assert_equal(unpacked(before), unpacked(after))


def test_it_answers_to_the_bit(files):
    before, after, rows = files
    answers = [kd.edge.load_tflite(path).predict(rows) for path in (before, after)]
    np.testing.assert_array_equal(*answers)


def test_weights_lie_where_kernels_want_them(files):
    content = files[1].read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    view = np.frombuffer(content, "uint8")
    sizes = []
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if not buffer.DataIsNone() and buffer.DataLength():
            data = buffer.DataAsNumpy()
            place = data.__array_interface__["data"][0] - view.__array_interface__["data"][0]
            assert place % 16 == 0
            sizes.append(len(data))
    assert sizes.count(CHANNELS * CHANNELS) == LAYERS


def test_a_file_written_again_is_the_same(files):
    content = files[1].read_bytes()
    assert rewritten(content, []) == content
