"""A compressed layer whose outputs, too, are rounded as the int8 file rounds them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.compress.layer import Compressed, is_exporting
from keras_distill.edge.compress.treatment import Treatment
from keras_distill.edge.quantize import activations, forward, kinds, means, normalizations, twins
from keras_distill.edge.quantize.affine import (
    as_constants,
    as_depthwise,
    by_one,
    coefficients,
    in_graph,
    is_affine,
    scaled,
)
from keras_distill.edge.quantize.connected import Connected
from keras_distill.edge.quantize.ranges import InverseRoot, Range, is_observed
from keras_distill.edge.quantize.scores import MaskedRange, nearer
from keras_distill.edge.quantize.steps import LearnedRange
from keras_distill.edge.quantize.weights import grids_of
from keras_distill.graph.traits import does
from keras_distill.graph.wrapping import inner
from keras_distill.training.step import notify

# Other merges add.
_COMBINED = (
    (keras.layers.Multiply, tf.multiply),
    (keras.layers.Maximum, tf.maximum),
    (keras.layers.Minimum, tf.minimum),
)


@keras.saving.register_keras_serializable("keras_distill")
class Quantized(Connected):
    """The user's layer with weights on int8's grid and ranges on what it puts out.

    Args:
      layer, treatments: as `Compressed`.
      activation: the layer's own activation, taken out of it, where the file needs a tensor before
        it; the layer's is then linear.
      outputs: for each output, True for a range of its own, a pair for a known one, False for none,
        or the kind of a `MaskedRange`.
      between: how many ranges inside: before the activation, or between the terms of a merge.
      affine: the layer scales and shifts each channel and is an operation of its own in the file.
      behind: the BatchNormalization behind a Dense whose kernel has one scale, that of their
        product; None for none.
      front: how many layers in front of it, which scale and shift, are part of its weights in the
        file: the steps of its kernel's numbers are those of their product.
      requantized: the output comes to the file in another range than the input's.
      inputs: as `outputs`, for each positional input: a range here, because elsewhere it is read
        exactly, or holds whole numbers, and so has none of its own.
      freeze_after: for BatchNormalization, the number of updates after which it keeps its
        statistics; None for never.
      learned_ranges: ranges that data sets are trained from there, but for those of masked scores.
    """

    def __init__(
        self,
        layer: Any,
        treatments: Mapping[str, Sequence[Treatment]] | None = None,
        *,
        activation: str | None = None,
        outputs: Sequence[Any] = (),
        between: int = 0,
        affine: bool = False,
        behind: Any = None,
        front: int = 0,
        requantized: bool = False,
        inputs: Sequence[Any] = (),
        freeze_after: int | None = None,
        learned_ranges: bool = False,
        **kwargs: Any,
    ):
        super().__init__(layer, treatments, **kwargs)
        self.learned_ranges = learned_ranges
        self.own_activation = activation
        self.outputs_config = [tuple(o) if isinstance(o, (list, tuple)) else o for o in outputs]
        self.output_ranges = self._ranges("output_range", self.outputs_config)
        root, kind = normalizations.root_at(layer), next(iter(outputs), True)
        self.between = [
            InverseRoot(name=f"inner_range_{number}")
            if number == root
            else self._range_of(kind if isinstance(kind, str) else True, f"inner_range_{number}")
            for number in range(between)
        ]
        self.affine = affine
        self.behind, self.front, self.front_gain = behind, front, None
        if front and kinds.weights_of(layer):
            self.front_gain = self.add_weight(
                shape=(forward.width_of(layer),),
                initializer="ones",
                trainable=False,
                name="front_gain",
                aggregation="mean",
            )
        if behind is not None or self.front_gain is not None:
            for grid in grids_of(self).values():
                grid.gain = self._gain
        self.requantized = requantized
        self.inputs_config = [tuple(o) if isinstance(o, (list, tuple)) else o for o in inputs]
        self.input_ranges = self._ranges("input_range", self.inputs_config)
        self.freeze_after = freeze_after
        if freeze_after is not None:
            self.updates = self.add_weight(
                shape=(),
                initializer="zeros",
                dtype="int64",
                trainable=False,
                name="updates",
                aggregation="only_first_replica",
            )

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's answer, rounded."""
        # Calibration tells a mask's numbers by how far they are, scaled down or not.
        if self._is_masked and not is_observed():
            args, kwargs = nearer((args, kwargs))
        if self.input_ranges:
            ranges = iter(self.input_ranges)
            args = _each(args, self.inputs_config, lambda x: next(ranges)(self._real(x)))
            if is_exporting() and does(self.layer, "concatenation"):
                # The rounded parts of a whole as operations of their own, in the whole's range.
                args = _each(args, self.inputs_config, by_one)
        if is_exporting() and self.output_ranges and kinds.computes_in_one_range(self.layer, args):
            args = keras.tree.map_structure(lambda x: self.output_ranges[0](by_one(x)), args)
        if is_exporting() and self.output_ranges and kinds.fills(self.layer, kwargs):
            # LiteRT fills up in the input's range: it has to be the output's.
            args = (self.output_ranges[0](by_one(args[0])), *args[1:])
        y = self._answer(*args, **kwargs)
        if self.own_activation is not None:
            before, *inside = self.between[twins.ranges_inside(self.layer) :]
            y = activations.in_parts(self.own_activation, before(y), inside)
        own = iter(self.output_ranges)
        y = _each(y, self.outputs_config, lambda x: next(own)(x))
        return keras.tree.map_structure(by_one, y) if self.requantized and is_exporting() else y

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        name = activations.of_layer(self.layer)
        if activations.stands_alone(self.layer) and name:
            alpha = getattr(self.layer, "alpha", 1.0)
            return activations.in_parts(name, args[0], self.between, alpha)
        if normalizations.ranges_inside(self.layer) and self.between:
            return normalizations.in_parts(self.layer, args[0], self.between, scaled)
        if twins.has_twin(self.layer):
            with self._swapped(self.treated_weights()):
                return twins.computed(self.layer, self.entered(args)[0], self.between)
        if self.between and self.own_activation is None:
            return self._merged(*args)
        if is_exporting() and self.output_ranges and kinds.is_mean(self.layer, args):
            return tf.reduce_mean(args[0], range(1, len(args[0].shape) - 1), keepdims=True)
        if (read := means.range_read(self, _ranges_of)) is not None:
            return means.to_steps(self.layer, args[0], *read)
        if is_exporting() and self.affine:
            found = coefficients(self.layer, args[0].shape[-1])
            return as_depthwise(args[0], *(nearer(found) if self._is_masked else found))
        if is_exporting() and _is_folded(self.layer):
            return as_constants(args[0], self.layer)
        y = self.unrounded(*args, **kwargs)
        return y if self.adds is None else self.added(y, keras.tree.flatten(args))

    def unrounded(self, *args: Any, **kwargs: Any) -> Any:
        """The answer of the layer and what is folded into it, past its ranges."""
        if self.freeze_after is not None and kwargs.get("training"):
            y = tf.cond(
                self.updates.value < self.freeze_after,
                lambda: super(Quantized, self).call(*args, **kwargs),
                lambda: super(Quantized, self).call(*args, **{**kwargs, "training": False}),
            )
        else:
            y = super().call(*args, **kwargs)
        if self.behind is None:
            return y
        return as_constants(y, inner(self.behind)) if is_exporting() else self.behind(y)

    def _gain(self) -> Any:
        """What the file's kernel is a multiple of this layer's by, as the kernel broadcasts."""
        found = tf.ones([])
        if self.behind is not None:
            norm = inner(self.behind)
            found = in_graph(norm, norm.moving_mean.shape[-1])[0]
        if self.front_gain is None:
            return found
        shape = [1, 1]
        shape[forward.input_axis(self.layer)] = -1
        return found * tf.reshape(self.front_gain.value, shape)

    def follow_front(self) -> None:
        """Takes over what the layers in front, in the graph of the first call, scale by now."""
        if self.front_gain is not None:
            self.front_gain.assign(forward.gain(self, self.front, self.front_gain.shape[0]))

    def _merged(self, tensors: Sequence[Any]) -> Any:
        """A merge of three tensors or more, a pair at a time as the file does it."""
        combine = next((c for kind, c in _COMBINED if isinstance(self.layer, kind)), tf.add)
        total, *rest = tensors
        for number, tensor in enumerate(rest):
            total = combine(total, tensor)
            if number < len(self.between):
                total = self.between[number](total)
        if isinstance(self.layer, keras.layers.Average):
            total = total / len(tensors)
        return total

    @property
    def _is_masked(self) -> bool:
        return any(isinstance(one, MaskedRange) for one in self.output_ranges)

    def _real(self, x: Any) -> Any:
        """Whole numbers that are to be rounded to a range, as real ones."""
        return x if x.dtype.is_floating else tf.cast(x, self.compute_dtype)

    def after_update(self, iterations: Any) -> None:
        """Also counts the updates for `freeze_after`."""
        super().after_update(iterations)
        if self.freeze_after is not None:
            self.updates.assign(tf.cast(iterations, "int64"))
        if self.behind is not None:
            notify(self.behind, iterations)
        self.follow_front()

    def stripped(self) -> Any:
        """The user's layer, its activation back in it, its weights on the grid.

        Where a BatchNormalization is part of it, what calls both.
        """
        layer = super().stripped()
        if self.own_activation is not None:
            layer.activation = keras.activations.get(self.own_activation)
        if self.behind is None:
            return layer
        norm = inner(self.behind)
        return lambda *args, **kwargs: norm(layer(*args, **kwargs))

    def ranges(self) -> Iterator[Range]:
        """Its ranges, inner ones first."""
        yield from self.input_ranges
        yield from self.between
        yield from self.output_ranges

    def _ranges(self, name: str, wanted: Sequence[Any]) -> list[Range]:
        numbered = enumerate(wanted)
        return [self._range_of(one, f"{name}_{n}") for n, one in numbered if one is not False]

    def _range_of(self, wanted: Any, name: str) -> Range:
        if isinstance(wanted, str):
            return MaskedRange(wanted, name=name)
        if wanted is True and self.learned_ranges:
            return LearnedRange(name=name, trainable=self.trainable)
        return Range(fixed=None if wanted is True else wanted, name=name)

    def get_config(self) -> dict[str, Any]:
        """As `Compressed`, and which outputs have ranges."""
        return {
            **super().get_config(),
            "activation": self.own_activation,
            "outputs": list(self.outputs_config),
            "between": len(self.between),
            "affine": self.affine,
            "behind": keras.saving.serialize_keras_object(self.behind),
            "front": self.front,
            "requantized": self.requantized,
            "inputs": self.inputs_config,
            "freeze_after": self.freeze_after,
            "learned_ranges": self.learned_ranges,
        }

    @staticmethod
    def revived(config: dict[str, Any], custom_objects: Any = None) -> dict[str, Any]:
        """As `Compressed`, with what is folded into the layer."""

        norm = config.get("behind")
        norm = None if norm is None else keras.saving.deserialize_keras_object(norm, custom_objects)
        return Compressed.revived(config, custom_objects) | {"behind": norm}


def _is_folded(layer: Any) -> bool:
    """Whether the file makes a layer part of the kernel before it, where it is no operation."""
    return isinstance(layer, keras.layers.BatchNormalization) and is_affine(layer)


def _ranges_of(operation: Any) -> list[Range]:
    return operation.output_ranges if isinstance(operation, Quantized) else []


def _each(tensors: Any, wanted: Sequence[Any], change: Callable[[Any], Any]) -> Any:
    """The tensors, changed where one is wanted: those beyond the list, or of False, are not."""
    flat = keras.tree.flatten(tensors)
    pairs = itertools.zip_longest(flat, wanted[: len(flat)], fillvalue=False)
    changed = [x if want is False else change(x) for x, want in pairs]
    return keras.tree.pack_sequence_as(tensors, changed)


@keras.saving.register_keras_serializable("keras_distill")
class QuantizedInput(Quantized):
    """The range of a model's input, as a layer behind it that `strip` takes away."""

    is_added = True

    def stripped(self) -> Any:
        """What hands its input on."""
        return handed_on


def handed_on(x: Any, **_: Any) -> Any:
    """What it is given, in the place of a layer that takes more."""
    return x
