"""What a distiller's files hold, and that a run goes on from them as if nothing had happened."""

import operator
import re
import stat

import keras
import numpy as np
import pytest
import stored

import keras_distill as kd

LABEL_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EPOCHS, ROWS, BATCH = 4, 96, 32


@keras.saving.register_keras_serializable("keras_distill_tests")
def halved(x):
    return x / 2.0


@pytest.fixture
def teacher(small_cnn):
    """A teacher none of whose variables equals another model's by chance."""
    model = small_cnn(8, seed=9)
    rng = np.random.default_rng(9)
    for variable in model.variables:
        if "seed" not in variable.path:
            variable.assign(variable.numpy() + rng.uniform(0.01, 0.1, variable.shape))
    return model


@pytest.fixture
def make(small_cnn, teacher):
    """Builds a compiled distiller with Dropout and an adapter: `make(seed)`."""

    def build(seed=0, **options):
        objectives = [kd.SoftTargets(), kd.FeatureHint("low", "low")]
        student = small_cnn(4, dropout=0.5, seed=seed)
        distiller = kd.Distiller(student, teacher, objectives, label_weight=0.3, **options)
        distiller.compile(keras.optimizers.Adam(1e-2), LABEL_LOSS, metrics=["accuracy"])
        return distiller

    return build


@pytest.fixture
def fit(digits):
    def run(distiller, epochs=1, **options):
        x, y = digits.x_train[:ROWS], digits.y_train[:ROWS]
        return distiller.fit(
            x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, **options
        )

    return run


def adapter(distiller):
    (layer,) = distiller._adapters.values()
    return layer


def assert_same_variables(first, second):
    assert len(first.variables) == len(second.variables)
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


def test_distinct_students_differ(make):
    # What the tests below stand on: another seed is another start, and another Dropout.
    first, second = make(seed=0), make(seed=1)
    assert not np.array_equal(first.student.variables[0], second.student.variables[0])
    states = [kd.training.saving.seed_states(d)[0].numpy() for d in (first, second)]
    assert not np.array_equal(*states)


@pytest.mark.parametrize(
    "how", ["save_weights", "checkpoint.weights.h5", "checkpoint.keras", "save"]
)
def test_no_file_holds_a_tensor_of_the_teacher(how, make, fit, teacher, tmp_path):
    distiller = make()
    path = tmp_path / (how if how.startswith("checkpoint") else "d.weights.h5")
    callbacks = []
    if how.startswith("checkpoint"):
        weights_only = how.endswith(".h5")
        callbacks = [keras.callbacks.ModelCheckpoint(path, save_weights_only=weights_only)]
    fit(distiller, callbacks=callbacks)
    if how == "save_weights":
        distiller.save_weights(path)
    elif how == "save":
        path = tmp_path / "d.keras"
        distiller.save(path)

    found = stored.arrays(path)
    for variable in [*distiller.student.variables, *adapter(distiller).variables]:
        if "seed_generator" not in variable.path:
            assert stored.holds(found, variable.numpy()), variable.path
    for state in kd.training.saving.seed_states(distiller):
        assert stored.holds(found, state.numpy())
    own = [*distiller.variables, *distiller.optimizer.variables]
    foreign = {v.shape for v in teacher.variables} - {v.shape for v in own}
    assert foreign, "the teacher has shapes of its own, or this test shows nothing"
    for name, array in found.items():
        assert array.shape not in foreign, name
    for variable in teacher.variables:
        if "seed" not in variable.path:
            assert not stored.holds(found, variable.numpy()), variable.path


def test_a_loaded_file_evaluates_and_predicts_the_same(make, fit, digits, tmp_path):
    distiller = make(student_preprocess=halved, teacher_preprocess=halved)
    fit(distiller)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert type(loaded) is kd.Distiller
    x, y = digits.x_test[:50], digits.y_test[:50]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), distiller.predict(x, verbose=0))
    told = [d.evaluate(x, y, verbose=0, return_dict=True) for d in (distiller, loaded)]
    assert told[0] == told[1]
    assert set(told[0]) == {"loss", "accuracy"}


def test_training_without_the_teacher_says_how_to_go_on(make, fit, tmp_path):
    make().save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    before = [v.numpy() for v in loaded.student.variables]
    with pytest.raises(ValueError, match=r"keras_distill\.Distiller\.load\(path, teacher\)"):
        fit(loaded)
    for variable, value in zip(loaded.student.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_load_with_a_teacher_trains_on(make, fit, teacher, tmp_path):
    distiller = make()
    untrained = adapter(distiller).kernel.numpy()
    fit(distiller, epochs=2)
    assert not np.array_equal(adapter(distiller).kernel, untrained)
    distiller.save(tmp_path / "d.keras")
    loaded = kd.Distiller.load(tmp_path / "d.keras", teacher)

    assert int(loaded.optimizer.iterations) == 2 * ROWS // BATCH
    assert adapter(loaded).kernel.shape == (1, 1, 4, 8)
    assert_same_variables(adapter(loaded), adapter(distiller))
    assert [o.get_config() for o in loaded.objectives] == [
        o.get_config() for o in distiller.objectives
    ]
    assert fit(loaded, epochs=2).history == fit(distiller, epochs=2).history
    assert_same_variables(loaded.student, distiller.student)
    assert_same_variables(adapter(loaded), adapter(distiller))
    assert_same_variables(loaded.optimizer, distiller.optimizer)


def test_load_refuses_a_teacher_of_other_shapes(make, small_cnn, tmp_path):
    make().save(tmp_path / "d.keras")
    with pytest.raises(ValueError, match="not those the distiller was built with"):
        kd.Distiller.load(tmp_path / "d.keras", small_cnn(16))


def test_weights_of_another_student_are_refused(make, small_cnn, teacher, tmp_path):
    make().save_weights(tmp_path / "d.weights.h5")
    # The same layers, but no Dropout.
    layers = [layer for layer in small_cnn(4).layers if not isinstance(layer, keras.layers.Dropout)]
    plain = kd.Distiller(keras.Sequential([keras.Input((8, 8, 1)), *layers]), teacher)
    with pytest.raises(ValueError, match="another student's"):
        plain.load_weights(tmp_path / "d.weights.h5")


def test_a_function_that_has_no_name_is_refused_as_a_lambda_is(make, tmp_path):
    distiller = make(student_preprocess=operator.itemgetter(...))
    with pytest.raises(ValueError, match=r"student_preprocess is operator\.itemgetter\(Ellipsis\)"):
        distiller.save(tmp_path / "d.keras")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["student_preprocess", "teacher_preprocess", "student"])
def test_a_lambda_is_refused_before_anything_is_written(where, make, small_cnn, teacher, tmp_path):
    if where == "student":
        student = small_cnn(4, seed=1)
        layers = [keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: x / 2.0), *student.layers]
        distiller = kd.Distiller(keras.Sequential(layers), teacher)
    else:
        distiller = make(**{where: lambda x: x / 2.0})
    path = tmp_path / "d.keras"
    path.write_bytes(b"the file that was there before")
    with pytest.raises(ValueError, match="register_keras_serializable"):
        distiller.save(path)
    assert path.read_bytes() == b"the file that was there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt("by hand")])
@pytest.mark.parametrize("name", ["d.keras", "d.weights.h5"])
def test_a_save_that_fails_half_way_leaves_the_old_file(name, error, make, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"the file that was there before")
    path.chmod(0o600)
    distiller = make()

    def broken(store):
        raise error

    save = distiller.save if path.suffix == ".keras" else distiller.save_weights
    with monkeypatch.context() as patched:
        patched.setattr(distiller, "save_own_variables", broken)
        with pytest.raises(type(error), match=str(error)):
            save(path)
    assert path.read_bytes() == b"the file that was there before"
    assert list(tmp_path.iterdir()) == [path]
    save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_keras_saves_otherwise_it_saves_as_ever(make, tmp_path):
    distiller = make()
    with pytest.warns(UserWarning, match="renamed"):
        distiller.save_weights(tmp_path / "a.weights.h5", max_shard_size=1.0)
    distiller.save_weights(tmp_path / "b.weights.json", max_shard_size=1.0)
    distiller.save(tmp_path / "folder", zipped=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a.weights.json", "a_00000.weights.h5", "b.weights.json", "b_00000.weights.h5"),
        "folder",
    ]
    other = make(seed=1)
    other.load_weights(tmp_path / "b.weights.json")
    assert_same_variables(other.student, distiller.student)
    for save, name in ((distiller.save, "x.zip"), (distiller.save_weights, "x.h5")):
        with pytest.raises(ValueError, match=re.escape(f"filepath={tmp_path / name}")):
            save(tmp_path / name)


def test_overwrite_false_keeps_the_file(make, tmp_path):
    path = tmp_path / "d.keras"
    path.write_bytes(b"the file that was there before")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        make().save(path, overwrite=False)
    assert path.read_bytes() == b"the file that was there before"


class KilledAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self._epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self._epochs:
            raise KeyboardInterrupt


def assert_goes_on(whole, resumed, distillers):
    for name, logged in whole.history.items():
        assert resumed.history[name] == logged[2:], name
    first, second = distillers
    assert_same_variables(first.student, second.student)
    assert_same_variables(adapter(first), adapter(second))
    assert_same_variables(first.optimizer, second.optimizer)


def test_a_killed_run_resumes_to_the_bit(make, fit, tmp_path):
    uninterrupted = make(seed=0)
    whole = fit(uninterrupted, EPOCHS)

    backup = tmp_path / "backup"
    callbacks = [keras.callbacks.BackupAndRestore(backup), KilledAfter(2)]
    with pytest.raises(KeyboardInterrupt):
        fit(make(seed=0), EPOCHS, callbacks=callbacks)
    fresh = make(seed=1)
    resumed = fit(fresh, EPOCHS, callbacks=[keras.callbacks.BackupAndRestore(backup)])
    assert resumed.epoch == [2, 3]
    assert_goes_on(whole, resumed, (uninterrupted, fresh))


@pytest.mark.parametrize(
    "left", ['{"epoch": 1, "batch": 0}', "", '{"epo', None], ids=["old", "empty", "cut", "none"]
)
def test_killed_between_a_backups_two_files_it_resumes_to_the_bit(make, fit, tmp_path, left):
    uninterrupted = make(seed=0)
    whole = fit(uninterrupted, EPOCHS)
    backup = tmp_path / "backup"
    callbacks = [keras.callbacks.BackupAndRestore(backup), KilledAfter(2)]
    with pytest.raises(KeyboardInterrupt):
        fit(make(seed=0), EPOCHS, callbacks=callbacks)
    # The weights stand at epoch 2; the other file is still the first epoch's, or cut off.
    metadata = backup / "training_metadata.json"
    metadata.unlink() if left is None else metadata.write_text(left)

    fresh = make(seed=1)
    resumed = fit(fresh, EPOCHS, callbacks=[keras.callbacks.BackupAndRestore(backup)])
    assert resumed.epoch == [2, 3]
    assert_goes_on(whole, resumed, (uninterrupted, fresh))


def test_a_list_of_callbacks_of_kerass_own_resumes_too(make, fit, tmp_path):
    backup = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        fit(make(), EPOCHS, callbacks=[keras.callbacks.BackupAndRestore(backup), KilledAfter(2)])
    (backup / "training_metadata.json").write_text("")
    fresh = make(seed=1)
    callbacks = keras.callbacks.CallbackList(
        [keras.callbacks.BackupAndRestore(backup)], add_history=True, model=fresh, epochs=EPOCHS
    )
    assert fit(fresh, EPOCHS, callbacks=callbacks).epoch == [2, 3]


def test_weights_without_an_epoch_beside_a_cut_off_file_are_refused(make, fit, tmp_path):
    make().save_weights(tmp_path / "latest.weights.h5")
    (tmp_path / "training_metadata.json").write_text("")
    with pytest.raises(ValueError, match="initial_epoch"):
        fit(make(), EPOCHS, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])


def test_weights_of_a_checkpoint_resume_to_the_bit(make, fit, tmp_path):
    uninterrupted = make(seed=0)
    path = str(tmp_path / "epoch_{epoch}.weights.h5")
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    whole = fit(uninterrupted, EPOCHS, callbacks=[checkpoint])

    fresh = make(seed=1)
    fresh.load_weights(path.format(epoch=2))
    resumed = fit(fresh, EPOCHS, initial_epoch=2)
    assert_goes_on(whole, resumed, (uninterrupted, fresh))
