"""Every class that Keras must know to load a compressed model: importing this registers them."""

from keras_distill.edge.bridge.legacy_layer import LegacyLayer
from keras_distill.edge.compress.clustering import Clusters
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.model import CompressedModel
from keras_distill.edge.compress.pruning import Mask
from keras_distill.edge.quantize.layer import Quantized, QuantizedInput
from keras_distill.edge.quantize.ranges import InverseRoot, Range
from keras_distill.edge.quantize.steps import LearnedGrid, LearnedRange
from keras_distill.edge.quantize.weights import Grid
from keras_distill.edge.repair.caps import ChannelCap

CLASSES = (
    ChannelCap,
    Clusters,
    Compressed,
    CompressedModel,
    Grid,
    InverseRoot,
    LearnedGrid,
    LearnedRange,
    LegacyLayer,
    Mask,
    Quantized,
    QuantizedInput,
    Range,
)
