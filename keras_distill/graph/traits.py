"""What each kind of layer is, and of operation between layers, said once: a row for those alike.

A kind is found by its class's name in Keras: operations have no public classes, and not every
release has every layer. A class of a user's has the row of what it extends.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras

__all__ = ["LAYERS", "OPERATIONS", "Traits", "does", "gives", "traits_of"]

SAME, MOVED, PICKED, MIXED, COMPUTED = "same", "moved", "picked", "mixed", "computed"


@dataclass(frozen=True)
class Traits:
    """What a kind is to all that reads a model.

    Attributes:
      does: what it computes, in the word by which costs have a formula, shrinking a rule and blocks
        a meaning; "open" where its class does not tell.
      gives: what its outputs are made of. "same": its input as it is, once in a file; "moved": the
        same numbers in another place or shape; "picked": some of them, or zero beside them;
        "mixed": means of neighbours, which span what they do; "computed": anything.
      whole: what it is to numbers that stand for something (ids, classes, marks). "read": it looks
        them up; "kept": of whole numbers it makes whole ones; "made": it does so of any; "ordered":
        it answers in whole numbers and reads any.
      marks: the argument that holds such numbers, by name and place; None where there is no such.
      kernels: the weights that pruning and clustering take, with the axis of their output channels;
        an einsum's equation says which those are.
      depthwise: the weight that has filters of its own for each input channel.
      grid: what an int8 file has scales of its own for: each "channel" of kernels, or a "tensor";
        "" where it holds none of the weights.
      takes: what of "norm", a BatchNormalization, and "relu" the file makes part of it.
      width: the argument that says how many channels it makes.
      gates: how often a recurrent kernel holds each channel.
      native: whether TFMOT's own 8-bit scheme takes it without a rewriting.
      twin: whether tf_keras has a layer of this name that computes the same.
    """

    does: str = ""
    gives: str = COMPUTED
    whole: str = ""
    marks: tuple[str, int] | None = None
    kernels: Mapping[str, int] = field(default_factory=dict)
    depthwise: str = ""
    grid: str = ""
    takes: tuple[str, ...] = ()
    width: str = ""
    gates: int = 0
    native: bool = False
    twin: bool = True

    @property
    def is_view(self) -> bool:
        """Whether LiteRT makes no tensor for its output: at most another shape of its input."""
        return self.gives == SAME or self.does in ("reshaping", "new axes")


def _table(rows: Mapping[str, Traits], native: str) -> dict[str, Traits]:
    """The rows by each name that shares them."""
    return {
        name: replace(traits, native=name in native.split())
        for names, traits in rows.items()
        for name in names.split()
    }


_KERNEL, _TRANSPOSED = {"kernel": -1}, {"kernel": -2}
_GATED = {"kernel": -1, "recurrent_kernel": -1}
_FUSES = ("norm", "relu")

LAYERS = _table(
    {
        "Dense": Traits("dense", kernels=_KERNEL, grid="channel", takes=_FUSES, width="units"),
        "Conv1D Conv2D": Traits(
            "convolution", kernels=_KERNEL, grid="channel", takes=_FUSES, width="filters"
        ),
        "Conv3D": Traits("convolution", kernels=_KERNEL, width="filters"),
        "DepthwiseConv1D DepthwiseConv2D": Traits(
            "depthwise", depthwise="kernel", grid="channel", takes=_FUSES
        ),
        "SeparableConv1D SeparableConv2D": Traits(
            "separable",
            kernels={"pointwise_kernel": -1},
            depthwise="depthwise_kernel",
            grid="channel",
            takes=_FUSES,
            width="filters",
        ),
        # A ReLU they take in only where they have a bias other than zero.
        "Conv1DTranspose Conv2DTranspose": Traits(
            "transposed", kernels=_TRANSPOSED, grid="channel", takes=("norm",), width="filters"
        ),
        "Conv3DTranspose": Traits("transposed", kernels=_TRANSPOSED, width="filters"),
        "EinsumDense": Traits("einsum dense", kernels=_KERNEL, grid="tensor"),
        "Embedding": Traits(
            "embedding", whole="read", kernels={"embeddings": -1}, grid="tensor", width="output_dim"
        ),
        "ReversibleEmbedding": Traits(
            "reversible embedding",
            whole="read",
            kernels={"embeddings": -1},
            grid="tensor",
            width="output_dim",
            twin=False,
        ),
        "LSTM": Traits("recurrent", width="units", gates=4),
        "GRU": Traits("recurrent", width="units", gates=3),
        "SimpleRNN": Traits("recurrent", width="units", gates=1),
        "RNN": Traits("recurrent", twin=False),
        "LSTMCell GRUCell SimpleRNNCell": Traits("cell", kernels=_GATED, twin=False),
        "StackedRNNCells": Traits("cells", twin=False),
        "ConvLSTM1D ConvLSTM2D ConvLSTM3D": Traits("convolutional recurrent"),
        "Bidirectional": Traits("bidirectional"),
        "TimeDistributed": Traits("time distributed"),
        "SpectralNormalization": Traits("wrapped", twin=False),
        "MultiHeadAttention": Traits("multi-head attention", width="output_shape"),
        "GroupedQueryAttention": Traits("grouped attention", twin=False),
        "Attention AdditiveAttention": Traits("attention"),
        "BatchNormalization": Traits("batch normalization", takes=("relu",)),
        "LayerNormalization UnitNormalization": Traits("row normalization"),
        "RMSNormalization": Traits("row normalization", twin=False),
        "GroupNormalization": Traits("group normalization"),
        "Normalization": Traits("input normalization"),
        "Rescaling": Traits("rescaling", whole="kept"),
        "LayerScale": Traits("scale", twin=False),
        "Activation ReLU LeakyReLU ELU": Traits("activation"),
        "PReLU": Traits("learned activation"),
        "Softmax": Traits("softmax"),
        "Add Subtract Multiply": Traits("merge", whole="kept", takes=("relu",)),
        "Average": Traits("merge", takes=("relu",)),
        "Maximum Minimum": Traits("merge", PICKED),
        "Concatenate": Traits("concatenation", MOVED),
        "Dot": Traits("dot"),
        "Reshape Flatten": Traits("reshaping", MOVED),
        "Permute": Traits("transposition", MOVED),
        "RepeatVector": Traits("repetition", MOVED),
        "Cropping1D Cropping2D Cropping3D": Traits("cropping", MOVED),
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D": Traits("padding", PICKED),
        "Masking": Traits("masking", PICKED),
        "MaxPooling1D MaxPooling2D MaxPooling3D": Traits("pooling", PICKED),
        "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D": Traits(
            "pooling", PICKED, twin=False
        ),
        "AveragePooling1D AveragePooling2D AveragePooling3D": Traits("pooling", MIXED),
        "AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D": Traits(
            "pooling", twin=False
        ),
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D": Traits(
            "global pooling", PICKED
        ),
        # Means of many are small: they have a range of their own.
        "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D": Traits(
            "global pooling"
        ),
        "UpSampling1D UpSampling2D UpSampling3D Resizing": Traits("resampling", PICKED),
        "CenterCrop": Traits("resampling", MIXED),
        "Identity ActivityRegularization": Traits("identity", SAME),
        "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout"
        " GaussianNoise": Traits("dropout", SAME),
        "StochasticDepth": Traits("dropout", SAME, twin=False),
        "RandAugment AugMix CutMix MixUp Solarization RandomBrightness"
        " RandomColorDegeneration RandomColorJitter RandomContrast RandomElasticTransform"
        " RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert"
        " RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness"
        " RandomShear RandomTranslation RandomZoom": Traits("augmentation", SAME, twin=False),
        "RandomCrop": Traits("augmentation", MIXED, twin=False),
        "MaxNumBoundingBoxes": Traits("identity", SAME, twin=False),
        "AutoContrast Equalization ContrastLimitedAdaptiveHistogramEqualization": Traits(
            "image equalization", twin=False
        ),
        "StringLookup IntegerLookup TextVectorization Hashing HashedCrossing": Traits(
            "lookup", whole="read", twin=False
        ),
        "CategoryEncoding Discretization": Traits("encoding", whole="read", twin=False),
    },
    native="Add Average AveragePooling2D Concatenate Conv2D Dense Dropout DepthwiseConv2D Flatten"
    " GlobalAveragePooling2D GlobalMaxPooling2D MaxPooling2D Permute ReLU Reshape ZeroPadding2D"
    " UpSampling2D Cropping2D",
)

OPERATIONS = _table(
    {
        "Reshape Ravel": Traits("reshaping", MOVED),
        "ExpandDims Squeeze": Traits("new axes", MOVED),
        "Transpose": Traits("transposition", MOVED),
        "GetItem": Traits("item", MOVED),
        "Slice Swapaxes Moveaxis Rearrange Roll Repeat Tile BroadcastTo"
        " Split ArraySplit Hsplit Vsplit Dsplit Unstack": Traits("moving", MOVED),
        "DepthToSpace SpaceToDepth": Traits("moving", MOVED),
        "Flip Fliplr Flipud Rot90": Traits("reversal", MOVED),
        "Stack Hstack Vstack Dstack Append": Traits("stacking", MOVED),
        "Concatenate": Traits("concatenation", MOVED),
        "StopGradient Identity Copy": Traits("identity", SAME),
        "Cast": Traits("cast", whole="kept"),
        "Take TakeAlongAxis": Traits("picking", PICKED, marks=("indices", 1)),
        "Pad Tril Triu": Traits("picking", PICKED),
        "Max Min Amax Amin": Traits("reduction", PICKED),
        "MaxPool": Traits("pooling", PICKED),
        "AveragePool": Traits("pooling"),
        "Mean Sum Prod Var Std Average Median Logsumexp": Traits("reduction"),
        "Add Subtract Multiply": Traits("merge", whole="kept", takes=("relu",)),
        "Divide TrueDivide DivideNoNan": Traits("merge", whole="kept"),
        "FloorDivide Mod": Traits("merge", whole="made"),
        "Maximum Minimum": Traits("merge", PICKED),
        "Power": Traits("merge"),
        "Where": Traits("choice", whole="kept"),
        "Absolute Abs Negative Clip": Traits("elementwise", whole="kept"),
        "Floor Ceil Round Trunc Sign": Traits("elementwise", whole="made"),
        "Square Sqrt Rsqrt Cbrt Reciprocal Exp Exp2 Expm1 Log Log2 Log10 Log1p Sin Cos Tan Arcsin"
        " Arccos Arctan Sinh Cosh Arcsinh Arccosh Arctanh Erf": Traits("elementwise"),
        "Relu Relu6 Sigmoid Silu HardSilu HardSigmoid HardTanh Gelu Elu Celu Selu Tanh Softplus"
        " Softsign LeakyRelu LogSigmoid Mish SoftShrink HardShrink TanhShrink Squareplus SparsePlus"
        " SparseSigmoid Threshold": Traits("activation"),
        "Softmax LogSoftmax Sparsemax": Traits("softmax"),
        "Argmax Argmin Argsort Argpartition TopK Shape Size": Traits("order", whole="ordered"),
        "OneHot MultiHot": Traits("hot encoding", whole="read"),
        "Scatter": Traits("scattering", marks=("indices", 0)),
        "ScatterUpdate": Traits("scattering", marks=("indices", 1)),
        "SegmentSum SegmentMax SegmentMin SegmentProd": Traits(
            "scattering", marks=("segment_ids", 1)
        ),
        "Matmul": Traits("matrix product"),
        "Dot Inner Tensordot Vdot": Traits("tensor product"),
        "Einsum": Traits("einsum"),
        "DotProductAttention": Traits("product attention"),
        "Conv": Traits("tensor convolution"),
        "DepthwiseConv": Traits("tensor depthwise"),
        "SeparableConv": Traits("tensor separable"),
        "ConvTranspose": Traits("tensor transposed"),
        "Operation Function Map Scan AssociativeScan WhileLoop ForiLoop Cond Switch VectorizedMap"
        " JVP CDist Correlate FFT FFT2 IFFT2 RFFT IRFFT STFT ISTFT GaussianBlur SobelEdges": Traits(
            "open"
        ),
    },
    native="Reshape",
)
_OPEN = Traits("open", twin=False)


def traits_of(operation: Any) -> Traits:
    """What a layer, or an operation between layers, is.

    Returns:
      The row of its class, or of the first that it extends and that has one. Of a layer without
      one nothing is known ("open"); another operation of Keras' without one has no kernel.

    Example:
      >>> traits_of(keras.layers.Conv2DTranspose(2, 3)).kernels
      {'kernel': -2}
    """
    kind: Any = type(operation)
    return _of(kind)


@functools.cache
def _of(kind: type) -> Traits:
    ours = [base for base in kind.__mro__ if base.__module__.startswith("keras.")]
    if issubclass(kind, keras.layers.Layer):
        return next((LAYERS[one.__name__] for one in ours if one.__name__ in LAYERS), _OPEN)
    if not ours or ours[0].__module__.endswith("ops.linalg"):
        return _OPEN
    return OPERATIONS.get(ours[0].__name__, Traits())


def does(operation: Any, *words: str) -> bool:
    """Whether an operation computes one of these."""
    return traits_of(operation).does in words


def gives(operation: Any) -> str:
    """What an operation's outputs are made of, as it is set: see `Traits.gives`."""
    found, how = traits_of(operation).gives, getattr(operation, "interpolation", "nearest")
    if found == PICKED and how != "nearest":
        # Resampling with negative weights overshoots.
        return COMPUTED if "cubic" in str(how) or "lanczos" in str(how) else MIXED
    return found
