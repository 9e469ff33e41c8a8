"""A checkpoint of the student alone; callbacks that change what is trained."""

import keras
import numpy as np
import pytest

import keras_distill as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ROWS = np.random.default_rng(0).normal(size=(16, 6)).astype("float32"), np.arange(16) % 3


def dense(units, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(units), keras.layers.Dense(3)])


class Worse(keras.callbacks.Callback):
    """Shifts the student's first weights after the given epoch, before validation sees them."""

    def __init__(self, epoch):
        super().__init__()
        self.at, self.epoch = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_test_begin(self, logs=None):
        if self.epoch == self.at:
            kernel = self.model.student.trainable_variables[0]
            kernel.assign(kernel + 10.0)


@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "auto"), ("val_accuracy", "max")])
def test_the_best_student_is_kept_and_it_is_a_plain_model(tmp_path, monitor, mode):
    distiller = kd.Distiller(dense(4, 1), dense(8, 2), label_weight=1.0)
    distiller.compile(keras.optimizers.SGD(0.5), LOSS, metrics=["accuracy"])
    best = kd.callbacks.StudentCheckpoint(
        tmp_path / "best.keras", monitor=monitor, mode=mode, save_best_only=True
    )
    weights = kd.callbacks.StudentCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    spoil = Worse(epoch=3)
    logs = distiller.fit(
        *ROWS, epochs=5, validation_data=ROWS, verbose=0, callbacks=[spoil, best, weights]
    ).history
    values = logs[monitor]
    chosen = int(np.argmin(values) if mode == "auto" else np.argmax(values))
    kept = keras.saving.load_model(tmp_path / "best.keras")
    assert type(kept) is keras.Sequential
    twin = dense(4, 1)
    twin.load_weights(tmp_path / f"{chosen + 1}.weights.h5")
    for ours, theirs in zip(kept.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kept.compile("sgd", LOSS, metrics=["accuracy"])
    found = kept.evaluate(*ROWS, verbose=0, return_dict=True)[monitor.removeprefix("val_")]
    assert found == pytest.approx(values[chosen], rel=1e-5)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".h5"] * 5 + [".keras"]


def test_a_fit_without_a_student_is_refused(tmp_path):
    plain = dense(4, 1)
    plain.compile("sgd", LOSS)
    checkpoint = kd.callbacks.StudentCheckpoint(tmp_path / "best.keras")
    with pytest.raises(TypeError, match=r"ModelCheckpoint\."):
        plain.fit(*ROWS, verbose=0, callbacks=[checkpoint])


class Thaw(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.student.layers[0].trainable = True


def test_the_optimizer_is_built_for_what_a_callback_leaves_to_train():
    student = dense(4, 1)
    student.layers[0].trainable = False
    before = student.layers[0].get_weights()
    distiller = kd.Distiller(student, dense(8, 2))
    distiller.compile("adam", LOSS)
    distiller.fit(*ROWS, verbose=0, callbacks=[Thaw()])
    assert np.abs(student.layers[0].get_weights()[0] - before[0]).max() > 0
    assert len(distiller.optimizer.variables) == 2 + 2 * 4
