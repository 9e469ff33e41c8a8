"""What a file names is looked up in a closed list: no file makes us import or run anything."""

import copy
import inspect
import json
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conformance import specimens
from keras.src.utils import python_utils  # Keras has no public name for how it writes a lambda.
from typer.testing import CliRunner

import keras_distill as kd
from keras_distill import cli
from keras_distill.edge import legacy
from keras_distill.edge.bridge import LegacyLayer, legacy_layer, to_legacy, wrap_legacy
from keras_distill.edge.compress.clustering import Clusters
from keras_distill.edge.quantize.ranges import InverseRoot, Range
from keras_distill.edge.quantize.steps import LearnedGrid, LearnedRange
from keras_distill.edge.repair.caps import ChannelCap

OURS = "keras_distill>"


@pytest.fixture(scope="module")
def trap(tmp_path_factory):
    """A module that is on the path and leaves a mark where it is imported or called."""
    folder = tmp_path_factory.mktemp("trap")
    mark = folder / "sprung"
    (folder / "kd_trap.py").write_text(
        f"open({str(mark)!r}, 'a').write('imported')\n"
        f"def touch(*_, **__):\n    open({str(mark)!r}, 'a').write('called')\n"
        "class Touch:\n    from_config = __init__ = touch\n"
    )
    sys.path.insert(0, str(folder))
    yield mark
    sys.path.remove(str(folder))


@pytest.fixture
def sprung(trap):
    """Fails the test whose file imported or called the trap."""
    yield trap
    sys.modules.pop("kd_trap", None)
    assert not trap.exists(), f"the trap was {trap.read_text()}"


def code(mark):
    """A lambda that springs the trap, as Keras writes it."""
    # Its file is a constant of the code: a closure would not be written.
    function = eval(f"lambda *_, **__: open({str(mark)!r}, 'a').write('ran')")
    return {"class_name": "__lambda__", "config": {"value": python_utils.func_dump(function)}}


def named(module, name, kind=None, **more):
    """An object by module and name: a function, or a `kind` of object."""
    config = name if kind is None else {}
    return {
        "module": module,
        "class_name": kind or "function",
        "config": config,
        "registered_name": name,
        **more,
    }


def payloads(mark):
    """What no place in any config may be."""
    lambda_layer = {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"name": "evil", "function": code(mark)},
        "registered_name": None,
    }
    return {
        "function": named("kd_trap", "touch"),
        "class": named("kd_trap", "Touch", "Touch"),
        "layer of code": lambda_layer,
        "tf_keras layer": legacy_config(named("kd_trap", "touch")),
    }


def legacy_config(inner, arguments=("x",)):
    """The config of a LegacyLayer around `inner`."""
    return {
        "module": "keras_distill.edge.bridge.legacy_layer",
        "class_name": "LegacyLayer",
        "registered_name": "keras_distill>LegacyLayer",
        "config": {
            "name": "evil",
            "trainable": True,
            "layer": json.dumps(inner),
            "calls": [json.dumps([{"kind": "tuple", "content": list(arguments)}, {}])],
            "signatures": json.dumps([[[None, 4], "float32"]]),
        },
    }


def small_model(name="small"):
    layers = [
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(2, 3, name="conv"),
        keras.layers.Flatten(),
    ]
    return keras.Sequential([*layers, keras.layers.Dense(3, name="logits")], name=name)


def roots():
    """Objects whose configs hold one of each registered class."""
    model, schedules = small_model(), kd.schedules
    yield from (one.new() for one in specimens.specimens() if not one.number)
    yield from (schedules.Linear(1, 2, 3), schedules.Cosine(1, 2, 3), schedules.WarmUp(1, 2))
    yield from (schedules.Steps([1], [1, 2]), schedules.TeacherEntropy(1, 2))
    yield from (schedules.Uncertainty(), schedules.GradientNorm())
    yield from (Clusters(2), Range(), InverseRoot(), ChannelCap(), LearnedGrid(), LearnedRange())
    yield kd.edge.prune(model, 0.5)
    yield kd.edge.quantize_aware(model, calibration_data=np.ones((2, 6, 6, 1), "float32"))
    yield kd.Distiller(model, small_model("teacher"), student_preprocess=keras.activations.relu)
    yield kd.MutualDistiller([small_model("a"), small_model("b")])
    yield kd.SelfDistiller(kd.with_exits(small_model(), ["conv"]))


def parts(config):
    """Every config of a registered class of ours in a config."""
    if isinstance(config, dict):
        if str(config.get("registered_name")).startswith(OURS):
            yield config
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for item in config:
            yield from parts(item)


@pytest.fixture(scope="module")
def configs():
    # What only a file of an older version holds, no object of today writes.
    metric = keras.saving.serialize_keras_object(keras.metrics.Accuracy())
    older = layer("LabelledOnly", "keras_distill.metrics", f"{OURS}LabelledOnly", metric=metric)
    found = {f"{OURS}LegacyLayer": legacy_config({}), f"{OURS}LabelledOnly": older}
    for root in roots():
        for config in parts(keras.saving.serialize_keras_object(root)):
            found.setdefault(config["registered_name"], config)
    return found


def registered():
    custom = keras.saving.get_custom_objects()
    return sorted(
        name for name in custom if name.startswith(OURS) and inspect.isclass(custom[name])
    )


def places(config):
    """The keys to every entry of a config, and to the objects in its lists."""
    for key, value in config.items():
        yield (key,)
        items = list(enumerate(value)) if isinstance(value, list) else []
        yield from ((key, index) for index, item in items if is_object(item))


def is_object(value):
    """Whether a config holds an object here."""
    return isinstance(value, dict) and "class_name" in value


def entry(config, place):
    for key in place:
        config = config[key]
    return config


def with_payload(config, place, payload):
    config = copy.deepcopy(config)
    *way, last = place
    entry(config["config"], way)[last] = payload
    return config


@pytest.mark.parametrize("name", registered())
def test_no_place_of_a_registered_class_runs_what_a_config_names(name, configs, sprung):
    assert name in configs, f"give {name} its place in roots()"
    config = configs[name]
    for place in places(config["config"]):
        for kind, payload in payloads(sprung).items():
            try:
                keras.saving.deserialize_keras_object(with_payload(config, place, payload))
            except Exception:
                refused = True
            else:
                refused = False
            assert not sprung.exists(), f"{place} ran a {kind}"
            # A dict in the place of a number or of Keras' own policy may stay a dict.
            plain = place == ("dtype",) or not is_object(entry(config["config"], place))
            assert refused or plain, f"{place}: {kind}"


def layer(class_name, module="keras.layers", registered=None, /, **config):
    """The config of a tf_keras layer."""
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": registered,
    }


DENSE = layer("Dense", name="dense", units=2)
OPS = "tf_keras.src.layers.core.tf_op_layer"
WRAPPERS = "tf_keras.src.layers.rnn.cell_wrappers"
TFMOT = "tensorflow_model_optimization.python.core"


def nested(inner):
    """Every way in which one tf_keras config holds another."""
    recurrent = layer("LSTM", units=2)
    input_layer = layer("InputLayer", batch_input_shape=[None, 4], name="x")
    graph = {
        "name": "graph",
        "layers": [
            {**input_layer, "name": "x", "inbound_nodes": []},
            {**inner, "name": "evil", "inbound_nodes": [["x", 0, 0, {}]]},
        ],
        "input_layers": [["x", 0, 0]],
        "output_layers": [["evil", 0, 0]],
    }
    return {
        "alone": inner,
        "TimeDistributed": layer("TimeDistributed", layer=inner),
        "Bidirectional": layer("Bidirectional", layer=inner),
        "Bidirectional, backwards": layer("Bidirectional", layer=recurrent, backward_layer=inner),
        "RNN": layer("RNN", cell=inner),
        "StackedRNNCells": layer("RNN", cell=layer("StackedRNNCells", cells=[inner])),
        "Sequential": layer("Sequential", "keras", layers=[input_layer, inner]),
        "Functional": layer("Functional", "tf_keras.src.engine.functional", **graph),
        "pruned": layer(
            "PruneLowMagnitude",
            f"{TFMOT}.sparsity.keras.pruning_wrapper",
            "PruneLowMagnitude",
            layer=inner,
            pruning_schedule={"class_name": "ConstantSparsity", "config": {}},
        ),
        "in an argument": layer("Dense", units=2, kernel_initializer=inner),
        "compiled": {**DENSE, "compile_config": {"optimizer": inner}},
        "in an operation": layer(
            "Carried", None, "keras_distill>Carried", operation=json.dumps(inner), calls=[]
        ),
    }


def names(mark):
    """What no tf_keras config may name, each with what the refusal says of it."""
    function, value = code(mark), code(mark)["config"]["value"]
    as_code = {"function": value, "function_type": "lambda", "module": "builtins"}
    raw = {"output_shape": None, "output_shape_type": "raw"}
    write = {"function": "io.write_file", "name": "write"}
    return {
        "a function": named("kd_trap", "touch"),
        "a class": named("kd_trap", "Touch", "Touch"),
        "a registered name of no use": {**named("kd_trap", "Touch", "Touch"), "module": "kd_trap"},
        "os.system": named("os", "system"),
        "a module of the standard library": named("subprocess", "Popen", "Popen"),
        "a type's spec": named("kd_trap", "Touch", "__typespec__", spec_name="Touch"),
        "a lambda": function,
        "a Lambda of code": layer("Lambda", **as_code, **raw),
        "a Lambda of a function": layer(
            "Lambda", function=named("kd_trap", "touch"), function_type="function", **raw
        ),
        "a Lambda by name alone": {"class_name": "Lambda", "config": {**as_code, **raw}},
        "a wrapper of code": layer(
            "ResidualWrapper",
            WRAPPERS,
            cell=layer("LSTMCell", units=2),
            residual_fn=value,
            residual_fn_type="lambda",
            residual_fn_module="builtins",
        ),
        "a function of TensorFlow": layer("TFOpLambda", OPS, "TFOpLambda", **write),
        "a slice of TensorFlow": layer("SlicingOpLambda", OPS, None, **write),
        "an old function of TensorFlow": layer(
            "TFOpLambda", OPS, None, function="compat.v1.py_func", name="run"
        ),
        "a node of TensorFlow": layer("TensorFlowOpLayer", OPS, node_def="{}", name="node"),
        "a method": layer("InstanceMethod", OPS, method_name="eval", name="method"),
        "a file": layer("StringLookup", vocabulary=str(mark.with_name("kd_trap.py"))),
        "tf_keras' loading": named("tf_keras.models", "load_model"),
        "tf_keras' downloads": named("keras.utils", "get_file"),
        "a module inside tf_keras": named("tf_keras.src.utils.generic_utils", "func_load"),
        "TFMOT's imports": {"class_name": "tf", "config": {}},
        "a name that is none": {"class_name": ["Dense"], "config": {}},
        "a module that is none": {**DENSE, "module": ["keras.layers"]},
    }


NAMES = list(names(Path("mark")))


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize(
    "load",
    [
        keras.saving.deserialize_keras_object,
        lambda config: LegacyLayer.from_config(config["config"]),
    ],
    ids=["in a load", "alone"],
)
def test_a_tf_keras_config_names_only_what_is_listed(what, load, sprung):
    for way, inner in nested(names(sprung)[what]).items():
        config = legacy_config(inner, [str(sprung)])
        # What is in an operation, Keras 3 refuses in words of its own.
        expected = (
            None if way == "in an operation" else "^A tf_keras layer in this file has .+ at /"
        )
        # The oldest Keras reads a vocabulary for its own StringLookup, and fails behind that.
        refused = (ValueError, TypeError, AttributeError, *([] if expected else [KeyError]))
        with pytest.raises(refused, match=expected):
            load(config)
        assert not sprung.exists(), way
        assert "kd_trap" not in sys.modules, way


@tf_keras.saving.register_keras_serializable("hostile_files")
class Scaled(tf_keras.layers.Layer):
    """A registered layer."""

    def call(self, x):
        return 2.0 * x


class Shifted(tf_keras.layers.Layer):
    """A layer that nobody registered."""

    def call(self, x):
        return x + 1.0


@tf_keras.saving.register_keras_serializable("hostile_files")
def halved(x):
    return x / 2


def listed():
    """Layers of which each names something else of the list."""
    layers, tfmot = tf_keras.layers, legacy.tfmot()
    x = tf_keras.Input((4,))
    ops = tf_keras.Model(x, tf.concat([tf.nn.relu(x) * 2, tf.reshape(x[:, :2], (-1, 2))], -1))
    dense = layers.Dense(
        2,
        activation=tf.nn.leaky_relu,
        kernel_initializer=tf_keras.initializers.HeNormal(1),
        kernel_regularizer=tf_keras.regularizers.L1L2(0.1, 0.1),
        kernel_constraint=tf_keras.constraints.MaxNorm(1.0),
        dtype=tf_keras.mixed_precision.Policy("mixed_float16"),
    )
    inner = tf_keras.Sequential(
        [layers.Dense(3, "tanh"), layers.BatchNormalization()], name="inner"
    )
    inner.compile(tf_keras.optimizers.Adam(), tf_keras.losses.MeanSquaredError(), ["mae"])
    inner(np.ones((1, 4)))
    cells = layers.RNN(layers.StackedRNNCells([layers.GRUCell(2), layers.LSTMCell(2)]))
    recurrent = layers.Bidirectional(
        layers.LSTM(2), backward_layer=layers.LSTM(2, go_backwards=True)
    )
    prune = tfmot.sparsity.keras.prune_low_magnitude
    decay = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.5, 0, 10)
    cluster = tfmot.clustering.keras.cluster_weights
    start = tfmot.clustering.keras.CentroidInitialization.LINEAR
    quantized = tfmot.quantization.keras.quantize_model(tf_keras.Sequential([x, layers.Dense(2)]))
    carried = to_legacy(keras.Sequential([keras.Input((4,)), keras.layers.RMSNormalization()]))
    silu = to_legacy(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "log_sigmoid")]))
    return {
        "arguments": dense,
        "operations": ops,
        "a nested, compiled model": inner,
        "cells": cells,
        "two directions": recurrent,
        "a layer over time": layers.TimeDistributed(layers.Dense(2, "gelu")),
        "attention": layers.MultiHeadAttention(2, 2),
        "pruned": prune(layers.Dense(2), decay, input_shape=(4,)),
        "clustered": cluster(layers.Dense(2), 2, start, input_shape=(4,)),
        "quantised": quantized.layers[-1],
        "carried": carried.layers[-1],
        "Keras 3's activation": silu.layers[-1],
        "a registered layer": Scaled(),
        "a registered function": layers.Dense(2, halved),
    }


def test_what_is_listed_loads():
    for what, inner in listed().items():
        text = str(json.loads(json.dumps(legacy_layer.to_json(inner))))
        copied = legacy_layer.from_json(text)
        assert type(copied) is type(inner), what
        assert copied.name == inner.name


def with_layer(inner):
    return json.loads(json.dumps(legacy_config(json.loads(legacy_layer.to_json(inner)))))


def read(config, **options):
    return keras.saving.deserialize_keras_object(config, **options)


def test_a_layer_of_ones_own_loads_where_it_is_given():
    config = with_layer(Shifted(name="shifted"))
    config["config"]["calls"] = []
    with pytest.raises(ValueError, match=r"the class test_hostile_files\.Shifted at /: .*register"):
        read(config)
    assert isinstance(read(config, custom_objects={"Shifted": Shifted}).inner, Shifted)
    with keras.saving.custom_object_scope({"Shifted": Shifted}):
        assert isinstance(read(config).inner, Shifted)
    # Whoever trusts the file says so, as to Keras.
    assert isinstance(read(config, safe_mode=False).inner, Shifted)


def test_a_live_layer_is_copied_whatever_it_is():
    inputs = tf_keras.Input((4,))
    hidden = tf_keras.layers.Dense(3, name="hidden")(
        tf_keras.layers.Lambda(lambda x: x * 3)(inputs)
    )
    model = wrap_legacy(tf_keras.Model(inputs, Shifted(name="shifted")(hidden)))
    x = np.ones((2, 4), "float32")
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    np.testing.assert_array_equal(copied(x), model(x))


@pytest.fixture
def hostile_file(tmp_path, trap):
    """A .keras file of a wrapped model, its config changed to call the trap."""
    dense = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2, name="dense")])
    clean, hostile = tmp_path / "clean.keras", tmp_path / "hostile.keras"
    wrap_legacy(dense).save(clean)
    with zipfile.ZipFile(clean) as source, zipfile.ZipFile(hostile, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                for part in parts(config):
                    evil = legacy_config(named("kd_trap", "touch"), [str(trap)])
                    part["config"] |= {**evil["config"], "name": part["config"]["name"]}
                content = json.dumps(config)
            target.writestr(name, content)
    return hostile


def test_keras_own_loading_refuses_a_hostile_file(hostile_file, sprung):
    with pytest.raises(ValueError, match=r"the function kd_trap\.touch"):
        keras.saving.load_model(hostile_file, safe_mode=True)


@pytest.mark.parametrize("command", ["inspect", "profile", "explain", "cache"])
def test_the_command_line_refuses_a_hostile_file(command, hostile_file, tmp_path, sprung):
    data, out = tmp_path / "data.npz", tmp_path / "out"
    np.savez(data, x=np.ones((4, 4), "float32"), y=np.ones(4, "int32"))
    words = {
        "inspect": ["inspect", hostile_file],
        "profile": ["profile", hostile_file],
        "explain": ["explain", hostile_file, hostile_file, data, "--output", out],
        "cache": ["cache", "build", hostile_file, data, out],
    }
    answer = CliRunner().invoke(cli.app, [str(word) for word in words[command]])
    assert answer.exit_code == 2, answer.output
    assert "kd_trap" in answer.output
