"""What frameworks keep private does what is read into it, by their public numbers."""

import ast
import importlib
import inspect
import pkgutil
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill
from keras_distill import _keras
from keras_distill.edge import legacy

ROWS = np.arange(6, dtype="float32").reshape(2, 3)


class Penalised(keras.layers.Layer):
    """Adds its input's mean to the losses; `call` has no argument `training`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(1, kernel_regularizer="l2")
        self.drop = keras.layers.Dropout(1 - 1e-6)

    def call(self, x):
        self.add_loss(keras.ops.mean(x))
        return self.inner(self.drop(x))


@pytest.fixture
def dense():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    return layer


@pytest.fixture
def old():
    tf_keras = legacy.tf_keras()
    inputs = [tf_keras.Input((3,), name="b"), tf_keras.Input((3,), name="a")]
    regularised = tf_keras.layers.Dense(
        1, kernel_regularizer="l2", activity_regularizer="l1", name="regularised"
    )
    return tf_keras.Model({"b": inputs[0], "a": inputs[1]}, {"y": regularised(sum(inputs))})


def test_a_layers_own_variables_and_flag(dense, old):
    model = keras.Sequential([keras.Input((3,)), dense])
    assert _keras.own_variables(model) == []
    assert _keras.own_variables(dense) == dense.variables
    dense.trainable = False
    assert _keras.trained_variables(dense) == dense.variables
    assert not dense.trainable_variables
    theirs = old.get_layer("regularised")
    assert [id(v) for v in _keras.own_variables(theirs)] == [id(v) for v in theirs.weights]
    for holder, held in ((model, dense), (old, theirs)):
        _keras.set_flag(holder, False)
        assert not _keras.flag(holder)
        assert not holder.trainable
        assert held.trainable == (held is theirs)


def test_what_holds_layers_and_which(dense, old):
    model = keras.Sequential([keras.Input((3,)), dense])
    assert [layer for layer in _keras.layers_of(model) if layer is dense] == [dense]
    assert _keras.holds_layers(old)
    assert not _keras.holds_layers(len)
    assert _keras.children(keras.layers.TimeDistributed(dense)) == [dense]


def test_a_call_outside_any_model_gives_its_own_losses():
    layer = Penalised()
    layer(ROWS)
    answer, losses = _keras.called(layer, False, (ROWS,), {})
    np.testing.assert_allclose(answer, ROWS @ layer.inner.kernel, rtol=1e-6)
    # The mean of 0 to 5; the regulariser's is in `layer.losses` alone.
    assert [float(loss) for loss in losses] == [2.5]
    assert len(layer.losses) == 2
    dropped, _ = _keras.called(layer, True, (ROWS,), {})
    assert not np.any(dropped)
    assert np.any(_keras.called(layer, False, (ROWS,), {})[0])


def test_asking_whether_it_is_training_leaves_nothing_behind():
    # A context that nobody resets would take the flag of the next call, and give it to all later.
    assert not _keras.is_training()
    drop = keras.layers.Dropout(1 - 1e-6)
    assert not np.array_equal(drop(ROWS, training=True), ROWS)
    np.testing.assert_array_equal(drop(ROWS), ROWS)


class Asks(keras.layers.Layer):
    """Answers whether it is called in training; its `call` is not told."""

    def call(self, x):
        return x + float(_keras.is_training())


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_is_not_told_finds_whether_it_is_training(training):
    model = keras.Sequential([keras.Input((3,)), Asks()])
    np.testing.assert_array_equal(model(ROWS, training=training), ROWS + training)


def test_variables_made_elsewhere_are_tracked():
    layer, variable = keras.layers.Layer(), keras.Variable(1.0)
    _keras.adopt(layer, [variable])
    assert layer.built
    assert layer.trainable_variables == [variable]


@pytest.mark.parametrize("operation", ["layer", "operation"])
def test_a_wrapper_is_called_as_what_is_in_it(operation):
    x = keras.Input((3,))
    inner = {
        "layer": keras.layers.Dropout(0.5),
        "operation": _keras.history(keras.ops.add(x, x)).operation,
    }[operation]
    wrapper = keras.layers.Identity()
    _keras.take_call_protocol(wrapper, inner)
    assert _keras.takes_training(wrapper) == _keras.takes_training(inner) == (operation == "layer")


def test_what_of_a_layer_keras_does_not_tell(dense):
    assert len(_keras.seed_generators(keras.layers.Dropout(0.5))) == 1
    assert not _keras.recomputes(dense)
    with keras.RematScope("full"):
        assert _keras.recomputes(keras.layers.Dense(2))


def test_inputs_as_the_first_layers_get_them(old):
    whole = tf.reshape(tf.range(6), (2, 3))
    ours = {name: keras.Input((3,), name=name) for name in ("b", "a")}
    model = keras.Model(ours, ours["a"] - ours["b"])
    line = keras.Sequential([keras.Input((3,)), keras.layers.ReLU()])
    assert set(_keras.input_structure(model)) == set(ours)
    assert _keras.input_structure(line.layers[0]) is None
    for one in (model, old):
        first = [_keras.history(x)[0].name for x in one.inputs]
        made = dict(zip(first, _keras.standardized(one, {"a": whole, "b": -whole}), strict=True))
        np.testing.assert_array_equal(made["a"], whole)
        np.testing.assert_array_equal(made["b"], -whole)
    assert len(_keras.standardized(line, whole)) == 1


def test_a_graph_runs_with_others_in_its_operations_places(dense):
    model = keras.Model(x := keras.Input((3,)), dense(x))
    doubled = _keras.run_through(model, ROWS, lambda layer: lambda x: 2 * x)
    np.testing.assert_array_equal(doubled, 2 * ROWS)
    twin = _keras.operation_like(_keras.history(model.outputs[0]).operation)
    assert _keras.first_call(twin) is None
    assert _keras.first_call(dense) is not None


def test_fit_begins_where_a_callback_says():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    assert _keras.loss_tracker(model) is model.metrics[0]
    begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: _keras.begin_at(model, 2))
    history = model.fit(ROWS, ROWS[:, :1], epochs=3, callbacks=[begin], verbose=0)
    assert history.epoch == [2]
    _keras.check_known(model.optimizer, model.trainable_variables)
    with pytest.raises(ValueError, match="Unknown variable"):
        _keras.check_known(model.optimizer, [keras.Variable(1.0)])
    assert None not in _keras.compiled(model)
    _keras.forget_compiled(model)
    model.compile("sgd")
    assert _keras.compiled(model) == (None, None)


def test_whether_a_file_is_trusted(tmp_path):
    seen = []

    @keras.saving.register_keras_serializable("asking")
    class Asking(keras.layers.Layer):
        @classmethod
        def from_config(cls, config):
            seen.append(_keras.safe_mode())
            return super().from_config(config)

    keras.Sequential([keras.Input((1,)), Asking()]).save(tmp_path / "m.keras")
    for safe in (True, False):
        keras.saving.load_model(tmp_path / "m.keras", safe_mode=safe)
    assert seen == [True, False]
    assert _keras.legacy.safe_mode() is None
    with _keras.legacy.safe_mode_scope(True):
        assert _keras.legacy.safe_mode() is True


def test_a_graph_of_tf_keras(old):
    given, returned = _keras.legacy.structures(old)
    assert set(given) == {"a", "b"}
    assert list(returned) == ["y"]
    layer = old.get_layer("regularised")
    (x,), rest = _keras.legacy.first_call(layer)
    assert _keras.legacy.is_symbolic(x)
    assert not rest
    assert not _keras.legacy.is_symbolic(ROWS)
    tf_keras = legacy.tf_keras()
    line = tf_keras.Sequential([tf_keras.layers.Dense(1)])
    assert _keras.legacy.is_graph(old)
    assert not _keras.legacy.is_graph(line)
    line.build((None, 3))
    assert tuple(_keras.legacy.built_shape(line)) == (None, 3)
    assert _keras.legacy.takes_training(tf_keras.layers.Dropout(0.5))
    assert not _keras.legacy.takes_training(layer)
    _keras.legacy.rename(layer, "other")
    assert layer.name == "other"


def test_penalties_of_tf_keras(old):
    layer = old.get_layer("regularised")
    ((variable, penalty),) = _keras.legacy.penalties(layer)
    assert variable is layer.kernel
    np.testing.assert_allclose(penalty(), 0.01 * np.sum(np.square(layer.kernel)), rtol=1e-5)
    answer = layer(ROWS)
    (noted,) = _keras.legacy.noted_losses(layer)
    # "l1" of an activity, over two rows.
    np.testing.assert_allclose(noted, 0.01 * np.sum(np.abs(answer)) / 2, rtol=1e-5)


def test_a_layer_of_tf_keras_shares_variables():
    carrier = legacy.tf_keras().layers.Layer()
    values = [tf.Variable(float(number)) for number in range(3)]
    for number, trained in enumerate((True, False, None)):
        _keras.legacy.share(carrier, values[number], f"shared_{number}", trained)
    assert [float(v) for v in carrier.trainable_weights] == [0.0]
    assert [float(v) for v in carrier.non_trainable_weights] == [1.0]


@pytest.mark.parametrize(("module", "name"), _keras.legacy.UNEXPORTED)
def test_what_tf_keras_exports_under_no_name_is_there(module, name):
    legacy.tf_keras()
    assert inspect.isclass(getattr(importlib.import_module(module), name))


def ours_below(kind):
    for one in kind.__subclasses__():
        if one.__module__.startswith("keras_distill.") and "._keras" not in one.__module__:
            yield one
        yield from ours_below(one)


def own_names(kind):
    """The private names that a class reads and writes on itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in attributes if ast.unparse(node.value) in ("self", "super()")}


def test_no_class_of_ours_has_a_name_that_keras_keeps():
    for module in pkgutil.walk_packages(keras_distill.__path__, "keras_distill."):
        # What is read in a child alone has no package around it.
        if not module.name.startswith("keras_distill.litert.serve"):
            importlib.import_module(module.name)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(ROWS, ROWS[:, :1], verbose=0)
    kept = {
        keras.Model: model,
        keras.Layer: model.layers[0],
        keras.metrics.Metric: model.metrics[0],
        keras.callbacks.ModelCheckpoint: keras.callbacks.ModelCheckpoint("x.keras"),
    }
    clashes = {
        (kind.__name__, name)
        for base, one in kept.items()
        for kind in ours_below(base)
        for name in own_names(kind)
        if name.startswith("_") and not name.startswith("__") and hasattr(one, name)
    }
    assert not clashes
