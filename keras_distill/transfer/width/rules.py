"""Which rule each kind of operation follows, and the walk's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_distill._keras import LayerScale
from keras_distill.graph.copying import weight_paths
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Step
from keras_distill.transfer.width import layer_rules, tensor_rules
from keras_distill.transfer.width.survey import Atoms, Axes, Call, Role, Survey

layers = keras.layers
TREATMENTS = ("elementwise", "fixed")
Rule = Callable[[Call], Role]

# Each output channel comes from the input channel at the same place.
_SAME_LAYERS = (
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.Identity),
    *(layers.ActivityRegularization, layers.Masking, layers.Rescaling, layers.Resizing),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.RepeatVector),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling1D),
    *(layers.GlobalMaxPooling2D, layers.GlobalAveragePooling3D, layers.GlobalMaxPooling3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D, layers.CenterCrop),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
)
_SAME_OPERATIONS = frozenset(
    (
        *("Relu", "Relu6", "Sigmoid", "Silu", "Swish", "HardSilu", "HardSwish", "HardSigmoid"),
        *("Gelu", "Elu", "Selu", "Tanh", "Softplus", "LeakyRelu", "Softmax", "Identity", "Cast"),
        *("Absolute", "Abs", "Negative", "Square", "Sqrt", "Rsqrt", "Exp", "Clip", "StopGradient"),
    )
)
_BINARY_OPERATIONS = frozenset(
    ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power")
)
_MERGES = (
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
    *(layers.Maximum, layers.Minimum),
)
_REDUCTIONS = frozenset(("Mean", "Sum", "Max", "Min", "Prod", "Var", "Std"))
_LAYERS: tuple[tuple[Any, Rule], ...] = (
    ((layers.SeparableConv1D, layers.SeparableConv2D), layer_rules.separable),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), layer_rules.depthwise),
    (
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        layer_rules.transposed,
    ),
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), layer_rules.convolution),
    (layers.Dense, layer_rules.dense),
    (layers.Embedding, layer_rules.embedding),
    (layers.GroupNormalization, layer_rules.group_normalisation),
    ((layers.BatchNormalization, layers.LayerNormalization, layers.PReLU), layer_rules.by_channel),
    ((layers.Normalization, layers.UnitNormalization), layer_rules.by_channel),
    (tuple(layer_rules.GATES), layer_rules.recurrent),
    (layers.Bidirectional, layer_rules.bidirectional),
    (layers.MultiHeadAttention, layer_rules.attention),
    (_MERGES, tensor_rules.merge),
    (layers.Concatenate, tensor_rules.concatenation),
    ((layers.Reshape, layers.Flatten, layers.Permute), tensor_rules.rearranged),
    (_SAME_LAYERS, tensor_rules.same),
)
_OPERATIONS: tuple[tuple[Any, Rule], ...] = (
    (_SAME_OPERATIONS, tensor_rules.same),
    (_BINARY_OPERATIONS, tensor_rules.merge),
    (_REDUCTIONS, tensor_rules.reduction),
    (("Reshape", "Transpose", "Ravel"), tensor_rules.rearranged),
    (("Concatenate", "Concat"), tensor_rules.concatenation),
    (("ExpandDims", "Squeeze"), tensor_rules.own_axis),
    (("GetItem",), tensor_rules.item),
)


def apply(survey: Survey, step: Step) -> None:
    """Finds the channels of a step's outputs and of its operation's weights."""
    call = Call(survey, step)
    role = _role(call)
    outputs = [role.out] * len(step.outputs)
    earlier = survey.roles.setdefault(step.path, role)
    if earlier is not role:
        _tie_roles(survey.atoms, earlier, role)
    for value, atoms in zip(step.outputs, outputs, strict=True):
        width = value.shape[-1] if value.shape else None
        if width is not None and width != len(atoms):
            raise call.unknown(f"it gives {value.shape} where {len(atoms)} channels come out")
        survey.values[id(value)] = atoms


def _role(call: Call) -> Role:
    treatment = call.survey.treatments.get(call.step.path)
    if treatment == "elementwise":
        return _elementwise_by_order(call)
    rule = None if treatment == "fixed" else _rule_of(call.operation)
    if rule is None:
        if treatment != "fixed" and call.step.path not in call.survey.skipped:
            raise call.unknown()
        return _fixed(call)
    return rule(call)


def _tie_roles(atoms: Atoms, first: Role, second: Role) -> None:
    for path, axes in first.axes.items():
        for one, other in zip(axes, second.axes[path], strict=True):
            if one is not None and other is not None:
                atoms.tie(one, other)


def _elementwise_by_order(call: Call) -> Role:
    """As the caller says: weights as wide as the channels are cut along their last axis."""
    out = call.tie(call.inputs)
    axes: dict[str, Axes] = {}
    for path, weight in weight_paths(call.operation).items():
        if len(weight.shape) and weight.shape[-1] == len(out):
            axes[path] = (*[None] * (len(weight.shape) - 1), out)
    return Role(call.operation, axes, out)


def _fixed(call: Call) -> Role:
    """All widths around it stay."""
    call.survey.pin(*call.inputs)
    shapes = [value.shape for value in call.step.outputs]
    return Role(call.operation, {}, call.survey.fixed(shapes[0][-1] if shapes[0] else None))


def _rule_of(operation: Any) -> Rule | None:
    """The rule of an operation's kind; None where there is none."""
    if isinstance(operation, layers.Layer):
        if type(operation) is LayerScale:
            return layer_rules.by_channel
        return next((rule for kinds, rule in _LAYERS if isinstance(operation, kinds)), None)
    if not by_keras(operation):
        return None
    name = type(operation).__name__
    return next((rule for names, rule in _OPERATIONS if name in names), None)
