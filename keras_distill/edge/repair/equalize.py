"""Cross-layer equalisation: a tensor's channels brought to like ranges, the network the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill.edge.interface import as_keras3
from keras_distill.edge.repair.balance import Values, settle, values_of
from keras_distill.edge.repair.caps import ChannelCap
from keras_distill.edge.repair.chains import Chain, find
from keras_distill.graph.copying import rebuild, weight_paths
from keras_distill.graph.float_only import check_float
from keras_distill.graph.naming import chosen
from keras_distill.graph.remaking import from_own_config
from keras_distill.graph.replay import Graph, trace
from keras_distill.graph.wrapping import wrapped_layers

__all__ = ["equalize"]

_SHOWN = 12


def equalize(model: Any, *, skip: Any = (), relu6: str = "cap") -> keras.Model:
    """A copy of `model` that computes the same, its channels' ranges brought close to each other.

    An int8 tensor has one range, so that a channel of small values beside one of large values has
    few steps left. Where one layer alone reads another's channels, through layers f with
    f(x / s) = f(x) / s, channel i may be divided by any s_i > 0 and the reader's weights on it
    multiplied by s_i:

        s_i = sqrt(r1_i / r2_i)

    r1_i is the range of what makes channel i and r2_i = max |w| over the weights that read it; this
    makes both sqrt(r1_i r2_i). Chain after chain is so divided until all stand still.

    What the ranges are follows the grids of the file: kernels have a scale for each output channel,
    activations one in all. Behind a BatchNormalization r1_i is the activation's own range, as its
    beta and gamma tell it (|beta| + 6 |gamma|; beta + 6 |gamma| before a ReLU; the bound at most),
    and gamma and beta are divided, which is exact in later training, too: a kernel before it would
    be normalised again. Elsewhere r1_i = max |w| of the kernel that makes the channel. Readers with
    a scale for each input channel as well can't suffer, and there s_i = r1_i: the kernel of a
    depthwise layer, and a BatchNormalization behind an activation, which knows r1_i from its own
    mean and deviation and is divided in these (exact but for its epsilon in later training), but
    for channels that vary by less than its epsilon: next to dead in training, their rare values may
    be far out.
    In these cases s has a geometric mean of 1, as ranges in other units tell only s's ratios.

    Chains go through Dense, convolutions (depthwise, separable, transposed), linear, ReLU, leaky
    ReLU and PReLU, pooling, zero padding, cropping, upsampling, dropout, Flatten and Reshape that
    keep whole channels. They end where a tensor has more than one reader or is an output, at layers
    called twice, groups, constraints, channels first and at all other layers. A BatchNormalization
    without gamma gets one.

    ReLU6 does not hand a scaling on: relu6(s x) = s min(relu(x), 6 / s). "cap" writes exactly that,
    a ReLU and a `ChannelCap` of the name with "_cap" behind it: one MINIMUM more in the file, for
    each ReLU6 in a chain. "leave" ends chains there: nothing is added, and little may be left to
    equalise in a MobileNet, whose ReLU6 however bounds the mismatch already. "relu" drops the bound
    as the authors did, which is exact only where no value ever reaches it.

    Args:
      model: a built Functional or Sequential model of Keras 3, in float, nested models included; or
        one of tf_keras. It is not changed.
      skip: layers whose weights stay: names, paths, regular expressions, classes or layers.
      relu6: "cap", "leave" or "relu": what to do at ReLU6 and other bounded ReLUs.

    Returns:
      A Functional model of Keras 3, not compiled, of the same layer names. Outputs are equal up to
      float32 rounding. Weight decay sees other weights than before.

    Raises:
      TypeError, ValueError: not a model, subclassed, not built, compressed or quantised already;
        `skip` that names nothing; no chain in the model: the message says what stops each layer.

    Source: Nagel, van Baalen, Blankevoort, Welling 2019, "Data-Free Quantization Through Weight
    Equalization and Bias Correction", section 4.1. Theirs takes the weights' ranges alone, for
    kernels of one scale each, folds BatchNormalization first and replaces ReLU6 by ReLU.

    Example:
      even = equalize(student)
      small = quantize_aware(even, calibration_data=x_train[:500])
    """
    if relu6 not in ("cap", "leave", "relu"):
        raise ValueError(f'Expected relu6 to be "cap", "leave" or "relu"; got {relu6!r}.')
    model = as_keras3(model)
    check_float(model)
    graph = trace(model)
    _refuse_wrapped(graph)
    skipped = chosen({step.path: step.operation for step in graph.steps}, skip)
    chains, stops = find(graph, skipped, caps=relu6 != "leave")
    if not chains:
        raise ValueError(_nothing(model.name, stops))
    operations = {step.path: step.operation for step in graph.steps}
    values = values_of(chains, operations, bounded=relu6 == "cap")
    settle(chains, values)
    return _written(model, chains, values, operations)


def _refuse_wrapped(graph: Graph) -> None:
    wrapped = wrapped_layers(graph)
    if wrapped:
        raise ValueError(
            f"Expected a plain float model; {next(iter(wrapped))!r} is pruned, clustered or "
            f"quantised. Equalise first: kd.edge.quantize_aware(kd.edge.equalize(model)); or take "
            f"the wrappers off with kd.edge.strip(model)."
        )


def _nothing(name: str, stops: dict[str, str]) -> str:
    if not stops:
        return f"{name!r} has nothing to equalise: no Dense, convolution or BatchNormalization."
    shown = [f"{path!r}: {reason}" for path, reason in list(stops.items())[:_SHOWN]]
    more = f"; and {len(stops) - _SHOWN} more" if len(stops) > _SHOWN else ""
    return (
        f"{name!r} has no two layers to equalise: channels must go from one Dense, convolution or "
        f"BatchNormalization to one other through linear, ReLU, leaky ReLU or PReLU. What stops "
        f"each: {'; '.join(shown)}{more}."
    )


def _written(
    model: Any, chains: list[Chain], values: Values, operations: dict[str, Any]
) -> keras.Model:
    made = {weight.path for chain in chains for weight, cap in chain.caps.items() if cap}
    bare = {
        weight.path
        for chain in chains
        for weight in (*chain.divided, chain.multiplied)
        if weight.name == "gamma" and not operations[weight.path].scale
    }

    def substitute(path: str, layer: Any) -> Any:
        if path in bare:
            layer = _with_gamma(layer, path)
        held = weight_paths(layer)
        for (owner, name), array in values.items():
            if owner == path and name in held:
                held[name].assign(array.astype("float32"))
        return _uncapped(layer, values[path, "caps"]) if path in made else layer

    return rebuild(model, substitute, anew=lambda path: path in bare)


def _with_gamma(layer: Any, path: str) -> Any:
    """A BatchNormalization again, with the gamma that it went without."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "config": {**config["config"], "scale": True}}

    copy = from_own_config(layer, path, change)
    theirs = weight_paths(copy)
    for name, variable in weight_paths(layer).items():
        theirs[name].assign(variable)
    return copy


def _uncapped(layer: Any, caps: np.ndarray) -> Callable[[Any], Any]:
    """The layer without its upper bound, and behind it a bound for each channel, where finite."""
    if isinstance(layer, keras.layers.ReLU):
        layer.max_value = None
    else:
        layer.activation = keras.activations.relu
    if not np.isfinite(caps).all():
        return layer

    def capped(x: Any) -> Any:
        y = layer(x)
        cap = ChannelCap(name=f"{layer.name}_cap", dtype=layer.dtype_policy)
        cap.build(y.shape)
        cap.caps.assign(np.tile(caps, y.shape[-1] // len(caps)).astype("float32"))
        return cap(y)

    return capped
