"""What Keras' own quantize() made is told by its name, wherever a float model is wanted."""

import keras
import pytest

from keras_distill import edge, transfer

layers = keras.layers


def model():
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(8, activation="relu", name="first"),
            layers.Dense(8, name="second"),
            layers.Dense(4, name="out"),
        ],
        name="net",
    )


@pytest.fixture(scope="module", params=["int8", "int4", "float8"])
def quantised(request):
    made = model()
    try:
        made.quantize(request.param)
    except ValueError as error:
        pytest.skip(f"this Keras has no {request.param}: {error}")
    return made, request.param


@pytest.mark.parametrize(
    "take",
    [
        edge.inspect,
        edge.quantize_aware,
        edge.prune,
        edge.cluster,
        edge.to_legacy,
        lambda one: edge.export_tflite(one, "never.tflite"),
        lambda one: transfer.shrink(one, 0.5),
        lambda one: transfer.submodel(one, 1),
        lambda one: transfer.copy_layers(one, model()),
        lambda one: transfer.copy_layers(model(), one),
        lambda one: transfer.copy_important(one, model()),
    ],
)
def test_it_is_refused_by_name(quantised, take):
    made, mode = quantised
    named = rf"'net' was quantised by Keras.*'first'.*'{mode}'.*float"
    with pytest.raises(ValueError, match=named):
        take(made)
