"""The table of what a file makes one operation of is what a converted file holds."""

import keras
import numpy as np
import pytest

from keras_distill import edge
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize import layout
from keras_distill.graph import fusion
from keras_distill.graph.cost.footprint import joined_steps
from keras_distill.graph.replay import trace

layers = keras.layers
RELUS = {
    "relu": layers.ReLU,
    "relu6": lambda **options: layers.ReLU(6.0, **options),
    "activation": lambda **options: layers.Activation("relu", **options),
    "leaky": lambda **options: layers.LeakyReLU(0.1, **options),
    "relu of 4": lambda **options: layers.ReLU(4.0, **options),
}
KERNELS = {
    "conv": lambda x: layers.Conv2D(4, 3)(x),
    "depthwise": lambda x: layers.DepthwiseConv2D(3)(x),
    "separable": lambda x: layers.SeparableConv2D(4, 3)(x),
    "transposed": lambda x: layers.Conv2DTranspose(4, 3)(x),
    "dense": lambda x: layers.Dense(4)(layers.Flatten()(x)),
    "conv of time": lambda x: layers.Conv1D(4, 3)(layers.Reshape((36, 4))(x)),
    "separable of time": lambda x: layers.SeparableConv1D(4, 3)(layers.Reshape((36, 4))(x)),
    "transposed of time": lambda x: layers.Conv1DTranspose(4, 3)(layers.Reshape((36, 4))(x)),
}
OTHERS = {
    "add": lambda x: layers.Add()([x, layers.Conv2D(4, 1, activation="tanh")(x)]),
    "subtract": lambda x: layers.Subtract()([x, layers.Conv2D(4, 1, activation="tanh")(x)]),
    "multiply": lambda x: layers.Multiply()([x, layers.Conv2D(4, 1, activation="tanh")(x)]),
    "average": lambda x: layers.Average()([x, layers.Conv2D(4, 1, activation="tanh")(x)]),
    "maximum": lambda x: layers.Maximum()([x, layers.Conv2D(4, 1, activation="tanh")(x)]),
    "sum": lambda x: x + layers.Conv2D(4, 1, activation="tanh")(x),
    "norm": lambda x: layers.BatchNormalization()(x),
    "largest": lambda x: layers.GlobalMaxPooling2D()(x),
}


def branches():
    x = keras.Input((6, 6, 4))
    found = {
        **{f"{name}, relu": layers.ReLU()(make(x)) for name, make in (KERNELS | OTHERS).items()},
        **{f"conv, {name}": relu()(layers.Conv2D(4, 3)(x)) for name, relu in RELUS.items()},
        **{f"{name}, norm": layers.BatchNormalization()(make(x)) for name, make in KERNELS.items()},
        **{
            f"{name}, norm, relu": layers.ReLU()(layers.BatchNormalization()(make(x)))
            for name, make in KERNELS.items()
        },
    }
    model = keras.Model(x, found)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        # A norm that does nothing would be folded away; a bias of zero is what a layer begins with.
        if weight.name != "bias":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model, list(found)


MODEL, NAMES = branches()
_RELU_OPERATIONS = ("RELU", "RELU6", "LEAKY_RELU", "MINIMUM", "MAXIMUM")


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    path = tmp_path_factory.mktemp("fusion") / "every.tflite"
    edge.export_tflite(MODEL, path)
    return edge.load_tflite(path).endings()


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_file_holds(endings, name):
    branch = keras.Model(MODEL.input, MODEL.output[name])
    graph = trace(branch)
    last = graph.steps[-1]
    maker = graph.steps[last.inputs[0].step]
    if fusion.is_relu(last.operation):
        said = fusion.takes_relu(maker.operation)
        held = endings[name] not in _RELU_OPERATIONS
    elif isinstance(last.operation, layers.BatchNormalization):
        said = fusion.takes_norm(maker.operation)
        held = endings[name] not in ("MUL", "ADD")
    else:
        said, held = False, endings[name] not in _RELU_OPERATIONS
    assert said == held, endings[name]
    # Those who read the table agree.
    joined = joined_steps(graph, [step.operation for step in graph.steps])
    assert (len(graph.steps) - 1 in joined) == said
    assert (layout.plan(Analysis(branch))[maker.path].outputs == (False,)) == said
