"""What kinds of operations there are, to a file of integers."""

from __future__ import annotations

from typing import Any

import keras

from ...graph.replay import Step
from . import affine, normalizations

layers = keras.layers

# The axes along which each weight has scales of its own.
KERNELS: tuple[tuple[type, dict[str, tuple[int, ...]]], ...] = (
    (layers.SeparableConv1D, {"depthwise_kernel": (-2, -1), "pointwise_kernel": (-1,)}),
    (layers.SeparableConv2D, {"depthwise_kernel": (-2, -1), "pointwise_kernel": (-1,)}),
    (layers.DepthwiseConv1D, {"kernel": (-2, -1)}),
    (layers.DepthwiseConv2D, {"kernel": (-2, -1)}),
    (layers.Conv1DTranspose, {"kernel": (-2,)}),
    (layers.Conv2DTranspose, {"kernel": (-2,)}),
    (layers.Conv1D, {"kernel": (-1,)}),
    (layers.Conv2D, {"kernel": (-1,)}),
    (layers.Dense, {"kernel": (-1,)}),
    (layers.EinsumDense, {"kernel": ()}),
    (layers.Embedding, {"embeddings": ()}),
)
# They hand on what they were given, or some of it: the same range holds.
SAME_RANGE = frozenset(
    (
        *("Reshape", "Flatten", "Permute", "RepeatVector", "Identity", "Masking", "Dropout"),
        *("SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout"),
        *("GaussianNoise", "ActivityRegularization", "ZeroPadding1D", "ZeroPadding2D"),
        *("Cropping1D", "Cropping2D", "MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D"),
        *("GlobalMaxPooling2D", "AveragePooling1D", "AveragePooling2D", "UpSampling1D"),
        *("UpSampling2D", "Resizing", "CenterCrop"),
        *("Transpose", "Squeeze", "ExpandDims", "GetItem", "Pad", "Slice", "Ravel", "Swapaxes"),
        *("Moveaxis", "Max", "Min", "Split", "Unstack", "StopGradient"),
    )
)
# What TFMOT's own 8-bit scheme takes without a rewriting.
NATIVE = frozenset(
    (
        *("Add", "Average", "AveragePooling2D", "Concatenate", "Conv2D", "Dense", "Dropout"),
        *("DepthwiseConv2D", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
        *("MaxPooling2D", "Permute", "ReLU", "Reshape", "ZeroPadding2D", "UpSampling2D"),
        "Cropping2D",
    )
)
# Of these, the ones that hand over the same numbers in another place or shape.
MOVING = frozenset(
    (
        *("Reshape", "Flatten", "Permute", "Cropping1D", "Cropping2D", "Transpose", "Squeeze"),
        *("ExpandDims", "GetItem", "Slice", "Ravel", "Swapaxes", "Moveaxis", "Split", "Unstack"),
    )
)
FOLDING = tuple(kind for kind, weights in KERNELS if any(weights.values()))
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)
# LiteRT's transposed convolution takes no ReLU in.
FUSING = (
    *(kind for kind in FOLDING if kind not in TRANSPOSED),
    *(layers.BatchNormalization, layers.Add, layers.Subtract, layers.Multiply),
)
FUSING_OPERATIONS = frozenset(("Add", "Subtract", "Multiply"))
RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN, layers.Bidirectional)
ATTENTION = (
    layers.Attention,
    layers.AdditiveAttention,
    layers.MultiHeadAttention,
    layers.GroupQueryAttention,
)


def weights_of(operation: Any) -> dict[str, tuple[int, ...]]:
    """The weights of a layer that go onto a grid, with their channel axes."""
    for kind, weights in KERNELS:
        if isinstance(operation, kind):
            return dict(weights)
    return {}


def is_open_inside(operation: Any) -> bool:
    """Whether a layer computes with inner tensors that have no ranges of ours."""
    kind = type(operation).__name__
    if not isinstance(operation, layers.Layer) or kind in SAME_RANGE:
        return False
    if isinstance(operation, (*RECURRENT, *ATTENTION)):
        return True
    if weights_of(operation) or affine.is_affine(operation):
        return False
    if normalizations.ranges_inside(operation):
        return False
    return not type(operation).__module__.startswith(("keras.", "keras_distill."))


def becomes_fused_lstm(operation: Any) -> bool:
    """Whether the file holds the layer as LiteRT's own LSTM."""
    return isinstance(operation, layers.LSTM)


def keeps_range(operation: Any) -> bool:
    """Whether an output spans what its input does; bicubic resampling goes past that."""
    resampled = "cubic" in str(getattr(operation, "interpolation", ""))
    return type(operation).__name__ in SAME_RANGE and not resampled


def is_concatenation(step: Step) -> bool:
    """Whether a step joins its inputs, so that they share one range."""
    return type(step.operation).__name__ in ("Concatenate", "Concat")
