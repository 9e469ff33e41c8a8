"""The judge: every figure as by hand, whatever the candidate is; bad input before any work."""

import json
import re
import shutil

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from sklearn import metrics as sk

import keras_distill as kd
from keras_distill import judging
from keras_distill.litert import runner as litert

ROWS = 96


def network(seed, *, units=3, activation=None, name="model"):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((6,), name="x"), keras.layers.Dense(16, "relu")]
    layers.append(keras.layers.Dense(units, activation, name="answer"))
    return keras.Sequential(layers, name=name)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype("float32")
    return x, (x[:, :3] + 0.3 * rng.normal(size=(ROWS, 3))).argmax(-1)


@pytest.fixture(scope="module")
def trained(data):
    model = network(1, name="trained")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    model.fit(*data, epochs=20, verbose=0)
    return model


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return kd.edge.export_tflite(trained, folder / "m.tflite", precision="float32")


def judged(candidates, data, **options):
    return kd.judge(candidates, data, verbose=False, **{"resamples": 50, **options})


def test_one_model_in_all_its_forms_has_the_same_figures(trained, exported, data):
    logits = tf.function(lambda x: trained(x, training=False))
    weights = [layer.get_weights() for layer in trained.layers]

    def plain(x):
        hidden = np.maximum(np.asarray(x) @ weights[0][0] + weights[0][1], 0)
        return (hidden @ weights[1][0] + weights[1][1]).astype("float32")

    forms = {
        "model": trained,
        "export": exported,
        "path": str(exported.path),
        "runner": litert.load_tflite(exported.path),
        "function": logits,
        "numpy": plain,
        "teacher": kd.teachers.Model(trained),
    }
    record = judged(forms, data)
    answers = trained.predict(data[0], verbose=0)
    expected = sk.accuracy_score(data[1], answers.argmax(-1))
    for name in forms:
        assert record.figure(name, "accuracy").value == pytest.approx(expected), name
        apart = record.figure(name, "NLL")
        assert abs(apart.difference) < 1e-5, name
        assert record.agreement[name] == 1.0
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(answers))
    nll = sk.log_loss(data[1], shares.astype("float64"))
    assert record.figure("model", "NLL").value == pytest.approx(nll, abs=1e-5)


def test_a_softmax_and_its_logits_are_the_same(trained, data):
    behind = keras.Sequential([keras.Input((6,)), trained, keras.layers.Softmax()])
    record = judged({"logits": trained, "shares": behind, "fn": lambda x: behind(x)}, data)
    for name in ("shares", "fn"):
        if name == "shares":
            assert abs(record.figure(name, "NLL").difference) < 1e-5
        assert record.figure(name, "accuracy").difference == 0


def test_verdicts_are_those_of_the_intervals_and_of_mcnemar(trained, data):
    record = judged({"good": trained, "bad": network(5)}, data, resamples=300)
    found = record.figure("bad", "accuracy")
    assert found.verdict == "worse"
    assert found.difference_high < 0
    hits = [np.asarray(m(data[0])).argmax(-1) == data[1] for m in (trained, network(5))]
    assert found.p_value == judging_mcnemar(*hits)
    assert record.figure("bad", "NLL").verdict == "worse"
    other = judged({"bad": network(5), "good": trained}, data, resamples=300)
    assert other.figure("good", "NLL").verdict == "better"
    assert other.figure("bad", "accuracy").verdict == "not told apart"  # From itself.


def judging_mcnemar(ours, theirs):
    from scipy import stats

    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return pytest.approx(stats.binomtest(better, better + worse).pvalue)


def test_conditions_are_the_same_for_all_and_mce_is_over_the_baseline(trained, data):
    conditions = [*judging.ColumnNoise.all(), judging.MissingCells(3)]
    weak = network(5)
    record = judged({"good": trained, "bad": weak}, data, conditions=conditions)
    assert record.conditions == ("clean", *(f"noise {n}" for n in range(1, 6)), "missing cells 3")
    ((x, _),) = judging.ColumnNoise(4).batches(iter([data]), None)
    expected = np.mean(np.asarray(weak(x)).argmax(-1) == data[1])
    assert record.figure("bad", "accuracy", "noise 4").value == pytest.approx(expected)

    def error(name, label):
        return 1 - record.figure(name, "accuracy", label).value

    sums = {n: sum(error(n, f"noise {s}") for s in range(1, 6)) for n in ("good", "bad")}
    missing = error("bad", "missing cells 3") / error("good", "missing cells 3")
    expected = (sums["bad"] / sums["good"] + missing) / 2
    assert record.corruption_errors["bad"] == pytest.approx(expected)
    assert record.corruption_errors["good"] == 1.0


@pytest.mark.parametrize("kind", ["classes", "yes or no", "numbers"])
def test_attacks_climb_the_loss_within_their_limits(kind, data):
    units, activation = {"classes": (3, None), "yes or no": (1, "sigmoid"), "numbers": (2, None)}[
        kind
    ]
    model = network(3, units=units, activation=activation)
    x, y = data
    labels = {"classes": y, "yes or no": (y == 1).astype(int), "numbers": x[:, :2]}[kind]
    metric = "RMSE" if kind == "numbers" else "NLL"
    fast, slow = judging.FGSM(0.2), judging.PGD(0.2, range=(-1.5, 1.5))
    record = judged({"m": model}, (x, labels), conditions=[fast, slow], task=kind)
    clean, quick, thorough = (
        record.figure("m", metric, one).value for one in ("clean", "FGSM 0.2", "PGD 0.2")
    )
    assert clean < quick
    assert clean < thorough
    context = _context({"m": model}, (x, labels), kind)
    ((moved, _),) = slow.batches(iter([(x, labels)]), context)
    kept = np.clip(x, -1.5, 1.5)
    assert np.abs(np.clip(moved, -9, 9)).max() <= 1.5
    inside = np.abs(x) <= 1.5
    assert np.abs(moved - kept)[inside].max() <= 0.2 + 1e-6


def _context(candidates, data, task):
    from keras_distill.judging.court import Court

    return Court(candidates, data, "m", task, None, 64).context


def test_an_attack_needs_a_model_with_gradients(exported, data):
    with pytest.raises(ValueError, match="follows a Keras model's gradients"):
        judged({"file": exported}, data, conditions=[judging.PGD(0.1)])
    with pytest.raises(ValueError, match="epsilon must be positive"):
        judging.PGD(0.0)


def test_parts_of_the_rows(trained, data):
    groups = np.arange(ROWS) % 3
    splits = [judging.KFold(4), judging.Groups(groups, "days"), judging.Resamples(3)]
    splits += [judging.Sizes(), judging.Skewed(0.8)]
    record = judged({"m": trained}, data, splits=splits)
    hits = np.asarray(trained(data[0])).argmax(-1) == data[1]
    found = {one.split: one.parts for one in record.splits if one.metric == "accuracy"}
    assert found["days"] == pytest.approx({str(g): hits[groups == g].mean() for g in range(3)})
    assert np.mean(list(found["4 folds"].values())) == pytest.approx(hits.mean())
    assert len(set(found["4 folds"])) == 4
    assert found["sizes"]["100%"] == pytest.approx(hits.mean())
    for one in range(3):
        of_it = data[1] == one
        expected = 0.8 * hits[of_it].mean() + 0.2 * hits[~of_it].mean()
        assert found["one class prevails"][f"class {one}"] == pytest.approx(expected)
    assert "(" in str(record)
    with pytest.raises(ValueError, match="a group for each of 96 rows"):
        judged({"m": trained}, data, splits=[judging.Groups(groups[:5])])


def test_the_gap_to_the_training_data(trained, data):
    rng = np.random.default_rng(1)
    fresh = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)
    record = judged({"m": trained}, fresh, train=data, metrics=["NLL", "accuracy"], resamples=200)
    (gap,) = record.gaps
    assert gap.metric == "NLL"
    assert gap.gap == pytest.approx(gap.test - gap.train)  # Less is better: turned round.
    assert gap.low > 0  # Labels at random can't be learned from the others.


def test_without_labels_the_baseline_is_the_truth(trained, data):
    record = judged({"a": trained, "b": network(5)}, data[0])
    assert record.metrics == ("accuracy",)
    assert not record.labelled
    assert record.figure("a", "accuracy").value == 1.0
    assert record.figure("b", "accuracy").value == pytest.approx(record.agreement["b"])


def test_another_data_set_in_its_place(trained, data):
    other = data[0][:20], data[1][:20]
    record = judged({"a": trained}, data, conditions=[judging.Unseen(other, "next year")])
    expected = np.mean(np.asarray(trained(other[0])).argmax(-1) == other[1])
    assert record.figure("a", "accuracy", "next year").value == pytest.approx(expected)


def test_one_output_of_several(data):
    x = keras.Input((6,))
    heads = {"kind": keras.layers.Dense(3)(x), "size": keras.layers.Dense(1)(x)}
    model = keras.Model(x, heads)
    labels = {"kind": data[1], "size": data[0][:, :1]}
    record = judged({"m": model}, (data[0], labels), output="size")
    answers = model.predict(data[0], verbose=0)["size"]
    assert record.task == "numbers"
    expected = sk.mean_absolute_error(labels["size"], answers)
    assert record.figure("m", "MAE").value == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="Say which one is judged"):
        judged({"m": model}, (data[0], labels))


def test_a_file_that_crashes_is_named_and_the_others_go_on(trained, exported, data, monkeypatch):
    asked = []

    def dies_on_the_second(self, x, batch_size=None):
        asked.append(len(x))
        if len(asked) > 1:
            raise litert.CrashError("LiteRT crashed (SIGSEGV)")
        return np.zeros((len(x), 3), "float32")

    monkeypatch.setattr(litert.TFLiteRunner, "predict", dies_on_the_second)
    record = judged(
        {"model": trained, "file": exported}, data, conditions=[judging.MissingCells(1)]
    )
    assert record.models == ("model",)
    assert record.failed == {"file": "LiteRT crashed (SIGSEGV)"}
    assert "file was not judged: LiteRT crashed" in str(record)
    assert record.figure("model", "accuracy", "missing cells 1").value > 0
    asked[:] = [0]
    with pytest.raises(ValueError, match=r"baseline 'file' ended the process"):
        judged({"file": exported, "model": trained}, data)


def test_a_file_that_ends_its_process_ends_not_this_one(trained, exported, data, tmp_path):
    model = schema.ModelT.InitFromPackedBuf(exported.path.read_bytes(), 0)
    graph = model.subgraphs[0]
    # Its input is a constant, which lies where nothing can be written.
    graph.inputs = [next(i for o in graph.operators for i in o.inputs if i != graph.inputs[0])]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "deadly.tflite").write_bytes(builder.Output())
    copied = shutil.copy(exported.path, tmp_path / "right.tflite")
    record = judged({"m": trained, "deadly": tmp_path / "deadly.tflite", "right": copied}, data)
    assert record.models == ("m", "right")
    assert "deadly.tflite and crashed (SIGSEGV)" in record.failed["deadly"]
    assert "deadly was not judged: LiteRT ran" in str(record)
    assert record.agreement["right"] == 1.0


def test_the_batches_do_not_matter(trained, exported, data):
    conditions = [judging.ColumnNoise(3)]
    whole, small = (
        judged({"m": trained, "f": exported}, data, conditions=conditions, batch_size=size)
        for size in (ROWS, 7)
    )
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(5)
    of_dataset = judged({"m": trained, "f": exported}, dataset, conditions=conditions)
    for other in (small, of_dataset):
        assert other.data_sha256
        for one, two in zip(whole.figures, other.figures, strict=True):
            assert one.value == pytest.approx(two.value, abs=1e-6)
            assert one.low == pytest.approx(two.low, abs=1e-6)


BAD = {
    "nobody": (lambda m, x, y: judged({}, (x, y)), "one at least"),
    "the baseline": (lambda m, x, y: judged({"a": m}, (x, y), baseline="b"), "none of the"),
    "a .keras": (lambda m, x, y: judged({"a": "m.keras"}, (x, y)), "load_model"),
    "an int": (lambda m, x, y: judged({"a": 3}, (x, y)), "to be a Keras model"),
    "outputs": (lambda m, x, y: judged({"a": m, "b": network(0, units=4)}, (x, y)), "answer alike"),
    "labels": (lambda m, x, y: judged({"a": m}, (x, y + 2)), "labels of 0 to 2"),
    "no metric": (lambda m, x, y: judged({"a": m}, (x, y), metrics=["acc"]), "no metric 'acc'"),
    "metric": (lambda m, x, y: judged({"a": m}, (x, y), metrics=["MAE"]), "is for numbers"),
    "task": (lambda m, x, y: judged({"a": m}, (x, y), task="class"), "task must be one of"),
    "twice": (
        lambda m, x, y: judged({"a": m}, (x, y), conditions=[judging.ColumnNoise(1)] * 2),
        "different names",
    ),
    "images": (
        lambda m, x, y: judged({"a": m}, (x, y), conditions=judging.image_corruptions()),
        "is for images",
    ),
    "images on tokens": (
        lambda m, x, y: judged(
            {"a": lambda x: 4 * np.eye(3, dtype="float32")[np.asarray(x)[:, 0] % 3]},
            (np.ones((len(x), 9), "int32"), y),
            conditions=judging.image_corruptions(),
        ),
        "is for images",
    ),
    "half a class": (lambda m, x, y: judged({"a": m}, (x, y + 0.5)), "task= says"),
    "labels below": (lambda m, x, y: judged({"a": m}, (x, y - 2)), "labels of 0 to 2"),
    "labels missing": (lambda m, x, y: judged({"a": m}, (x, y[:-1])), "one length"),
    "confidence": (lambda m, x, y: judged({"a": m}, (x, y), confidence=95), "between 0 and 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name, trained, data):
    ask, words = BAD[name]
    with pytest.raises((ValueError, TypeError), match=words):
        ask(trained, *data)


def test_the_record_is_text_json_a_page_and_a_picture(trained, exported, data, tmp_path):
    candidates = {"a<b": trained, "file": exported}
    record = judged(
        candidates, data, conditions=[judging.ColumnNoise(5)], splits=[judging.KFold(2)]
    )
    assert json.loads(record.to_json())["figures"][0]["model"] == "a<b"
    page = record.to_html(tmp_path / "j.html")
    assert (tmp_path / "j.html").read_text(encoding="utf-8") == page
    assert "a&lt;b" in page
    assert "<b," not in page
    # Nothing is fetched: what is linked is inside.
    assert set(re.findall(r'(?:src|href)="(\w+):', page)) == {"data"}
    axes = record.plot().axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["clean", "noise 5"]
    with pytest.raises(KeyError, match=r"Models: a<b, file; metrics: accuracy"):
        record.figure("a<b", "accuracy", "rain")


def test_files_by_other_calibration_rows(trained, data):
    record = judging.judge_calibration(
        trained, data[0], data, rows=20, draws=2, resamples=20, verbose=False
    )
    assert record.models == ("model", "calibration 1", "calibration 2")
    assert all(0.8 < value <= 1 for value in record.agreement.values())
    first, second = (record.figure(name, "NLL").value for name in record.models[1:])
    assert first != second
    with pytest.raises(ValueError, match="1 to 96 rows"):
        judging.judge_calibration(trained, data[0], data, rows=97)
