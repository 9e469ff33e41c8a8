"""A copy of a model's graph has inputs of the same kind."""

import keras
import pytest

from keras_distill.graph import copying
from keras_distill.transfer import submodel


def rebuilt(model):
    return copying.rebuild(model, lambda path, layer: layer)


def without_the_second(model):
    return submodel(model, keep=["first"])[0]


@pytest.mark.parametrize("copied", [rebuilt, without_the_second])
@pytest.mark.parametrize("kind", ["sparse", "ragged", "optional"])
def test_inputs_stay_of_their_kind(copied, kind):
    x = keras.Input((4,), name="given", **{kind: True})
    first, second = keras.layers.Identity(name="first"), keras.layers.Identity(name="second")
    model = keras.Model(x, second(first(x)))
    (layer,) = (one for one in copied(model).layers if one.name == "given")
    assert layer is not model.layers[0]
    assert layer.get_config() == model.layers[0].get_config()
    assert getattr(layer, kind)
