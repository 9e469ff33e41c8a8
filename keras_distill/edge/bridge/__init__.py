"""Between Keras 3 and tf_keras, layer by layer, both ways."""

from keras_distill.edge.bridge.backward import to_keras3
from keras_distill.edge.bridge.forward import to_legacy
from keras_distill.edge.bridge.legacy_layer import LegacyLayer
from keras_distill.edge.bridge.wrap import wrap_legacy

__all__ = ["LegacyLayer", "to_keras3", "to_legacy", "wrap_legacy"]
