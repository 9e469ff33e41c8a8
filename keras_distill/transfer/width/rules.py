"""Which rule each kind of operation follows, and the walk's step."""

from __future__ import annotations

from collections.abc import Callable

from keras_distill.graph.copying import weight_paths
from keras_distill.graph.replay import Step
from keras_distill.graph.traits import traits_of
from keras_distill.transfer.width import layer_rules, tensor_rules
from keras_distill.transfer.width.survey import Atoms, Axes, Call, Role, Survey

TREATMENTS = ("elementwise", "fixed")
Rule = Callable[[Call], Role]

# By the word that `Traits.does` has.
_RULES: dict[str, Rule] = {
    "separable": layer_rules.separable,
    "depthwise": layer_rules.depthwise,
    "transposed": layer_rules.transposed,
    "convolution": layer_rules.convolution,
    "dense": layer_rules.dense,
    **dict.fromkeys(("embedding", "reversible embedding"), layer_rules.embedding),
    "group normalization": layer_rules.group_normalisation,
    **dict.fromkeys(
        ("batch normalization", "row normalization", "input normalization"), layer_rules.by_channel
    ),
    **dict.fromkeys(("learned activation", "scale"), layer_rules.by_channel),
    "recurrent": layer_rules.recurrent,
    "bidirectional": layer_rules.bidirectional,
    "multi-head attention": layer_rules.attention,
    "merge": tensor_rules.merge,
    "concatenation": tensor_rules.concatenation,
    **dict.fromkeys(("reshaping", "transposition"), tensor_rules.rearranged),
    "reduction": tensor_rules.reduction,
    "new axes": tensor_rules.own_axis,
    "item": tensor_rules.item,
    # Each output channel comes from the input channel at the same place.
    **dict.fromkeys(
        (
            *("activation", "softmax", "elementwise", "cast", "identity", "dropout", "masking"),
            *("augmentation", "rescaling", "resampling", "pooling", "global pooling", "padding"),
            *("cropping", "repetition"),
        ),
        tensor_rules.same,
    ),
}


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
    rule = None if treatment == "fixed" else _RULES.get(traits_of(call.operation).does)
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
