"""Quantisation-aware copies of Keras 3 models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_distill import _keras
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.kernels import kernels
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.model import CompressedModel, rebuild
from keras_distill.edge.compress.pruning import Mask
from keras_distill.edge.interface import as_keras3, without_float16
from keras_distill.edge.quantize import kinds, layout
from keras_distill.edge.quantize.calibrate import calibrate, ranges_of
from keras_distill.edge.quantize.layer import Quantized, QuantizedInput, handed_on
from keras_distill.edge.quantize.loops import check_loops
from keras_distill.edge.quantize.plans import Plan
from keras_distill.edge.quantize.steps import LearnedGrid
from keras_distill.edge.quantize.weights import BITS, FLOAT, Grid, check_scales
from keras_distill.graph.copying import copy_of, weight_at
from keras_distill.graph.naming import chosen
from keras_distill.graph.replay import functional
from keras_distill.graph.wrapping import inner


def quantize_aware(
    model: Any,
    *,
    calibration_data: Any = None,
    preserve_sparsity: bool = True,
    freeze_batch_norm_after: int | None = None,
    weight_bits: int | Mapping[Any, int] = 8,
    learned_steps: bool = False,
    dense_scales: str = "channel",
    skip: Any = (),
) -> CompressedModel:
    """A copy of `model` that computes and trains as its int8 file will, and exports to it.

    Weights lie on int8's symmetric grid, or int4's, with a scale a channel, and every tensor that
    the file will hold is rounded to 256 steps over its range, found by `calibrate` or in training.
    The optimiser moves the float weights underneath, through the rounding as if it were not there.
    A BatchNormalization behind a kernel is part of it in the file, and in front of one so are a
    Rescaling, Normalization or BatchNormalization where that is exact; in the copy they train on.
    The copy is a Keras 3 model with the same layer names: `fit` it alone or in a `Distiller`, save
    it, export it with `export_tflite(..., precision="int8")` without representative data.

    Args:
      model: a built Functional or Sequential model of Keras 3, nested models included, plain,
        pruned or clustered; or one of tf_keras. It is not changed.
      calibration_data: inputs like those to come; any data argument. Sets the ranges before
        training; without it they find themselves in training.
      preserve_sparsity: weights that are zero now stay zero.
      freeze_batch_norm_after: the number of updates after which each BatchNormalization uses its
        moving statistics and no longer moves them; 0 for at once, None for never.
      weight_bits: 8, or 4 for the kernels of Dense and of convolutions over time or images (not
        transposed ones), two of which share a byte in the file; activations have 8. Of some layers
        only: bits by what names them, as in `skip`, a whole path being that layer alone:
        `{"block_.*": 4}`, later entries going before; the rest has 8. What is skipped has none,
        and an entry that names nothing else is refused. In such a dict 32 leaves the kernels of
        Dense, convolutions and depthwise ones in float: the file computes that layer in float,
        and what it puts out has 8 bits again, so that its neighbours stay in integers.
      learned_steps: the size of steps is trained with the weights, as `LSQ` has it
        (`quantize.steps`). Each channel's of a kernel begins at the largest weight over the number
        of steps, and the largest weights are clipped where that rounds the others better, which
        pays at 4 bits. Ranges of tensors are trained from where `calibration_data`, `calibrate` or
        the first batch has set them, and no longer follow the batches; in frozen layers they stay.
        Known ranges, as a softmax's, and those of masked scores are not trained.
      dense_scales: "channel": a scale for each output of a Dense; "tensor": one for its whole
        kernel, and up to 16 bytes an output less in the file. A BatchNormalization behind a Dense
        is then part of that layer, and the copy has none of its name: the one scale is that of
        their product, as the file holds it. `strip` brings both back. `reconstruct` wins back most
        of what coarser steps cost. Not together with `learned_steps`.
      skip: layers to leave in float, in the int8 file too: names, paths, regular expressions,
        classes or layers. What reads them is in float as well where it has no range before it.

    Returns:
      A `CompressedModel`.

    Raises:
      TypeError, ValueError: not a model, subclassed, not built, already quantised; a layer that no
        int8 file can hold; `skip` or `weight_bits` that names nothing; 4 bits for a layer that
        LiteRT can't run so; 32 for one that no file holds in float between integers; one scale
        for a Dense and a BatchNormalization that can't be one layer (called twice, in different
        models, one frozen); calibration data that does not fit.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference"; the scheme of TensorFlow Lite and of TFMOT. Learned steps:
    Esser et al., "Learned Step Size Quantization", ICLR 2020.

    Example:
      small = quantize_aware(student, calibration_data=x_train[:500])
      small.compile("adam", loss, metrics=["accuracy"])
      small.fit(x_train, y_train, epochs=1)
      export = export_tflite(small, "student.tflite", precision="int8")
    """
    check_scales(dense_scales)
    if learned_steps and dense_scales == "tensor":
        raise ValueError(
            "learned_steps=True learns a step for each channel; dense_scales='tensor' leaves a "
            "Dense one alone. Take one of the two."
        )
    model = without_float16(as_keras3(model))
    functional(model)  # Refuses one whose graph is hidden.
    found = Analysis(model)
    _refuse_quantised(found)
    check_loops(found.graph, open_sizes=True)
    _check_freeze(freeze_batch_norm_after)
    skipped = chosen({step.path: step.operation for step in found.graph.steps}, skip, inner=inner)
    bits = _bits_of(found, weight_bits, skipped)
    plans = layout.plan(
        found,
        lambda path, _: path in skipped,
        dense_scales=dense_scales,
        weight_bits=bits,
        learned_steps=learned_steps,
    )
    operations = {step.path: step.operation for step in found.graph.steps}
    grid = LearnedGrid if learned_steps else Grid

    def substitute(path: str, layer: Any) -> Any:
        number = bits.get(path, 8)
        plan, make = plans[path], functools.partial(grid, bits=number)
        if number == FLOAT:
            plan = replace(plan, weights={})
        if plan.goes:
            return handed_on
        norm = copy_of(operations[plan.behind], plan.behind) if plan.behind else None
        return _quantized(
            plan,
            layer,
            preserve_sparsity,
            make,
            norm,
            freeze_after=freeze_batch_norm_after,
            learned_ranges=learned_steps,
        )

    def on_input(name: str, tensor: Any) -> Any:
        if name in found.exact_inputs:
            return tensor
        return _ranged_input(name, tensor, found.score_inputs.get(name), learned_steps)

    copy = rebuild(model, substitute, on_input=on_input)
    for one in _keras.layers_of(copy):
        if isinstance(one, Quantized):
            one.follow_front()
    # A model of exact values alone has nothing to calibrate.
    if calibration_data is None or not ranges_of(copy):
        return copy
    return calibrate(copy, calibration_data)


def _refuse_quantised(found: Analysis) -> None:
    for step in found.wrapped.steps:
        if isinstance(step.operation, Quantized):
            raise ValueError(
                f"The layer {step.path!r} is quantised already. Train on with the model as it is, "
                f"or take the wrappers off with kd.edge.strip(model) first."
            )


def _check_freeze(updates: Any) -> None:
    if updates is None:
        return
    if not isinstance(updates, int) or isinstance(updates, bool) or updates < 0:
        raise ValueError(
            f"Expected freeze_batch_norm_after as a number of updates, 0 or more, or None; "
            f"got {updates!r}."
        )


def _bits_of(found: Analysis, asked: int | Mapping[Any, int], skipped: Set[str]) -> dict[str, int]:
    """Bits by the paths of the layers that have others than 8."""
    operations = {step.path: step.operation for step in found.graph.steps}
    able = {path for path, one in operations.items() if kinds.takes_four_bits(inner(one))}
    wanted = list(asked.values()) if isinstance(asked, Mapping) else [asked]
    known = (*BITS, FLOAT) if isinstance(asked, Mapping) else BITS
    if wrong := [bits for bits in wanted if bits not in known or type(bits) is not int]:
        raise ValueError(
            f"Expected weight_bits of {BITS[0]} or {BITS[1]}; got {wrong[0]!r}. Single layers may "
            f"have {FLOAT} as well, which is float: {{name: {FLOAT}}}."
        )
    if not isinstance(asked, Mapping):
        return dict.fromkeys(able, asked)
    bits: dict[str, int] = {}
    for name, number in asked.items():
        # A whole path is that layer alone, and not one in a nested model that ends in it.
        exact = isinstance(name, str) and name in operations
        named = {name} if exact else chosen(operations, [name], inner=inner, argument="weight_bits")
        if number == 4 and (unable := sorted(named - able)):
            raise ValueError(
                f"weight_bits names {name!r} for 4 bits: LiteRT runs no {unable[0]!r} "
                f"({type(inner(operations[unable[0]])).__name__}) at 4 bits. Dense, Conv and "
                f"DepthwiseConv layers can have them: {', '.join(sorted(able)) or 'none here'}."
            )
        if number == FLOAT:
            _check_float(found, name, {path: operations[path] for path in sorted(named)})
        if named <= skipped:
            raise ValueError(
                f"weight_bits names {name!r} for {number} bits, and skip leaves "
                f"{', '.join(sorted(named))} in float. Take it out of one of the two."
            )
        bits |= dict.fromkeys(named, number)
    return bits


def _check_float(found: Analysis, name: Any, named: Mapping[str, Any]) -> None:
    """Refuses what no file holds in float between integers."""
    if found.open_inside:
        raise ValueError(
            f"weight_bits names {name!r} for {FLOAT} bits: in a model with "
            f"{found.open_inside[0]!r} the converter settles what has no range, and makes integers "
            f"of float kernels. Leave it at 8 bits."
        )
    for path, operation in named.items():
        if not kinds.stays_float(inner(operation)):
            raise ValueError(
                f"weight_bits names {name!r} for {FLOAT} bits: no file holds {path!r} "
                f"({type(inner(operation)).__name__}) in float between integers. Dense, Conv and "
                f"DepthwiseConv layers can be."
            )


def _quantized(
    plan: Plan,
    layer: Any,
    keep_zeros: bool,
    grid: Callable[[Sequence[int]], Grid],
    norm: Any,
    *,
    freeze_after: int | None,
    learned_ranges: bool,
) -> Any:
    """`layer`, a copy of the model's, as its plan wants it; `norm` is to be part of it."""
    earlier = layer if isinstance(layer, Compressed) else None
    # Else a mask that is left out, or follows its schedule here, would bind the variable still.
    bare = layer if earlier is None else earlier.release()
    treatments = _treatments(plan, bare, earlier, keep_zeros, grid)
    if not plan.wraps:
        if not treatments:
            return bare
        kept = Compressed(bare, treatments, name=layer.name, trainable=layer.trainable)
        return _with_state(kept, earlier)
    if plan.activation:
        bare.activation = keras.activations.linear
    if norm is not None and freeze_after is not None:
        norm = Quantized(norm, freeze_after=freeze_after, trainable=norm.trainable)
    is_norm = isinstance(bare, keras.layers.BatchNormalization)
    wrapped = Quantized(
        bare,
        treatments,
        activation=plan.activation,
        outputs=plan.outputs,
        between=plan.between,
        affine=plan.affine,
        behind=norm,
        front=plan.front,
        requantized=plan.requantized,
        inputs=plan.inputs,
        freeze_after=freeze_after if is_norm else None,
        learned_ranges=learned_ranges,
        name=layer.name,
        trainable=getattr(layer, "trainable", True),
    )
    return _with_state(wrapped, earlier)


def _with_state(wrapped: Compressed, earlier: Compressed | None) -> Compressed:
    for key, chain in wrapped.treatments.items():
        if isinstance(chain[0], Mask):
            chain[0].hold_zeros(weight_at(wrapped.layer, key))
    if earlier is not None:
        wrapped.take_state(earlier)
    return wrapped


def _treatments(
    plan: Plan,
    layer: Any,
    earlier: Compressed | None,
    keep_zeros: bool,
    grid: Callable[[Sequence[int]], Grid],
) -> dict[str, list[Any]]:
    """By weight: what it was under before, a mask of its zeros, and its grid."""
    found = {} if earlier is None else earlier.fresh_treatments()
    if not keep_zeros:
        found = {
            key: [one for one in chain if not isinstance(one, Mask)] for key, chain in found.items()
        }
    # What is pruned need not have a grid: kernels inside attention, recurrent and wrapping layers.
    for key in dict.fromkeys([*plan.weights, *kernels(layer)] if keep_zeros else ()):
        chain = found.setdefault(key, [])
        zeros = float(np.mean(np.asarray(weight_at(layer, key)) == 0))
        if not any(isinstance(one, Mask) for one in chain) and 0 < zeros < 1:
            chain.insert(0, Mask(zeros))
    for key, axes in plan.weights.items():
        found.setdefault(key, []).append(grid(axes))
    return {key: chain for key, chain in found.items() if chain}


def _ranged_input(name: str, tensor: Any, kind: str | None, learned: bool) -> Any:
    if "float" not in tensor.dtype:
        return tensor
    identity = keras.layers.Identity(name=f"{name}_range")
    identity.build(tensor.shape)
    outputs = [kind or True]
    wrapped = QuantizedInput(identity, outputs=outputs, learned_ranges=learned, name=identity.name)
    return wrapped(tensor)
