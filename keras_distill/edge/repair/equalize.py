"""Cross-layer equalisation: a tensor's channels brought to like ranges, the network the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill.edge.interface import as_keras3
from keras_distill.edge.repair.caps import ChannelCap
from keras_distill.edge.repair.chains import Chain, Weight, find
from keras_distill.graph.copying import rebuild, weight_paths
from keras_distill.graph.float_only import check_float
from keras_distill.graph.naming import chosen
from keras_distill.graph.remaking import from_own_config
from keras_distill.graph.replay import Graph, trace
from keras_distill.graph.wrapping import wrapped_layers

__all__ = ["equalize"]

# A normalised channel's values: beyond beta +- 6 gamma there are next to none (Nagel et al.).
_DEVIATIONS = 6.0
_ROUNDS, _STILL = 100, 1e-4
# One channel is divided by a million times as much as another at most.
_SPREAD = 1e6
_SHOWN = 12

Values = dict[tuple[str, str], np.ndarray]


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
    be normalised again. Elsewhere r1_i = max |w| of the kernel that makes the channel. The kernel
    of a depthwise reader has a scale for each input channel as well and can't suffer: s_i = r1_i.
    In these two cases s has a geometric mean of 1, as ranges in other units tell only s's ratios.

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
    values = _values(chains, operations, bounded=relu6 == "cap")
    _settle(chains, values)
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


def _values(chains: list[Chain], operations: dict[str, Any], bounded: bool) -> Values:
    """Every weight of the chains as float64; a missing gamma is ones, a dropped bound infinite."""
    found: Values = {}
    for chain in chains:
        for weight in (*chain.divided, chain.multiplied):
            held = weight_paths(operations[weight.path])
            if weight.name in held:
                array = keras.ops.convert_to_numpy(held[weight.name]).astype("float64")
            else:
                array = np.ones(operations[weight.path].moving_variance.shape)
            found[weight.path, weight.name] = array
        for weight, cap in chain.caps.items():
            if cap is None:
                array = keras.ops.convert_to_numpy(operations[weight.path].caps).astype("float64")
            else:
                array = np.full(_channels(chain, found), cap if bounded else np.inf)
            found[weight.path, weight.name] = array
    return found


def _channels(chain: Chain, values: Values) -> int:
    first = chain.divided[0]
    shape = values[first.path, first.name].shape
    return int(np.prod([shape[axis] for axis in first.axes]))


def _settle(chains: list[Chain], values: Values) -> None:
    for _ in range(_ROUNDS):
        moved = 0.0
        for chain in chains:
            factors = _factors(chain, values)
            _divide(chain, values, factors)
            moved = max(moved, float(np.max(np.abs(np.log(factors)))))
        if moved < _STILL:
            return


def _factors(chain: Chain, values: Values) -> np.ndarray:
    """s, `(channels,)`; 1 for a channel that is made of zeros or read by zeros."""
    made, read = _made(chain, values), _read(chain, values)
    alive = (made > made.max() / _SPREAD) & (read > read.max() / _SPREAD)
    if not alive.any():
        return np.ones_like(made)
    logs = np.log(np.where(alive, made, 1.0)) - np.log(np.where(alive, read, 1.0))
    if not chain.own_grids:
        logs /= 2.0
    if chain.own_grids or chain.normalised:
        logs -= logs[alive].mean()
    return np.exp(np.where(alive, logs, 0.0))


def _made(chain: Chain, values: Values) -> np.ndarray:
    """r1, `(channels,)`."""
    first = chain.divided[0]
    array = values[first.path, first.name]
    if not chain.normalised:
        return _largest(array, first.axes)
    beta = values.get((first.path, "beta"), np.zeros_like(array))
    beside = _DEVIATIONS * np.abs(array)
    reach = np.maximum(beta + beside, 0.0) if chain.one_sided else np.abs(beta) + beside
    for weight in chain.caps:
        reach = np.minimum(reach, values[weight.path, weight.name])
    return reach


def _read(chain: Chain, values: Values) -> np.ndarray:
    """r2, `(channels,)`; ones where each channel has a grid of its own."""
    channels = _channels(chain, values)
    if chain.own_grids:
        return np.ones(channels)
    weight = chain.multiplied
    largest = _largest(values[weight.path, weight.name], weight.axes)
    # Behind a Flatten a channel is read at several places.
    return largest.reshape(-1, channels).max(axis=0)


def _largest(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    kept = [axis % array.ndim for axis in axes]
    others = tuple(axis for axis in range(array.ndim) if axis not in kept)
    return np.abs(array).max(axis=others).reshape(-1)


def _divide(chain: Chain, values: Values, factors: np.ndarray) -> None:
    for weight in (*chain.divided, *chain.caps):
        _scale(values, weight, 1.0 / factors)
    _scale(values, chain.multiplied, factors)


def _scale(values: Values, weight: Weight, factors: np.ndarray) -> None:
    array = values[weight.path, weight.name]
    shape = [1] * array.ndim
    for axis in weight.axes:
        shape[axis] = array.shape[axis]
    count = int(np.prod(shape)) // len(factors)
    values[weight.path, weight.name] = array * np.tile(factors, count).reshape(shape)


def _written(
    model: Any, chains: list[Chain], values: Values, operations: dict[str, Any]
) -> keras.Model:
    made = {weight.path for chain in chains for weight, cap in chain.caps.items() if cap}
    bare = {
        weight.path
        for chain in chains
        for weight in chain.divided
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
