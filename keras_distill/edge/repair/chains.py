"""Where one layer's channels may be divided by numbers that the next one's weights take up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import keras

from keras_distill.edge.quantize import affine
from keras_distill.edge.repair.crossing import Crossing, by_activation, crossing
from keras_distill.graph.copying import weight_paths
from keras_distill.graph.fusion import is_linear
from keras_distill.graph.remaking import by_keras
from keras_distill.graph.replay import Graph, Step, Value
from keras_distill.graph.traits import does, traits_of

__all__ = ["Chain", "Weight", "find"]

layers = keras.layers
_KERNELS = ("dense", "convolution", "depthwise", "separable", "transposed")


@dataclass(frozen=True)
class Weight:
    """A weight, and where its channels are: in order of rows, along these axes together."""

    path: str
    name: str
    axes: tuple[int, ...] = (-1,)


@dataclass(frozen=True)
class Chain:
    """A maker of channels and the one layer that reads them.

    Attributes:
      divided: the weights that make the channels, the one whose size tells theirs first.
      multiplied: the weight of the reader; a BatchNormalization's gamma stands for its statistics.
      epsilon: of a BatchNormalization that reads.
      normalised: whether the first of `divided` is a BatchNormalization's gamma, so that the
        channels' values are known: beta +- some gamma.
      own_grids: whether the reader is depthwise, as a BatchNormalization is in the file: each
        channel of it has a grid of its own.
      one_sided: whether a ReLU cuts negative values off.
      caps: the bounds on the way, by the weight that holds one for each channel: what it is at
        first, or None where the layer is a `ChannelCap` already.
    """

    divided: tuple[Weight, ...]
    multiplied: Weight
    epsilon: float | None = None
    normalised: bool = False
    own_grids: bool = False
    one_sided: bool = False
    caps: Mapping[Weight, float | None] = field(default_factory=dict)


def find(graph: Graph, skipped: set[str], caps: bool) -> tuple[list[Chain], dict[str, str]]:
    """The chains of a model, and why other layers make none.

    Args:
      graph: of plain layers.
      skipped: the paths of layers whose weights stay as they are.
      caps: whether a bound may become one for each channel.

    Returns:
      The chains in the order of the graph; by the path of a layer that begins none, what stops it.
    """
    calls = Counter(id(step.operation) for step in graph.steps)
    shared = {step.path for step in graph.steps if calls[id(step.operation)] > 1}
    walk = _Walk(graph, skipped, shared, caps)
    found: list[Chain] = []
    stops: dict[str, str] = {}
    for step in graph.steps:
        maker = _maker(step)
        if maker is None:
            continue
        if does(step.operation, "separable") and not walk.refused(step):
            found.append(_inside(step))
        chain = walk.onwards(step, maker)
        if isinstance(chain, Chain):
            found.append(chain)
        else:
            stops[step.path] = chain
    return found, stops


def _maker(step: Step) -> tuple[Weight, ...] | None:
    """The weights that a layer's output channels are proportional to."""
    layer, path = step.operation, step.path
    if _is_norm(layer):
        return (Weight(path, "gamma"), *([Weight(path, "beta")] if layer.center else []))
    if not does(layer, *_KERNELS):
        return None
    traits = traits_of(layer)
    if does(layer, "depthwise"):
        kernel = Weight(path, traits.depthwise, (-2, -1))
    else:
        ((name, axis),) = traits.kernels.items()
        kernel = Weight(path, name, (axis,))
    return (kernel, *([Weight(path, "bias")] if layer.use_bias else []))


def _is_norm(layer: keras.Operation) -> bool:
    return isinstance(layer, layers.BatchNormalization) and affine.is_affine(layer)


def _reader(step: Step) -> Weight:
    """The weight that takes up what a layer's input channels are divided by."""
    traits = traits_of(step.operation)
    if traits.depthwise:
        return Weight(step.path, traits.depthwise, (-2,))
    ((name, axis),) = traits.kernels.items()
    return Weight(step.path, name, (-1 if axis == -2 else -2,))


def _inside(step: Step) -> Chain:
    """From the depthwise part of a separable convolution to its pointwise one."""
    traits = traits_of(step.operation)
    ((name, _),) = traits.kernels.items()
    made = Weight(step.path, traits.depthwise, (-2, -1))
    return Chain((made,), Weight(step.path, name, (-2,)))


@dataclass(frozen=True)
class _Walk:
    graph: Graph
    skipped: set[str]
    shared: set[str]
    caps: bool

    def refused(self, step: Step) -> str:
        """Why a layer's weights have to stay as they are; "" where they need not."""
        layer = step.operation
        if step.path in self.skipped:
            return f"{step.path!r} is skipped"
        if step.path in self.shared:
            return f"{step.path!r} is called more than once"
        if not by_keras(layer):
            return f"{step.path!r} is a layer of your own"
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            return f"{step.path!r} has its channels first"
        if getattr(layer, "lora_enabled", False):
            return f"{step.path!r} has LoRA weights"
        if layer.activity_regularizer is not None:
            return f"{step.path!r} has an activity regularizer"
        if any(v.constraint is not None for v in weight_paths(layer).values()):
            return f"{step.path!r} has a constraint"
        return ""

    def onwards(self, step: Step, made: tuple[Weight, ...]) -> Chain | str:
        """The chain that begins with a layer, or what stops it."""
        if reason := self.refused(step):
            return reason
        chain = Chain(made, made[0], normalised=made[0].name == "gamma")
        channels, value = step.outputs[0].shape[-1], step.outputs[0]
        met = by_activation(step.operation)
        while True:
            passed = self._over(chain, step, met)
            if isinstance(passed, str):
                return passed
            following = self._only_reader(value)
            if isinstance(following, str):
                return following
            chain, step = passed, following
            if does(step.operation, *_KERNELS) or _is_norm(step.operation):
                return self._ends(chain, step, value)
            value, met = step.outputs[0], crossing(step, channels)

    def _only_reader(self, value: Value) -> Step | str:
        maker = self.graph.steps[value.step].path if value.step is not None else ""
        if any(value is output for output in self.graph.outputs):
            return f"{maker!r} is an output of the model"
        readers = self.graph.consumers(value)
        if len(readers) != 1:
            names = ", ".join(repr(reader.path) for reader in readers)
            return f"{maker!r} is read by {names or 'nothing'}"
        if len(readers[0].inputs) != 1:
            return f"{readers[0].path!r} reads other tensors besides {maker!r}"
        return readers[0]

    def _over(self, chain: Chain, step: Step, met: Crossing | None) -> Chain | str:
        """The chain, past a layer that hands its channels on."""
        kind = type(step.operation).__name__
        if step.path in self.skipped:
            return f"{step.path!r} is skipped"
        if met is None:
            return f"{step.path!r} ({kind}) does not hand a scaling of channels on"
        chain = replace(chain, one_sided=chain.one_sided or met.one_sided)
        if not met.capped:
            return chain
        if not self.caps:
            return f"{step.path!r} ({kind}) has an upper bound"
        if step.path in self.shared:
            return f"{step.path!r} has an upper bound and is called more than once"
        return replace(chain, caps={**chain.caps, Weight(step.path, "caps"): met.cap})

    def _ends(self, chain: Chain, step: Step, value: Value) -> Chain | str:
        if reason := self.refused(step):
            return reason
        if _is_norm(step.operation):
            if self._folds(chain, value):
                return f"{step.path!r} normalises it"
            gamma, epsilon = Weight(step.path, "gamma"), step.operation.epsilon
            return replace(chain, multiplied=gamma, epsilon=epsilon, own_grids=True)
        if getattr(step.operation, "groups", 1) != 1:
            return f"{step.path!r} has groups"
        alone = bool(traits_of(step.operation).depthwise)
        return replace(chain, multiplied=_reader(step), own_grids=alone)

    def _folds(self, chain: Chain, value: Value) -> bool:
        """Whether a file makes one operation of a BatchNormalization and the maker of `value`."""
        if value.step is None or chain.normalised:
            return False
        maker = self.graph.steps[value.step]
        return maker.path == chain.divided[0].path and is_linear(maker.operation)
