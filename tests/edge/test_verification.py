"""Verification reads the file's own answers, and says every tolerance that was missed."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import edge


@pytest.fixture(scope="module")
def held_out(digits):
    return digits.x_test, digits.y_test


def constant_model(column):
    """Answers 1 for one class, whatever it sees."""
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(10, kernel_initializer="zeros")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.layers[-1].bias.assign(np.eye(10)[column])
    return model


def test_figures_are_those_of_the_file(exported, digits_model, held_out):
    x, y = held_out
    export = exported("int8")
    report = edge.verify(export, digits_model, held_out, teacher=digits_model)
    file = edge.load_tflite(export.path).predict(x)
    model = digits_model.predict(x, verbose=0)
    accuracy = [np.mean(a.argmax(-1) == y) for a in (file, model)]
    assert report.accuracy_file == pytest.approx(accuracy[0])
    assert report.accuracy_reference == pytest.approx(accuracy[1])
    assert report.drop == pytest.approx(accuracy[1] - accuracy[0])
    assert report.agreement == pytest.approx(np.mean(file.argmax(-1) == model.argmax(-1)))
    assert report.teacher_agreement == report.agreement
    assert report.correlation == pytest.approx(np.corrcoef(file.ravel(), model.ravel())[0, 1])
    assert report.max_abs_error == pytest.approx(np.abs(file - model).max(), rel=1e-4)
    assert report.bytes == export.path.stat().st_size
    assert report.latency_p50_ms > 0
    assert report.passed
    assert report.drop <= 0.01


def test_every_source_of_data_gives_the_same_report(exported, digits_model, held_out):
    x, y = held_out
    sources = [
        (x, keras.utils.to_categorical(y)),
        (x, y[:, None]),
        tf.data.Dataset.from_tensor_slices(held_out).batch(50),
    ]
    first = edge.verify(exported("float32"), digits_model, held_out)
    for source in sources:
        report = edge.verify(str(exported("float32").path), digits_model, source)
        assert report.accuracy_file == pytest.approx(first.accuracy_file)
        assert report.agreement == first.agreement


def test_unlabelled_rows_and_data(exported, digits_model, held_out):
    x, y = held_out
    report = edge.verify(exported("float32"), digits_model, x, max_drop=0.0)
    assert (report.accuracy_file, report.accuracy_reference, report.drop) == (None, None, None)
    assert report.agreement == 1.0
    partly = np.where(np.arange(len(y)) < 100, y, -1)
    report = edge.verify(exported("float32"), digits_model, (x, partly))
    expected = digits_model.predict(x[:100], verbose=0).argmax(-1)
    assert report.accuracy_reference == pytest.approx(np.mean(expected == y[:100]))


def test_a_file_of_another_model_is_found_out(exported, digits_model, held_out):
    # The reference is a model that knows one class: it is right where the label is that class.
    _, y = held_out
    share = np.mean(y == 3)
    export = exported("float32")
    accuracy = edge.verify(export, digits_model, held_out).accuracy_file
    report = edge.verify(export, constant_model(3), held_out, max_drop=1.0, max_error=math.inf)
    assert report.accuracy_reference == pytest.approx(share)
    assert report.drop == pytest.approx(share - accuracy)
    assert report.agreement < 0.2
    assert abs(report.correlation) < 0.5


def test_every_missed_tolerance_is_named(exported, digits_model, held_out):
    with pytest.raises(edge.VerificationError) as caught:
        edge.verify(
            exported("float32"),
            constant_model(3),
            held_out,
            max_drop=-1.0,
            min_agreement=0.99,
            max_bytes=10,
            max_latency_ms=1e-9,
        )
    message, report = str(caught.value), caught.value.report
    for tolerance in ("max_drop", "min_agreement", "max_bytes", "max_latency_ms"):
        assert tolerance in message
    assert f"{report.bytes:.6g}" in message
    assert not report.passed
    assert report.agreement < 0.99


def test_tolerances_that_are_just_met_pass(exported, digits_model, held_out):
    export = exported("float32")
    report = edge.verify(
        export, digits_model, held_out, max_drop=0.0, min_agreement=1.0, max_bytes=export.bytes
    )
    assert report.passed


def test_keras_metrics_run_on_the_files_output(exported, digits_model, held_out):
    x, y = held_out
    metric = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top2")
    metric.update_state([0], [[0.0, 1.0, 2.0]])
    before = float(metric.result())
    report = edge.verify(exported("float32"), digits_model, held_out, metrics=[metric])
    top = np.argsort(digits_model.predict(x, verbose=0), axis=-1)[:, -2:]
    assert report.metrics == {"top2": pytest.approx(np.mean((top == y[:, None]).any(-1)))}
    assert float(metric.result()) == before
    with pytest.raises(ValueError, match="labelled"):
        edge.verify(exported("float32"), digits_model, x, metrics=[metric])


def test_teachers_of_any_kind(exported, digits_model, held_out):
    x, _ = held_out
    other = constant_model(7)
    report = edge.verify(exported("float32"), digits_model, held_out, teacher=other)
    chosen = digits_model.predict(x, verbose=0).argmax(-1)
    assert report.teacher_agreement == pytest.approx(np.mean(chosen == 7))
    runner = edge.load_tflite(exported("float32").path)
    assert edge.verify(runner, digits_model, held_out, teacher=runner).teacher_agreement == 1.0
    with pytest.raises(ValueError, match="teacher"):
        edge.verify(runner, digits_model, held_out, teacher=lambda x: np.zeros((len(x), 4)))


def test_the_file_is_compared_with_the_fake_quantised_model(exported, digits_model, held_out):
    x, _ = held_out
    export = exported("int8")
    alone = edge.verify(export, digits_model, held_out)
    assert (alone.quantized_agreement, alone.quantized_correlation) == (None, None)
    assert "quantised" not in str(alone)
    # A runner of the very file is what it would be if the converter lost nothing.
    equal = edge.verify(export, digits_model, held_out, quantized=edge.load_tflite(export.path))
    assert equal.quantized_agreement == 1.0
    assert equal.quantized_correlation == pytest.approx(1.0)
    assert equal.correlation == alone.correlation
    assert f"{1:.2%}" in str(equal)
    assert json.loads(equal.to_json())["quantized_agreement"] == 1.0
    file = edge.load_tflite(export.path).predict(x).argmax(-1)
    limits = {"min_quantized_correlation": -1.0}
    report = edge.verify(export, digits_model, held_out, quantized=constant_model(3), **limits)
    assert report.quantized_agreement == pytest.approx(np.mean(file == 3))
    with pytest.raises(ValueError, match="quantized"):
        edge.verify(export, digits_model, held_out, quantized=lambda x: np.zeros((len(x), 4)))


def test_a_drop_of_just_the_tolerance_passes(exported, digits_model, held_out):
    # 97 of 100 right against 96 is a drop of 0.010000000000000009 in floating point.
    x, _ = held_out
    file = edge.load_tflite(exported("float32").path).predict(x[:100]).argmax(-1)
    labels = np.where(np.arange(100) < 96, file, (file + 1) % 10)
    answers = np.eye(10)[np.where(np.arange(100) < 97, labels, (labels + 2) % 10)]
    seen = iter([answers[:64], answers[64:]])
    report = edge.verify(exported("float32"), lambda x: next(seen), (x[:100], labels), max_error=10)
    assert (report.accuracy_file, report.accuracy_reference) == (0.96, 0.97)
    assert report.drop > 0.01
    assert report.passed


def test_nothing_is_written_to_the_models(exported, digits_model, held_out):
    before = [value.copy() for value in digits_model.get_weights()]
    edge.verify(exported("float32"), digits_model, held_out)
    for old, new in zip(before, digits_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_labels_of_a_wrong_shape_are_refused(exported, digits_model, held_out):
    x, _ = held_out
    with pytest.raises(ValueError, match=r"\(360, 4\)"):
        edge.verify(exported("float32"), digits_model, (x, np.zeros((360, 4))))


def test_a_single_output_has_no_classes_to_agree_on(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    export = edge.export_tflite(model, tmp_path / "one.tflite", batch_size=None)
    x = np.random.default_rng(0).random((20, 2), "float32")
    y = 2 * model.predict(x, verbose=0)
    report = edge.verify(export, model, (x, y), metrics=[keras.metrics.MeanAbsoluteError()])
    assert (report.accuracy_file, report.agreement) == (None, None)
    assert report.metrics["mean_absolute_error"] == pytest.approx(np.abs(y / 2).mean(), rel=1e-4)
    with pytest.raises(ValueError, match="two classes"):
        edge.verify(export, model, (x, y), min_agreement=0.5)


def test_records_print_and_write_json(exported, digits_model, held_out):
    export = exported("int8")
    report = edge.verify(export, digits_model, held_out)
    assert json.loads(report.to_json())["agreement"] == report.agreement
    assert f"{report.accuracy_file:.2%}" in str(report)
    written = json.loads(export.to_json())
    assert written["path"] == str(export.path)
    assert written["inputs"][0]["name"] == "image"
    assert "CONV_2D" in str(export)


def test_benchmark_takes_exports_paths_and_runners(exported):
    export = exported("float32")
    for given in (export, str(export.path), edge.load_tflite(export.path)):
        assert edge.benchmark(given, runs=3, warmup=0).runs == 3
