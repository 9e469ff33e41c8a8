"""`explain` on real digits and on the smallest models that show what it says."""

import importlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from IPython.core.formatters import PNGFormatter
from matplotlib import pyplot
from sklearn.metrics import accuracy_score, confusion_matrix

import keras_distill as kd
from keras_distill.teachers import Ensemble, Model, MovingAverage, MultiTask, Noisy, Virtual


def dense_model(*widths, name="model", seed=0, inputs=4, activation=None):
    keras.utils.set_random_seed(seed)
    stack = [
        keras.layers.Dense(width, activation="relu", name=f"dense_{place}")
        for place, width in enumerate(widths[:-1])
    ]
    head = keras.layers.Dense(widths[-1], activation=activation, name="logits")
    return keras.Sequential([keras.Input((inputs,)), *stack, head], name=name)


def two_heads(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    hidden = keras.layers.Dense(8, activation="relu", name="deeper")(hidden)
    kind = keras.layers.Dense(3, name="kind")(hidden)
    size = keras.layers.Dense(1, name="size")(hidden)
    return keras.Model(inputs, {"kind": kind, "size": size})


def explained(student, teacher, data, **options):
    return kd.explain(student, teacher, data, verbose=False, **options)


@pytest.fixture(scope="module")
def rows():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    return x, np.random.default_rng(1).integers(0, 3, size=60)


@pytest.fixture(scope="module")
def trained(digits, small_cnn):
    """A teacher that knows the digits, a student that knows them less, and what that tells."""
    teacher, student = small_cnn(16), small_cnn(4, seed=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for model, epochs in ((teacher, 6), (student, 2)):
        model.compile(keras.optimizers.Adam(5e-3), loss)
        model.fit(digits.x_train, digits.y_train, batch_size=64, epochs=epochs, verbose=0)
    return teacher, student, explained(student, teacher, (digits.x_test, digits.y_test))


def test_digits_counts_are_those_of_the_models_own_predictions(digits, trained):
    teacher, student, record = trained
    answers = [model.predict(digits.x_test, verbose=0).argmax(-1) for model in (teacher, student)]
    np.testing.assert_array_equal(record.agreement, confusion_matrix(*answers, labels=range(10)))
    assert record.agreement_share == pytest.approx(np.mean(answers[0] == answers[1]))
    for found, answer in zip((record.teacher, record.student), answers, strict=True):
        assert found.accuracy == pytest.approx(accuracy_score(digits.y_test, answer))
    change = sum(one.gained - one.lost for one in record.classes)
    assert change == (answers[1] == digits.y_test).sum() - (answers[0] == digits.y_test).sum()
    for one in record.lost:
        np.testing.assert_array_equal(one.inputs, digits.x_test[one.index])
        assert (one.teacher, one.student) == (answers[0][one.index], answers[1][one.index])
        assert one.label == digits.y_test[one.index]


def test_digits_layers_and_their_map(trained):
    _, _, record = trained
    # Blocks end where what follows a convolution ends: its normalisation.
    assert record.similarity.student_layers == ("norm", "high")
    assert record.layer_map == {"norm": "norm", "high": "high"}
    assert ((record.similarity.cka > 0) & (record.similarity.cka < 1.0)).all()


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("how", ["pruned", "clustered", "quantised", "both"])
def test_a_compressed_models_layers_are_those_of_the_plain_one(digits, trained, how, side):
    teacher, student, plain = trained
    pair = {"student": student, "teacher": teacher}
    if how in ("pruned", "both"):
        pair[side] = kd.edge.prune(pair[side], 0.3)
    if how == "clustered":
        pair[side] = kd.edge.cluster(pair[side], 32)
    if how in ("quantised", "both"):
        pair[side] = kd.edge.quantize_aware(pair[side], calibration_data=digits.x_train[:64])
    found = explained(pair["student"], pair["teacher"], (digits.x_test[:64], digits.y_test[:64]))
    assert found.similarity.student_layers == plain.similarity.student_layers
    assert found.similarity.teacher_layers == plain.similarity.teacher_layers
    assert found.layer_map == plain.layer_map
    blocks = kd.transfer.blocks(pair[side])
    assert blocks == kd.transfer.blocks({"student": student, "teacher": teacher}[side])


def test_the_map_goes_into_objectives_as_it_is(digits, trained):
    teacher, student, record = trained
    pairs = record.layer_map.items()
    hints = [kd.FeatureHint(ours, theirs, name=f"hint_{ours}") for ours, theirs in pairs]
    attention = kd.AttentionTransfer(list(record.layer_map), list(record.layer_map.values()))
    kd.Distiller(student, teacher, [*hints, attention])


def test_what_is_saved_is_the_record_with_its_pictures(tmp_path, trained):
    _, _, record = trained
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("stays")
    pyplot.close("all")
    files = record.save(tmp_path / "out")
    assert pyplot.get_fignums() == []
    names = {"agreement", "calibration", "classes", "lost", "similarity"}
    pictures = {f"{name}.png" for name in names}
    assert {path.name for path in files} == {"explanation.json", *pictures}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "explanation.json", "mine.txt", *pictures,
    }  # fmt: skip
    for name in pictures:
        assert (tmp_path / "out" / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    found = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert found["agreement"] == record.agreement.tolist()
    assert found["similarity"]["layer_map"] == record.layer_map
    assert found["student"]["ece"] == pytest.approx(record.student.ece)
    assert found["lost"][0]["index"] == record.lost[0].index
    assert "inputs" not in found["lost"][0]


def test_pictures_of_an_earlier_record_go(tmp_path, rows, trained):
    trained[2].save(tmp_path)
    x, _ = rows
    files = explained(dense_model(8, 3), lambda x: x[:, :3], x, student_layers=()).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}
    assert not (tmp_path / "similarity.png").exists()


@pytest.mark.parametrize("name", ["agreement.png", "lost.png", "explanation.json", "classes.png/"])
def test_files_that_no_save_has_written_stay(name, tmp_path, trained):
    mine = tmp_path / name
    if name.endswith("/"):
        mine.mkdir()
    else:
        mine.write_bytes(b'{"mine": 1}')
    with pytest.raises(FileExistsError, match=f"stay: {mine.name}"):
        trained[2].save(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
    assert mine.is_dir() or mine.read_bytes() == b'{"mine": 1}'


def test_an_edited_picture_of_an_earlier_save_stays(tmp_path, trained):
    trained[2].save(tmp_path)
    figure = pyplot.figure()
    figure.savefig(tmp_path / "agreement.png")
    pyplot.close(figure)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"stay: agreement\.png"):
        trained[2].save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_without_matplotlib_nothing_is_written(tmp_path, monkeypatch, trained):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "keras_distill.explaining.pictures", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r'pip install .*"matplotlib>=3\.8"'):
        trained[2].save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_notebook_that_has_drawn_nothing_shows_the_pictures(trained):
    # IPython registers pyplot's formatter for figures with pyplot's first figure.
    for figure in trained[2].figures().values():
        assert PNGFormatter()(figure).startswith(b"\x89PNG")


def test_the_table_shows_what_there_is(trained, rows):
    text = str(trained[2])
    for word in ("cnn_16", "cnn_4", "accuracy", "ECE", "entropy", "gained", "norm", "KL, nats"):
        assert word in text
    assert max(map(len, text.splitlines())) < 140
    x, _ = rows
    names = ["[b]", ":cat:", "c"]
    bare = str(explained(dense_model(8, 3), lambda x: x[:, :3], x, class_names=names))
    assert "[b] > :cat:" in bare
    assert "accuracy" not in bare
    assert "the teacher has no layers to compare" in bare


def test_a_clone_lost_nothing_and_its_map_is_the_identity(rows):
    teacher = dense_model(12, 10, 8, 6, 3)
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    record = explained(student, teacher, rows)
    assert record.layer_map == {f"dense_{i}": f"dense_{i}" for i in range(4)}
    np.testing.assert_allclose(np.diag(record.similarity.cka), 1.0, atol=1e-5)
    assert record.agreement_share == 1.0
    assert record.kl_nats == pytest.approx(0.0, abs=1e-6)
    assert record.lost == ()
    assert all(one.gained == one.lost == 0 for one in record.classes)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __getitem__(self, index):
        chosen = slice(index * self.size, (index + 1) * self.size)
        return self.x[chosen], self.y[chosen]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x, y: (x.astype("float64"), np.eye(3)[y]),
        lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(60),
        lambda x, y: Batches(x, y[:, None], 60),
    ],
    ids=["one-hot", "tf.data", "PyDataset"],
)
def test_the_same_record_from_any_data(rows, wrap):
    student, teacher = dense_model(8, 3, seed=1), dense_model(16, 8, 3)
    expected = explained(student, teacher, rows, batch_size=32)
    # A data set's batches of 60 are split as arrays are.
    found = explained(student, teacher, wrap(*rows), batch_size=32)
    assert found.to_json() == expected.to_json()
    np.testing.assert_array_equal(found.lost[0].inputs, expected.lost[0].inputs)


def test_without_labels_there_is_what_needs_none(rows, tmp_path):
    x, y = rows
    student, teacher = dense_model(8, 3, seed=1), dense_model(16, 3)
    record = explained(student, teacher, x)
    assert (record.labelled, record.classes) == (0, ())
    assert record.student.accuracy is record.student.ece is record.teacher.calibration is None
    assert all(one.label is None and one.lost_nats == one.kl_nats for one in record.lost)
    assert {path.stem for path in record.save(tmp_path)} >= {"agreement", "calibration"}
    known = np.where(np.arange(60) < 20, y, -1)
    some = explained(student, teacher, (x, known))
    assert (some.labelled, some.examples) == (20, 60)
    assert some.student.accuracy == explained(student, teacher, (x[:20], y[:20])).student.accuracy


def test_a_distiller_says_how_both_see_the_data(rows):
    x, y = rows
    student, teacher = dense_model(8, 3, seed=1), dense_model(16, 3, inputs=2)
    distiller = kd.Distiller(
        student,
        teacher,
        student_preprocess=lambda x: x * 2.0,
        teacher_preprocess=lambda x: x[:, :2],
    )
    record = explained(distiller, teacher, (x, y))
    answers = teacher.predict(x[:, :2], verbose=0), student.predict(2.0 * x, verbose=0)
    expected = confusion_matrix(*(one.argmax(-1) for one in answers), labels=range(3))
    np.testing.assert_array_equal(record.agreement, expected)
    with pytest.raises(ValueError, match="A Distiller says itself"):
        explained(distiller, teacher, (x, y), teacher_preprocess=lambda x: x)


def test_nothing_of_a_teacher_that_teaches_already_changes(rows):
    x, y = rows
    student, model = dense_model(8, 3, seed=1), dense_model(8, 8, 3)
    teacher = Ensemble([Noisy(model, sigma=0.5), Model(model)])
    objectives = [kd.FeatureHint("dense_0", "dense_1"), kd.SoftTargets()]
    distiller = kd.Distiller(student, teacher, objectives)
    distiller.compile("sgd")
    before = [w.copy() for one in (student, model) for w in one.get_weights()]
    states = [np.array(state) for state in teacher.state]
    record = explained(distiller, teacher, (x, y))
    assert record.similarity.teacher_layers == ("dense_0", "dense_1")
    after = [w for one in (student, model) for w in one.get_weights()]
    for ours, theirs in zip(
        [*before, *states], [*after, *map(np.array, teacher.state)], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    # Its taps are still those of the distiller's objectives.
    assert distiller.fit(x, epochs=1, verbose=0).history["feature_hint"][0] > 0


def test_layers_by_name_by_object_and_none(rows):
    student, teacher = dense_model(8, 6, 3, seed=1), dense_model(16, 8, 8, 3)
    named = explained(
        student,
        teacher,
        rows,
        student_layers=[student.get_layer("dense_1")],
        teacher_layers=["dense_0", "dense_2"],
    )
    assert named.similarity.cka.shape == (1, 2)
    assert list(named.layer_map) == ["dense_1"]
    none = explained(student, teacher, rows, teacher_layers=())
    assert none.similarity is None
    assert none.layer_map == {}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.hidden = keras.layers.Dense(8, name="hidden")
        self.unused = keras.layers.Dense(8, name="unused")
        self.unused.build((None, 4))
        self.last = keras.layers.Dense(3, name="last")

    def call(self, x):
        return self.last(self.hidden(x))


def test_of_the_layers_without_a_graph_those_that_can_be_read(rows):
    student = Subclassed()
    student(rows[0])
    record = explained(student, dense_model(8, 3), rows)
    assert record.similarity.student_layers == ("hidden",)


def test_teachers_of_every_kind(rows):
    student, model = dense_model(8, 3, seed=1), dense_model(8, 3)
    assert explained(student, Virtual(3), rows).similarity is None
    assert explained(student, MovingAverage(), rows).agreement_share == 1.0
    spec = keras.KerasTensor((None, 4))
    function = explained(student, Model(lambda x: model(x), input_spec=spec), rows)
    assert function.similarity is None
    assert function.agreement.tolist() == explained(student, model, rows).agreement.tolist()


def test_a_cache_as_the_teacher(rows, tmp_path):
    x, y = rows
    student, model = dense_model(8, 3, seed=1), dense_model(8, 3)
    cache = kd.TeacherCache.build(model, (x, y), tmp_path / "cache", dtype="float32", verbose=False)
    record = explained(student, cache, cache.dataset(16, shuffle=False))
    assert record.agreement.tolist() == explained(student, model, rows).agreement.tolist()
    with pytest.raises(ValueError, match="dataset"):
        explained(student, cache, rows)


def test_one_output_of_several(rows):
    x, y = rows
    labels = {"kind": y, "size": np.zeros((60, 1), "float32")}
    student, teacher = two_heads(0), two_heads(1)
    record = explained(student, teacher, (x, labels), output="kind")
    answers = [model.predict(x, verbose=0)["kind"].argmax(-1) for model in (teacher, student)]
    np.testing.assert_array_equal(record.agreement, confusion_matrix(*answers, labels=range(3)))
    assert record.student.accuracy == pytest.approx(accuracy_score(y, answers[1]))
    assert record.layer_map == {"hidden": "hidden", "deeper": "deeper"}
    for_each = MultiTask({"kind": dense_model(8, 3), "size": dense_model(8, 1)})
    joined = explained(student, for_each, (x, labels), output="kind")
    assert joined.similarity.teacher_layers == ("kind/dense_0",)
    with pytest.raises(ValueError, match=r"'kind', 'size'. Name one: output="):
        explained(student, teacher, (x, labels))
    size = explained(student, teacher, (x, labels), output="size")
    assert size.student.mae[0] == pytest.approx(
        np.abs(student.predict(x, verbose=0)["size"]).mean(), rel=1e-5
    )


def broken():
    model = dense_model(8, 3)
    model.layers[-1].bias.assign([np.nan, 0.0, 0.0])
    return model


@pytest.mark.parametrize(
    ("student", "options", "words"),
    [
        (
            lambda: dense_model(8, 1),
            {"task": "classes"},
            r"one class of two or more.*\(None, 1\)",
        ),
        (lambda: dense_model(8, 3, activation="sigmoid"), {}, "sigmoid"),
        (lambda: dense_model(8, 5), {}, r"\(None, 5\) and the teacher \(None, 3\)"),
        (broken, {}, "student answers NaN to 60 of 60"),
        (lambda: dense_model(8, 3), {"class_names": ["a", "b"]}, "3 classes"),
        (lambda: dense_model(8, 3), {"batch_size": 3}, "batch_size=3.*4 rows"),
        (lambda: dense_model(8, 3), {"worst": -1}, "worst must be .* at least 0; got -1"),
        (lambda: dense_model(8, 3), {"bins": 0}, "bins must be .* at least 1; got 0"),
        (lambda: dense_model(8, 3), {"student_layers": ["nowhere"]}, "called 'nowhere'"),
        (lambda: dense_model(8, 3), {"student_output": "softmax"}, "student_output must be"),
    ],
)
def test_refusals(rows, student, options, words):
    with pytest.raises(ValueError, match=words):
        explained(student(), dense_model(8, 3, seed=1), rows, **options)


def test_the_student_is_a_model(rows):
    with pytest.raises(TypeError, match=r"keras.Model"):
        explained(lambda x: x, dense_model(8, 3), rows)


WATCH = """
import sys
import keras_distill as kd
print([m for m in sys.modules if m.startswith("keras_distill.explaining")], "explain" in dir(kd))
"""


def test_it_is_imported_when_it_is_asked_for_and_stays_a_function():
    command = [sys.executable, "-c", WATCH]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[] True"
    assert importlib.import_module("keras_distill.explaining").explain is kd.explain
    with pytest.raises(AttributeError, match="explains"):
        _ = kd.explains
