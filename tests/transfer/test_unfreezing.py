import keras
import numpy as np
import pytest
from keras import layers

import keras_distill as kd
from keras_distill.transfer import GradualUnfreezing, copy_layers

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = np.random.default_rng(1).integers(0, 2, 8)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def model(**options):
    """body/low, body/norm, middle, head: the head is never frozen."""
    keras.utils.set_random_seed(0)
    body = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="low", **options),
            layers.BatchNormalization(name="norm", **options),
        ],
        name="body",
    )
    rest = [layers.Dense(4, name="middle", **options), layers.Dense(2, name="head", **options)]
    return keras.Sequential([keras.Input((3,)), body, *rest], name="student")


class Watch(keras.callbacks.Callback):
    """Which layers' weights, statistics included, moved in each epoch."""

    def __init__(self, student):
        super().__init__()
        body = student.get_layer("body")
        self.layers = [*body.layers, *student.layers[1:]]
        self.moved = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.before = [layer.get_weights() for layer in self.layers]

    def on_epoch_end(self, epoch, logs=None):
        self.moved[epoch] = [
            layer.name
            for layer, old in zip(self.layers, self.before, strict=True)
            if any((a != b).any() for a, b in zip(old, layer.get_weights(), strict=True))
        ]


def fit(trained, student, callback, *others, epochs=3, **options):
    watch = Watch(student)
    callbacks = [callback, *others, watch]
    trained.fit(
        X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **options
    )
    return watch.moved


def in_distiller(student, **options):
    # An adapter of a layer's name is none of the student's.
    hint = kd.FeatureHint("middle", "middle", adapter=layers.Dense(4, name="middle"))
    distiller = kd.Distiller(student, model(), [kd.SoftTargets(), hint], label_weight=0.5)
    distiller.compile("adam", LOSS, **options)
    return distiller


def alone(student, **options):
    student.compile("adam", LOSS, **options)
    return student


NAMES = ["low", "norm", "middle"]
# start=1: all frozen in epoch 0; "middle" from 1 on; "low" and the norm behind it from 2 on.
EXPECTED = {
    0: ["head"],
    1: ["middle", "head"],
    2: ["low", "norm", "middle", "head"],
}


@pytest.mark.parametrize(
    ("prepared", "jit_compile"), [(alone, True), (in_distiller, False), (in_distiller, True)]
)
def test_a_layer_moves_from_its_epoch_on_and_not_before(prepared, jit_compile):
    student = model()
    trained = prepared(student, jit_compile=jit_compile)
    assert fit(trained, student, GradualUnfreezing(NAMES)) == EXPECTED
    assert all(layer.trainable for layer in student.layers)


@pytest.mark.parametrize("prepared", [alone, in_distiller])
def test_after_a_fit_that_built_the_optimiser_and_traced_the_step(prepared):
    student = model()
    trained = prepared(student)
    trained.fit(X, Y, verbose=0)
    built = len(trained.optimizer.variables)
    assert fit(trained, student, GradualUnfreezing(NAMES)) == EXPECTED
    assert len(trained.optimizer.variables) == built


@pytest.mark.parametrize("freeze_all", [False, True])
def test_layers_frozen_beforehand(freeze_all):
    student = model()
    _, report = copy_layers(model(), student, {name: name for name in NAMES}, freeze=True)
    if freeze_all:
        student.trainable = False
        student.get_layer("head").trainable = True
    assert fit(alone(student), student, GradualUnfreezing(report)) == EXPECTED
    assert student.trainable


def test_under_loss_scaling():
    student = model(dtype="mixed_float16")
    # A scale at which no step overflows: one that did would be skipped.
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=8.0)
    student.compile(optimizer, LOSS)
    assert fit(student, student, GradualUnfreezing(NAMES)) == EXPECTED


def test_the_schedule():
    callback = GradualUnfreezing(list("abcde"), every=2, start=1, step=2)
    assert [callback.unfrozen(epoch) for epoch in range(7)] == [0, 2, 2, 4, 4, 5, 5]
    assert [GradualUnfreezing(["a", "b"], start=0).unfrozen(e) for e in range(3)] == [1, 2, 2]


def stages(asked, **options):
    student = model()
    callback = GradualUnfreezing(asked, **options)
    callback.set_model(alone(student))
    return [[layer.name for layer in stage] for stage in callback._stages]


def test_the_stages():
    # Whatever the order they are named in; the norm goes with the layer before it.
    assert stages(["norm", "middle", "low"]) == [["middle"], ["low", "norm"]]
    assert stages(NAMES, order="first_first") == [["low", "norm"], ["middle"]]
    # A nested model is one stage, so is a group; a norm in a group of its own stays there.
    assert stages(["body", "head"]) == [["head"], ["low", "norm"]]
    assert stages([["middle", "head"], "body/low", ["norm"]]) == [
        ["middle", "head"],
        ["norm"],
        ["low"],
    ]


def test_layer_objects():
    student = model()
    callback = GradualUnfreezing([student.get_layer("body"), student.get_layer("middle")])
    assert fit(alone(student), student, callback) == EXPECTED


def test_initial_epoch():
    student = model()
    moved = fit(alone(student), student, GradualUnfreezing(NAMES), initial_epoch=1)
    assert moved == {1: EXPECTED[1], 2: EXPECTED[2]}


class Killed(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def state(trained):
    return [*trained.get_weights(), *(v.numpy() for v in trained.optimizer.variables)]


@pytest.mark.slow
@pytest.mark.parametrize(("prepared", "restored_first"), [(alone, True), (in_distiller, False)])
def test_a_killed_run_goes_on_to_the_bit(prepared, restored_first, tmp_path):
    def run(*others, backup=None):
        student = model()
        copy_layers(model(), student, freeze=["body", "middle"])
        trained = prepared(student)
        callbacks = [GradualUnfreezing(NAMES), *([backup] if backup else [])]
        first, *rest = callbacks[::-1] if restored_first else callbacks
        return fit(trained, student, first, *rest, *others), trained

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)

    _, whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(Killed(1), backup=backup())
    moved, resumed = run(backup=backup())
    assert moved == {1: EXPECTED[1], 2: EXPECTED[2]}
    for one, other in zip(state(whole), state(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_is_traced_anew_without_a_change(monkeypatch):
    student = alone(model())
    made = []
    original = student.make_train_function
    monkeypatch.setattr(
        student, "make_train_function", lambda force=False: [made.append(force), original(force)]
    )
    fit(student, student, GradualUnfreezing(NAMES), epochs=5)
    # Keras' own call; epoch 0 froze, 1 and 2 let in.
    assert made == [False, True, True, True]


def test_evaluate_changes_nothing():
    student = alone(model())
    student.get_layer("middle").trainable = False
    student.evaluate(X, Y, verbose=0, callbacks=[GradualUnfreezing(NAMES)])
    assert [layer.trainable for layer in student.layers] == [True, False, True]


BEFORE_TRAINING = [
    (["lwo"], {}, "student has no layer .* 'lwo'. Did you mean 'body/low'"),
    (["body", "norm"], {}, "layers names body/norm more than once"),
    ([*NAMES, "head"], {}, "Epoch 0 has nothing to train"),
]


@pytest.mark.parametrize(("asked", "options", "said"), BEFORE_TRAINING)
def test_said_before_training(asked, options, said):
    student = alone(model())
    before = student.get_weights()
    with pytest.raises(ValueError, match=said):
        fit(student, student, GradualUnfreezing(asked, **options))
    for old, new in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_optimiser_that_does_not_know_the_layers():
    student = model()
    student.get_layer("middle").trainable = False
    alone(student).fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"built while layers were frozen.*compile\(\) again"):
        fit(student, student, GradualUnfreezing(NAMES))
    assert not student.get_layer("middle").trainable


def test_averages_of_weights():
    student = model()
    student.compile(keras.optimizers.Adam(use_ema=True), LOSS)
    with pytest.raises(ValueError, match="use_ema"):
        fit(student, student, GradualUnfreezing(NAMES))


WRONG = [
    ((["a"],), {"every": 0}, ValueError, "every is a whole number of at least 1; got 0"),
    ((["a"],), {"start": -1}, ValueError, "start is a whole number of at least 0"),
    ((["a"],), {"step": 1.5}, ValueError, "step is a whole number"),
    ((["a"],), {"order": "down"}, ValueError, "'last_first' or 'first_first'; got 'down'"),
    (([],), {}, ValueError, "no layers to unfreeze"),
    (("head",), {}, TypeError, "a list of the student's layers; got 'head'"),
]


@pytest.mark.parametrize(("args", "options", "error", "said"), WRONG)
def test_wrong_arguments(args, options, error, said):
    with pytest.raises(error, match=said):
        GradualUnfreezing(*args, **options)
