"""The pages on moving here: both codes run, and where both claim to compute the same, they do."""

import re

import keras
import numpy as np
import pytest
from scipy import special
from test_docs import ROOT, run, snippets

import keras_distill as kd


@pytest.fixture
def given(digits, small_cnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"teacher": 8, "student": 4, "medium": 5}
    models = {name: small_cnn(width, seed=width) for name, width in models.items()}
    x, y = digits.x_train[:64], digits.y_train[:64]
    return {**models, "x": x, "y": y, "x_val": x[:32], "y_val": y[:32]}


def test_keras_ios_class_and_ours_make_the_same_updates(given):
    start = [np.copy(w) for w in given["student"].get_weights()]
    names = run("docs/migrate/keras_io.md", given)
    ours = names["after"].student.get_weights()
    theirs = names["before"].student.get_weights()
    moved = [np.abs(a - b).max() for a, b in zip(ours, start, strict=True)]
    assert max(moved) > 1e-3
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_older_example_weighs_a_hundredth(given):
    # Without its T^2 of 100 the divergence is that of the objective at weight 0.01.
    x = given["x"][:4]
    answers = {who: given[who].predict(x, verbose=0) / 10.0 for who in ("teacher", "student")}
    soft = {who: special.softmax(z.astype("float64"), axis=1) for who, z in answers.items()}
    without = special.rel_entr(soft["teacher"], soft["student"]).sum(axis=1).mean()
    given["student"].get_layer("norm").trainable = False  # so that it answers as in predict
    weak = kd.SoftTargets(temperature=10.0, weight=0.01)
    distiller = kd.Distiller(given["student"], given["teacher"], weak, label_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.fit(x, verbose=0).history
    assert logs["loss"][0] == pytest.approx(without, rel=1e-4)


def test_both_codes_of_keras_distillation_run(given):
    pytest.importorskip("keras.distillation", reason="this Keras has no keras.distillation")
    names = run("docs/migrate/keras_distillation.md", given)
    assert int(names["ours"].optimizer.iterations) == int(names["theirs"].optimizer.iterations) == 2


@pytest.mark.slow
def test_both_codes_of_tfmot_run(given):
    pytest.importorskip("tf_keras")
    names = run("docs/migrate/tfmot.md", given)
    assert names["export"].float_ops == {}
    assert 0 <= names["right"] <= 32


def flat(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


def test_torchdistills_loss_is_ours(given):
    # KDLoss: alpha * cross-entropy + (1 - alpha) * T^2 * KL, summed over classes, a mean of rows.
    models = {"student": flat(1), "teacher": flat(2)}
    x, y = given["x"], given["y"]
    ours, theirs = (m.predict(x, verbose=0).astype("float64") for m in models.values())
    hard = -special.log_softmax(ours, axis=1)[np.arange(len(y)), y].mean()
    soft = [special.softmax(z / 4.0, axis=1) for z in (theirs, ours)]
    expected = 0.1 * hard + 0.9 * 16.0 * special.rel_entr(*soft).sum(axis=1).mean()
    names = run("docs/migrate/torchdistill.md", {**given, **models})
    assert names["logs"]["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_torchdistills_own_loss_agrees(given):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 10)).astype("float32")
    (code,) = [b for b in _text(ROOT / "docs/migrate/torchdistill.md") if "kl_div" in b]
    names = {"torch": torch, "student": torch.tensor(student), "teacher": torch.tensor(teacher)}
    names["labels"] = torch.arange(5)
    exec(code, names)
    soft = kd.functional.soft_target_kl(student, teacher, temperature=4.0)
    hard = keras.losses.sparse_categorical_crossentropy(np.arange(5), student, from_logits=True)
    ours = 0.1 * np.mean(hard) + 0.9 * np.mean(soft)
    assert float(names["loss"]) == pytest.approx(float(ours), rel=1e-5)


def _text(page):
    return re.findall(r"^```text\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def test_every_pair_has_both_sides():
    for page in ("keras_io", "keras_distillation", "tfmot", "torchdistill"):
        path = ROOT / "docs" / "migrate" / f"{page}.md"
        text = path.read_text(encoding="utf-8")
        assert text.index("## Before") < text.index("## After")
        assert snippets(path)
