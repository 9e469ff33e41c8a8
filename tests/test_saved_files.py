"""What version 0.1.0 wrote (models, a cache, a chain's folder) loads and answers now."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from saved import make
from stored import is_newer

import keras_distill as kd

SAVED = Path(make.__file__).parent
NAMES = sorted(path.stem for path in SAVED.glob("*.keras"))
ANSWERS = np.load(SAVED / "answers.npz")


pytestmark = pytest.mark.skipif(
    is_newer(SAVED / "teacher.keras"), reason="an earlier Keras does not load files of a later one"
)


def load(name):
    return keras.saving.load_model(SAVED / f"{name}.keras")


def assert_answers(model, name):
    np.testing.assert_allclose(model.predict(make.X, verbose=0), ANSWERS[name], atol=1e-5)


def test_there_are_files():
    assert {"distiller", "pruned", "quantized", "clustered", "wrapped_tfmot"} <= {*NAMES}


@pytest.mark.parametrize("name", sorted({*NAMES} - {"quantized"}))
def test_a_saved_model_answers_as_it_did(name):
    assert_answers(load(name), name)


def test_a_saved_quantized_model_answers_as_it_did_but_for_a_step():
    # Since then it rounds as the file's kernels do, with biases on the steps of their sums.
    model = load("quantized")
    low, high = model.layers[-1].output_ranges[0].bounds()
    apart = np.abs(model.predict(make.X, verbose=0) - ANSWERS["quantized"])
    assert apart.max() < 1.5 * (high - low) / 255
    assert (apart < 1e-5).mean() > 0.5


def test_a_saved_distiller_evaluates_and_trains_on():
    loaded = kd.Distiller.load(SAVED / "distiller.keras", load("teacher"))
    assert loaded.optimizer.iterations == 3
    # The mean over ten updates of a line from 4 to 2, at the fourth.
    history = loaded.fit(make.X, make.Y, batch_size=24, epochs=1, verbose=0).history
    assert history["soft_targets_temperature"] == [pytest.approx(4.0 - 3 * 0.2)]
    assert 0 <= loaded.evaluate(make.X, make.Y, verbose=0, return_dict=True)["accuracy"] <= 1


def test_saved_weights_go_into_a_distiller_built_alike():
    teacher = load("teacher")
    objectives = [
        kd.SoftTargets(temperature=kd.schedules.Linear(4.0, 2.0, steps=10)),
        kd.FeatureHint("conv", "conv"),
    ]
    distiller = kd.Distiller(make.network(4, "student", 7), teacher, objectives)
    distiller.compile(keras.optimizers.Adam(1e-2), make.LOSS, metrics=["accuracy"])
    distiller.load_weights(SAVED / "distiller.weights.h5")
    assert_answers(distiller, "distiller")


@pytest.mark.parametrize("name", ["pruned", "pruned_2_4"])
def test_a_saved_pruned_model_trains_on_and_keeps_its_zeros(name):
    model = load(name)
    zeros = [kernel == 0 for kernel in kernels(model)]
    assert sum(map(np.sum, zeros)) > 0
    make.train(kd.Distiller(model, load("teacher")))
    assert all(
        np.array_equal(kernel == 0, z) for kernel, z in zip(kernels(model), zeros, strict=True)
    )


def test_a_saved_clustered_model_trains_on_and_keeps_its_few_values():
    model = load("clustered")
    make.train(kd.Distiller(model, load("teacher")))
    # The depthwise kernel is not clustered.
    assert [len(np.unique(kernel)) <= 4 for kernel in kernels(model)] == [True, False, True]


def test_a_saved_quantized_model_becomes_a_file_of_integers(tmp_path):
    model = load("quantized")
    export = kd.edge.export_tflite(model, tmp_path / "q.tflite", precision="int8")
    assert not export.float_ops
    found = kd.edge.load_tflite(export.path).predict(make.X)
    assert np.corrcoef(found.ravel(), ANSWERS["quantized"].ravel())[0, 1] > 0.99


def test_a_saved_cache_opens_and_gives_its_teachers_answers(tmp_path):
    shutil.copytree(SAVED / "cache", tmp_path / "cache")
    cache = kd.TeacherCache.open(tmp_path / "cache", (make.X, make.Y))
    batch, _ = next(iter(cache.dataset(24, shuffle=False)))
    best = np.argmax(ANSWERS["teacher"], -1)
    assert np.array_equal(np.asarray(batch.teacher["indices"])[:, 0], best)


def test_the_folder_of_a_finished_chain_trains_nothing_again(tmp_path):
    shutil.copytree(SAVED / "chain", tmp_path / "chain")
    trained = []
    for model in make.chain(load("teacher"), tmp_path / "chain", trained):
        assert_answers(model, f"chain_{model.name}")
    assert trained == []


def kernels(model):
    """As they are once the wrappers are off."""
    found = kd.edge.strip(model).trainable_weights
    return [np.asarray(weight) for weight in found if len(weight.shape) > 1]
