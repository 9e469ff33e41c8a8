"""Every class that Keras must know to load a compressed model: importing this registers them."""

from .bridge.legacy_layer import LegacyLayer
from .compress.clustering import Clusters
from .compress.layer import Compressed
from .compress.model import CompressedModel
from .compress.pruning import Mask
from .quantize.layer import Quantized, QuantizedInput
from .quantize.ranges import InverseRoot, Range
from .quantize.weights import Grid

CLASSES = (
    Clusters,
    Compressed,
    CompressedModel,
    Grid,
    InverseRoot,
    LegacyLayer,
    Mask,
    Quantized,
    QuantizedInput,
    Range,
)
