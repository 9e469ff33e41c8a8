"""The one table of kinds: every layer of Keras has a row, and plain Keras does what it says."""

import inspect

import keras
import numpy as np
import pytest

from keras_distill.graph.traits import LAYERS, OPERATIONS, does, gives, traits_of

layers, ops = keras.layers, keras.ops
# They say nothing of what a call computes: bases, and holders of others' code or of several layers.
WITHOUT = {
    *("Layer", "Wrapper", "InputLayer", "Lambda", "Pipeline", "TFSMLayer", "JaxLayer", "FlaxLayer"),
    *("TorchModuleWrapper", "MelSpectrogram", "STFTSpectrogram"),
}
# Of Keras' own applications.
INTERNAL = {"LayerScale", "StochasticDepth"}
PUBLIC = {
    kind.__name__
    for kind in vars(layers).values()
    if inspect.isclass(kind) and issubclass(kind, layers.Layer)
}
ARGUMENTS = {
    **{f"Cropping{rank}D": {"cropping": 1} for rank in "123"},
    **{name: {"height": 2, "width": 2} for name in ("CenterCrop", "RandomCrop", "Resizing")},
    **{f"{how}Pooling{rank}D": {"pool_size": 2} for how in ("Max", "Average") for rank in "123"},
    **{name: {"output_size": 2} for name in LAYERS if name.startswith("Adaptive")},
    **{name: {"rate": 0.5} for name in LAYERS if name.endswith("Dropout") or "lDropout" in name},
    "GaussianNoise": {"stddev": 0.5},
    "MaxNumBoundingBoxes": {"max_number": 3},
    "Permute": {"dims": (2, 1, 3)},
    "RandomRotation": {"factor": 0.5},
    "RandomTranslation": {"height_factor": 0.5, "width_factor": 0.5},
    "RandomZoom": {"height_factor": 0.5},
    "RandomPosterization": {"factor": 4},
    "RepeatVector": {"n": 2},
    "Reshape": {"target_shape": (-1,)},
}
FACTORS = ("Brightness", "ColorDegeneration", "Contrast", "Hue", "Saturation", "Sharpness")
ARGUMENTS |= {f"Random{name}": {"factor": 0.5} for name in FACTORS}
OF_PAIRS = ("merge", "concatenation")
CALLS = {
    "Reshape": lambda x: ops.reshape(x, (-1,)),
    "Ravel": ops.ravel,
    "ExpandDims": lambda x: ops.expand_dims(x, 1),
    "Squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "Transpose": ops.transpose,
    "GetItem": lambda x: x[:, ::-1],
    "Slice": lambda x: ops.slice(x, (0, 1, 0, 0), (2, 2, 4, 3)),
    "Swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "Moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "Roll": lambda x: ops.roll(x, 1, 1),
    "Repeat": lambda x: ops.repeat(x, 2, 1),
    "Tile": lambda x: ops.tile(x, (1, 2, 1, 1)),
    "BroadcastTo": lambda x: ops.broadcast_to(x, (5, *x.shape)),
    "Split": lambda x: ops.split(x, 2, 1)[0],
    "Unstack": lambda x: ops.unstack(x, axis=1)[0],
    "DepthToSpace": lambda x: ops.nn.depth_to_space(ops.tile(x, (1, 1, 1, 4)), 2),
    "Flip": lambda x: ops.flip(x, 1),
    "Rot90": lambda x: ops.rot90(x, axes=(1, 2)),
    "Stack": lambda x: ops.stack([x, -x]),
    "Hstack": lambda x: ops.hstack([x, -x]),
    "Vstack": lambda x: ops.vstack([x, -x]),
    "Append": lambda x: ops.append(x, -x, axis=-1),
    "Concatenate": lambda x: ops.concatenate([x, -x]),
    "Copy": ops.copy,
    "StopGradient": ops.stop_gradient,
    "Take": lambda x: ops.take(x, [2, 0], axis=1),
    "TakeAlongAxis": lambda x: ops.take_along_axis(x, ops.zeros_like(x, "int32"), axis=1),
    "Pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "Tril": ops.tril,
    "Triu": ops.triu,
    "Max": lambda x: ops.max(x, 1),
    "Min": lambda x: ops.min(x, 1),
    "Amax": lambda x: ops.amax(x, 1),
    "Amin": lambda x: ops.amin(x, 1),
    "MaxPool": lambda x: ops.max_pool(x, 2),
    "Maximum": lambda x: ops.maximum(x, -x),
    "Minimum": lambda x: ops.minimum(x, -x),
}


def images(name):
    rank = next((int(digit) for digit in "13" if f"{digit}D" in name), 2)
    shape = (6,) if name == "RepeatVector" else (*(4,) * rank, 3)
    return np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")


def relation(x, y, also=()):
    """The closest of what `Traits.gives` tells apart."""
    x = np.concatenate([x.ravel(), *also])
    if x.shape == y.ravel().shape and (x == y.ravel()).all():
        return "same"
    if np.isin(y, x).all():
        return "moved"
    if np.isin(y, [0.0, *x]).all():
        return "picked"
    inside = y.min() >= min(x.min(), 0) - 1e-6 and y.max() <= max(x.max(), 0) + 1e-6
    return "mixed" if inside else "computed"


CLOSER = ("same", "moved", "picked", "mixed", "computed")


def test_every_layer_of_keras_has_a_row():
    assert PUBLIC - LAYERS.keys() == WITHOUT & PUBLIC
    assert not WITHOUT & LAYERS.keys()


def test_a_row_is_of_a_layer_that_there_is():
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15):
        pytest.skip("older releases lack some")
    assert LAYERS.keys() - PUBLIC == INTERNAL


@pytest.mark.parametrize(
    "name", sorted(name for name in LAYERS.keys() & PUBLIC if LAYERS[name].gives != "computed")
)
def test_what_a_layer_gives(name):
    layer, x = getattr(layers, name)(**ARGUMENTS.get(name, {})), images(name)
    pair = does(layer, *OF_PAIRS)
    options = {"training": False} if does(layer, "augmentation", "dropout") else {}
    y = np.asarray(layer([x, -x]) if pair else layer(x, **options))
    found = relation(x, y, [-x.ravel()] if pair else [])
    # What happens not to move anything is no more than "moved", and so on.
    assert CLOSER.index(found) <= CLOSER.index(gives(layer)), found
    if traits_of(layer).is_view:
        assert (x.ravel() == y.ravel()).all()


@pytest.mark.parametrize(
    ("interpolation", "said"),
    [("nearest", "picked"), ("bilinear", "mixed"), ("bicubic", "computed")],
)
def test_what_resampling_gives_is_a_matter_of_its_interpolation(interpolation, said):
    x = images("")
    for layer in (
        layers.UpSampling2D(2, interpolation=interpolation),
        layers.Resizing(9, 7, interpolation=interpolation),
    ):
        assert gives(layer) == said
        assert CLOSER.index(relation(x, np.asarray(layer(x)))) <= CLOSER.index(said)


@pytest.mark.parametrize("name", CALLS)
def test_what_an_operation_gives(name):
    if name == "DepthToSpace" and not hasattr(ops.nn, "depth_to_space"):
        pytest.skip("this release of Keras has none")
    x = images("")
    shown = keras.Model(given := keras.Input(batch_shape=x.shape), CALLS[name](given))
    operation = [one for one in shown.operations if type(one).__name__ == name][-1]
    pairs = [-x.ravel()] if does(operation, "merge", "concatenation", "stacking") else []
    found = relation(x, np.asarray(CALLS[name](ops.convert_to_tensor(x))), pairs)
    assert CLOSER.index(found) <= CLOSER.index(gives(operation)), found
    assert gives(operation) != "computed"


def test_tf_keras_has_the_layers_that_are_said_to_have_a_twin():
    import tf_keras

    # What both have and do not compute alike has none: lookups, RNN over a cell of one's own.
    assert all(hasattr(tf_keras.layers, name) for name, one in LAYERS.items() if one.twin)


class Halving(layers.Dense):
    def call(self, x):
        return super().call(x) / 2


class Own(layers.Layer):
    pass


def test_a_class_of_ones_own_is_what_it_extends():
    assert traits_of(Halving(2)) is LAYERS["Dense"]
    assert does(Own(), "open")
    # Not by its name.
    assert does(type("Flatten", (layers.Layer,), {})(), "open")


def test_operations_have_rows_of_their_own():
    x = keras.Input((2, 2))
    average, dot = keras.Model(x, [ops.average(x, 1), ops.dot(x, x)]).operations[1:]
    assert traits_of(average) is OPERATIONS["Average"] != LAYERS["Average"]
    assert does(dot, "tensor product")
    assert does(layers.Dot(1), "dot")
