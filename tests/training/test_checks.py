"""What a Distiller refuses or warns of before any training."""

import warnings

import keras
import numpy as np
import pytest

import keras_distill as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ROWS = np.random.default_rng(0).normal(size=(8, 6)).astype("float32"), np.arange(8) % 3


def dense(units=3, **options):
    hidden = keras.layers.Dense(units, name="hidden", **options)
    return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(3, **options)])


def compiled(student, *objectives, loss=LOSS):
    distiller = kd.Distiller(student, dense(8), list(objectives) or None)
    distiller.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return distiller


def frozen():
    model = dense()
    model.trainable = False
    return model


def quantised():
    model = dense(use_bias=False)
    model.quantize("int8")
    return model


@pytest.mark.parametrize("make", [frozen, quantised])
def test_a_student_without_trainable_weights(make):
    distiller = compiled(make())
    assert np.isfinite(distiller.evaluate(*ROWS, verbose=0)).all()
    for train in (lambda: distiller.fit(*ROWS, verbose=0), lambda: distiller.train_on_batch(*ROWS)):
        with pytest.raises(ValueError, match=r"no trainable weights.*edge\.quantize_aware"):
            train()


def test_adapters_alone_may_be_trained_first():
    student = frozen()
    distiller = compiled(student, kd.FeatureHint("hidden", "hidden"))
    before = student.get_weights()
    with pytest.warns(UserWarning, match="only the objectives' adapters"):
        logs = distiller.fit(*ROWS, epochs=3, verbose=0).history
    assert logs["feature_hint"][-1] < logs["feature_hint"][0]
    for ours, theirs in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_that_a_callback_unfreezes_train():
    class Unfreeze(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.student.trainable = True

    distiller = compiled(frozen())
    before = distiller.student.get_weights()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras': the optimiser has not seen these weights
        distiller.fit(*ROWS, verbose=0, callbacks=[Unfreeze()])
    assert not np.array_equal(before, distiller.student.get_weights()[0])


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.scores = keras.layers.Dense(4), keras.layers.Dense(3)
        self(np.ones((1, 6), "float32"))

    def call(self, inputs):
        return self.scores(self.hidden(inputs))


@pytest.mark.parametrize("name", ["train_step", "test_step", "compute_loss", "compute_metrics"])
def test_a_students_own_steps_are_not_passed_over_in_silence(name):
    def never(self, *args, **kwargs):
        raise AssertionError("a Distiller calls it")

    # An heir of the class that defines it, as models of a zoo are.
    kind = type("Heir", (type("Steps", (Own,), {name: never}),), {})
    with pytest.warns(UserWarning, match=rf"own {name} \(Steps\.{name}\) is not called here"):
        distiller = compiled(kind())
    distiller.fit(*ROWS, validation_data=ROWS, verbose=0)


def test_students_that_define_no_steps_of_their_own_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled(Own())
        compiled(kd.edge.prune(dense(), sparsity=0.5))
