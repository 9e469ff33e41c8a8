"""What is counted in a file is what is in it, and labels are where others look for them."""

import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_distill import edge, litert
from keras_distill.edge import tflite_file
from keras_distill.litert import converter


def test_tensors_and_ops_are_the_interpreters(exported):
    for export in (exported("int8"), exported("float32")):
        # Without the XNNPACK delegate, which adds tensors and an op of its own.
        from ai_edge_litert.interpreter import OpResolverType

        raw = Interpreter(
            str(export.path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        kinds = [np.dtype(entry["dtype"]).name for entry in raw.get_tensor_details()]
        assert export.dtypes == {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        names = [entry["op_name"] for entry in raw._get_ops_details()]
        assert export.ops == {name: names.count(name) for name in sorted(set(names))}


def test_float_ops_are_those_that_touch_floats(exported):
    assert exported("int8").float_ops == {}
    assert exported("int8").ops["QUANTIZE"] == 1
    assert exported("float32").float_ops == exported("float32").ops
    assert "DEQUANTIZE" not in exported("float16").float_ops


def test_sparsity_is_the_share_of_zero_weights(tmp_path):
    import tensorflow as tf

    kernel = np.random.default_rng(0).uniform(0.5, 1.0, (64, 32)).astype("float32")
    kernel[:48] = 0.0
    weights = tf.Variable(kernel)
    for precision in ("float32", "dynamic_int8"):
        saved = converter.write_saved_model(
            lambda tensors: {"y": tensors["x"] @ weights},
            {"x": tf.TensorSpec((1, 64))},
            tmp_path / precision,
            [weights],
        )
        path = tmp_path / f"{precision}.tflite"
        converter.convert(saved, path, precision=precision)
        content = tflite_file.read_content(path)
        # 48 of 64 rows are zero.
        assert content.sparsity == pytest.approx(0.75)
        assert content.bytes_zipped < 0.8 * content.bytes


def test_labels_are_a_standard_zip_behind_the_model(exported, tmp_path):
    export = exported("float32")
    with zipfile.ZipFile(export.path) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode().split() == list("0123456789")
    assert litert.load_tflite(export.path).labels == tuple("0123456789")


def test_labels_keep_spaces_and_letters(exported, tmp_path):
    path = tmp_path / "plain.tflite"
    path.write_bytes(exported("float32").path.read_bytes())
    bare = path.read_bytes()
    bare = bare[: bare.index(b"PK\x03\x04")]
    path.write_bytes(bare)
    assert edge.load_tflite(path).labels is None
    names = tflite_file.check_labels(["T-shirt/top", "  Ärmel ", "鞄"])
    tflite_file.append_labels(path, names)
    assert edge.load_tflite(path).labels == names
    assert path.read_bytes().startswith(bare)


def test_labels_that_are_no_lines_are_refused():
    for labels in (["a\nb"], [""], ["a\u2028b"]):
        with pytest.raises(ValueError, match="one line"):
            tflite_file.check_labels(labels)
    for labels in ("abc", [1, 2]):
        with pytest.raises(TypeError, match="list of strings"):
            tflite_file.check_labels(labels)
