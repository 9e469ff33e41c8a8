"""Chains: who learns from whom, what a stopped one leaves, what is refused before any training."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill import _files, distill_chain
from keras_distill.training.architecture import architecture_digest

DOCS = Path(__file__).parent.parent.parent / "docs" / "chains.md"
X = np.random.default_rng(0).standard_normal((48, 4)).astype("float32")


def dense(width, name, seed=0, activation="tanh", dropout=0.0):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(width, activation, name="hidden"),
        keras.layers.Dropout(dropout),
        keras.layers.Dense(3),
    ]
    return keras.Sequential([keras.Input((4,)), *layers], name=name)


@pytest.fixture
def teacher():
    return dense(12, "teacher", seed=5)


def assistant_and_student(**options):
    return [dense(8, "assistant", seed=1, **options), dense(5, "student", seed=2, **options)]


class Training:
    """A `train` that remembers whom it trained, and stops in the midst of one if told to."""

    def __init__(self, stop_at=None, shuffle=False, rate=0.05):
        self.trained, self._stop_at = [], stop_at
        self._shuffle, self._rate = shuffle, rate

    def __call__(self, distiller):
        name = distiller.student.name
        self.trained.append(name)
        distiller.compile(keras.optimizers.SGD(self._rate))
        stop = [Stop()] if name == self._stop_at else []
        distiller.fit(X, batch_size=16, epochs=2, shuffle=self._shuffle, verbose=0, callbacks=stop)


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


def values(*models):
    return [np.array(weight) for model in models for weight in model.weights]


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def soft():
    return [kd.SoftTargets(temperature=2.0)]


def test_each_model_learns_from_the_one_before_it(teacher, tmp_path, capsys):
    before = values(teacher)
    report = distill_chain(
        teacher,
        assistant_and_student(),
        Training(),
        folder=tmp_path / "chain",
        objectives=soft,
        label_weight=0.0,
        verbose=True,
    )
    assistant, student = assistant_and_student()
    Training()(kd.Distiller(assistant, teacher, soft(), label_weight=0.0))
    second = kd.Distiller(student, assistant, soft(), label_weight=0.0)
    Training()(second)
    assert same(values(*report.models), values(assistant, student))
    assert same(values(teacher), before)
    last = report.generations[1]
    assert (last.name, last.teacher, last.epochs) == ("student", "assistant", 2)
    # Dense(5) on 4 and Dense(3) on 5, with biases: 25 + 18.
    assert last.parameters == 43
    assert last.ended_with == {k: v[-1] for k, v in second.history.history.items()}
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "1/2 assistant learned from teacher",
        "2/2 student learned from assistant",
    ]
    assert str(report).splitlines()[2].split()[:5] == ["2", "student", "assistant", "43", "2"]
    assert json.loads(report.to_json())["generations"][0]["name"] == "assistant"


@pytest.mark.slow
def test_a_stopped_chain_goes_on_and_ends_as_one_that_was_not(teacher, tmp_path, capsys):
    def run(folder, models, train):
        objectives = lambda: [*soft(), kd.FeatureHint("hidden", "hidden")]  # noqa: E731
        return distill_chain(
            *(teacher, models, train),
            **{"folder": tmp_path / folder, "objectives": objectives, "seed": 7, "verbose": True},
        )

    whole = run("whole", assistant_and_student(dropout=0.3), Training(shuffle=True))
    models = assistant_and_student(dropout=0.3)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", models, Training("student", shuffle=True))
    assert "Finished and kept" in capsys.readouterr().out
    assert same(values(models[1]), values(assistant_and_student(dropout=0.3)[1]))
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == [
        *("1_assistant.json", "1_assistant.weights.h5", "stages.json")
    ]
    again = Training(shuffle=True)
    # A process of its own would come with models that know nothing.
    resumed = run("stopped", assistant_and_student(dropout=0.3), again)
    assert again.trained == ["student"]
    assert same(values(*resumed.models), values(*whole.models))
    assert resumed.generations[0].history == whole.generations[0].history
    assert capsys.readouterr().out.splitlines()[0].endswith("(finished earlier)")


def test_generations_of_one_name_and_their_ensemble(teacher, tmp_path):
    clones = [keras.models.clone_model(teacher) for _ in range(2)]
    report = distill_chain(teacher, clones, Training(), folder=tmp_path, objectives=soft)
    assert [path.name for path in sorted(tmp_path.glob("*.h5"))] == [
        *("1_teacher.weights.h5", "2_teacher.weights.h5")
    ]
    mean = (clones[0](X) + clones[1](X)) / 2
    ensemble = report.ensemble()
    ensemble.build(keras.KerasTensor((None, 4)), ())
    np.testing.assert_allclose(ensemble(X).logits, mean, atol=1e-6)
    assert report.student is clones[1]
    loaded = keras.models.clone_model(teacher)
    loaded.load_weights(report.generations[0].weights)
    assert same(values(loaded), values(clones[0]))


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)], name="unbuilt")


def beside(teacher):
    """A model that shares the teacher's first layer."""
    return keras.Sequential([keras.Input((4,)), teacher.layers[0], keras.layers.Dense(3)])


def test_what_cannot_be_is_refused_before_anything_is_trained_or_written(teacher, tmp_path):
    one, two = assistant_and_student()
    other = dense(4, "other")
    hint = lambda: [kd.FeatureHint("nowhere", "hidden")]  # noqa: E731
    ensemble = kd.teachers.Ensemble([teacher, other])
    for words, first, models, options in (
        ("models is empty", teacher, [], {}),
        ("models must be a list", teacher, one, {}),
        ("no weights yet", teacher, [one, unbuilt()], {}),
        ("'assistant', shares weights with model 1, 'assistant'", teacher, [one, one], {}),
        ("'teacher', shares weights with the teacher", teacher, [one, teacher], {}),
        ("shares weights with the teacher", teacher, [beside(teacher)], {}),
        ("'other', shares weights with the teacher", ensemble, [other], {}),
        ("must be a function that makes new ones", teacher, [one], {"objectives": soft()}),
        ("must be a function that makes new ones", teacher, [one], {"objectives": soft()[0]}),
        ("Expected 2 functions", teacher, [one, two], {"objectives": [soft]}),
        ("nowhere", teacher, [one, two], {"objectives": [soft, hint]}),
        ("settings must be", teacher, [one], {"settings": {"data": X}}),
        ("label_weight", teacher, [one], {"label_weight": 2.0}),
    ):
        train = Training()
        with pytest.raises((TypeError, ValueError), match=re.escape(words)):
            distill_chain(first, models, train, folder=tmp_path / "chain", **options)
        assert train.trained == []
        assert not (tmp_path / "chain").exists()


def test_a_folder_of_another_chain_is_refused(teacher, tmp_path):
    def run(teacher=teacher, models=None, objectives=soft, **options):
        models = models or assistant_and_student()
        return distill_chain(
            teacher, models, train, folder=tmp_path, objectives=objectives, **options
        )

    train = Training()
    run(settings={"epochs": 2})
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    wider = [dense(8, "assistant"), dense(6, "student")]
    rectified = [dense(8, "assistant"), dense(5, "student", activation="relu")]
    for words, changed in (
        ("teacher", {"teacher": dense(12, "teacher", seed=6)}),
        ("teacher's graph", {"teacher": dense(12, "teacher", seed=5, activation="relu")}),
        ("model 2", {"models": wider}),
        ("model 2", {"models": rectified}),
        ("objectives 1", {"objectives": lambda: [kd.SoftTargets(temperature=3.0)]}),
        ("label_weight 0.1 there, 0.2 now", {"label_weight": 0.2}),
        ("seed None there, 1 now", {"seed": 1}),
        ("settings {'epochs': 2} there, {'epochs': 3} now", {"settings": {"epochs": 3}}),
    ):
        with pytest.raises(ValueError, match=re.escape(f"other settings ({words}")):
            run(**{"settings": {"epochs": 2}, **changed})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    assert train.trained == ["assistant", "student"]


def test_a_generation_whose_teacher_was_trained_anew_is_trained_anew(teacher, tmp_path):
    def run(train, seed=1):
        models = [dense(8, "assistant", seed=seed), dense(5, "student", seed=2)]
        return distill_chain(teacher, models, train, folder=tmp_path, objectives=soft)

    run(Training())
    (tmp_path / "1_assistant.weights.h5").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(Training("student"), seed=11)
    again = Training()
    assistant, student = run(again).models
    assert again.trained == ["student"]
    expected = dense(5, "student", seed=2)
    Training()(kd.Distiller(expected, assistant, soft()))
    assert same(values(student), values(expected))


@pytest.mark.parametrize("error", [KeyboardInterrupt("now"), OSError("disk full")])
def test_what_fails_while_a_generation_is_saved_leaves_its_model(
    teacher, tmp_path, monkeypatch, error
):
    student = dense(5, "student", seed=2)
    before = values(student)

    def run(train):
        return distill_chain(teacher, [student], train, folder=tmp_path, objectives=soft)

    for owner, name in ((student, "save_weights"), (_files, "place"), (_files, "write")):
        train, real = Training(), getattr(owner, name)

        def failing(*args, train=train, real=real):
            if train.trained:
                raise error
            real(*args)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, failing)
            with pytest.raises(type(error), match=str(error)):
                run(train)
        assert train.trained == ["student"]
        assert same(values(student), before), name
    trained = dense(5, "student", seed=2)
    Training()(kd.Distiller(trained, teacher, soft()))
    assert same(values(run(Training()).student), values(trained))


def test_a_chain_within_its_own_folder_is_refused(teacher, tmp_path):
    def train(distiller):
        distill_chain(teacher, [dense(5, "student")], Training(), folder=tmp_path)

    with pytest.raises(ValueError, match="another run is at work"):
        distill_chain(teacher, [dense(5, "student")], train, folder=tmp_path)


def train_the_student_itself(distiller):
    distiller.student.compile("sgd", "mse")
    distiller.student.fit(X, X[:, :3], verbose=0)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (train_the_student_itself, "made no update"),
        (lambda distiller: distiller.compile("sgd"), "made no update"),
        (Training(rate=float("inf")), "not finite"),
    ],
)
def test_a_training_that_was_none_leaves_nothing(teacher, tmp_path, train, words):
    student = dense(5, "student")
    before = values(student)
    with pytest.raises(ValueError, match=words):
        distill_chain(teacher, [student], train, folder=tmp_path, objectives=soft)
    assert same(values(student), before)
    assert [path.name for path in tmp_path.iterdir()] == ["stages.json"]


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self._layer = layer

    def call(self, x):
        return self._layer(x)


def test_an_architecture_is_known_by_what_it_computes_not_by_its_names():
    def functional(strides):
        image = keras.Input((8, 8, 1))
        x = keras.layers.Conv2D(2, 3, strides)(image)
        return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x + 1.0))

    def subclassed(activation):
        model = Subclassed(keras.layers.Dense(3, activation))
        model(X)
        return model

    for make, one, other in ((functional, 1, 2), (subclassed, "relu", "tanh")):
        known = architecture_digest(make(one))
        assert architecture_digest(make(one)) == known
        assert architecture_digest(make(other)) != known


@pytest.mark.slow
def test_the_page_runs(digits, small_cnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 2
    reader = {"x": digits.x_train[:128], "y": digits.y_train[:128]}
    for name, width in (("teacher", 6), ("assistant", 4), ("student", 2)):
        reader[name] = small_cnn(width)
    for block in blocks:
        exec(block, reader)
    assert len(reader["report"].models) == 2
    assert len(reader["together"].members) == 2
