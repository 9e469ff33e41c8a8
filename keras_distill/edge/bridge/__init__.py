"""Between Keras 3 and tf_keras, layer by layer, both ways."""

from .backward import to_keras3
from .forward import to_legacy
from .legacy_layer import LegacyLayer
from .wrap import wrap_legacy

__all__ = ["LegacyLayer", "to_keras3", "to_legacy", "wrap_legacy"]
