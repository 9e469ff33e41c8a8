"""What kinds of operations there are, to a file of integers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_distill.edge.quantize import activations, affine, normalizations
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Step

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
        *("ZeroPadding3D", "Cropping3D", "MaxPooling3D", "AveragePooling3D", "UpSampling3D"),
        *("GlobalMaxPooling3D", "Cropping1D", "Cropping2D", "MaxPooling1D", "MaxPooling2D"),
        *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "AveragePooling1D", "AveragePooling2D"),
        *("UpSampling1D", "UpSampling2D", "Resizing", "CenterCrop"),
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
# They change images in training and hand them on in a file.
AUGMENTING = frozenset(("RandAugment", "AugMix", "CutMix", "MixUp", "Solarization"))
# They turn whole numbers into real ones: a file computes those from a range.
COMPUTING = frozenset(
    (
        *("Rescaling", "Normalization", "BatchNormalization", "LayerNormalization", "Dense"),
        *("EinsumDense", "Add", "Subtract", "Multiply", "Average", "TrueDivide", "Divide"),
    )
)
_WHOLE = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0)}
RECURRENT = (layers.RNN, layers.Bidirectional)
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
    """Whether an int8 file holds the layer as LiteRT's own LSTM, which has these gates alone."""
    if type(operation) is not layers.LSTM or not operation.use_bias or operation.return_state:
        return False
    gates = (operation.activation, operation.recurrent_activation)
    return tuple(map(activations.name_of, gates)) == ("tanh", "sigmoid")


def has_bounded_gates(operation: Any) -> bool:
    """Whether a recurrent layer's states lie where its activation does."""
    gate = getattr(operation, "recurrent_activation", None)
    return gate is None or activations.name_of(gate) in ("sigmoid", "hard_sigmoid")


def keeps_range(step: Step) -> bool:
    """Whether an output spans what its input does."""
    operation, kind = step.operation, type(step.operation).__name__
    if not by_keras(operation):
        return False
    if isinstance(operation, layers.Layer) and (kind in AUGMENTING or kind.startswith("Random")):
        return True
    return kind in SAME_RANGE and not _goes_past(operation, step.kwargs)


def _goes_past(operation: Any, given: dict[str, Any]) -> bool:
    """Whether an operation of `SAME_RANGE` is set to answer more than it is given."""
    # Resampling with negative weights overshoots.
    how = str(getattr(operation, "interpolation", ""))
    return "cubic" in how or "lanczos" in how or fills(operation, given)


def fills(operation: Any, given: dict[str, Any]) -> bool:
    """Whether an operation of `SAME_RANGE` puts other numbers than zero beside those it is given.

    A border's, a masked place's, or what a maximum begins with.
    """
    if type(operation).__name__ not in SAME_RANGE:
        return False
    names = ("constant_values", "fill_value", "initial", "mask_value")
    added = [given.get(name, getattr(operation, name, None)) for name in names]
    return any(np.any(np.asarray(value) != 0) for value in added if value is not None)


def whole_range(step: Step, dtype: str) -> Any:
    """The range of whole numbers that a step computes with; True to be found, False for none."""
    operation = step.operation
    if "int" not in dtype or type(operation).__name__ not in COMPUTING:
        return False
    return _WHOLE.get(dtype, True) if by_keras(operation) else False


def is_concatenation(step: Step) -> bool:
    """Whether a step joins its inputs, so that they share one range."""
    return joins(step.operation)


def joins(operation: Any) -> bool:
    """Whether an operation is a concatenation."""
    return type(operation).__name__ in ("Concatenate", "Concat")
