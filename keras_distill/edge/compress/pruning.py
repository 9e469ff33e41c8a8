"""Magnitude pruning of Keras 3 models, on a schedule that follows the optimiser's updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.compress import masks
from keras_distill.edge.compress.kernels import Kernel, Target, kernels, targets
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.model import CompressedModel, rebuild
from keras_distill.edge.compress.schedule import Schedule, from_tfmot, is_tfmots
from keras_distill.edge.compress.treatment import Treatment
from keras_distill.edge.interface import as_keras3, without_float16
from keras_distill.edge.quantize.layer import Quantized
from keras_distill.functional.tensors import Tensor

_DEFAULT_SPARSITY = 0.75
# A mask costs a sort of the weight; a quarter of a point of sparsity is worth one.
_WORTH_A_MASK = 0.0025


@keras.saving.register_keras_serializable("keras_distill")
class Mask(Treatment):
    """A weight of which the smallest numbers are zero; what is zero once stays zero.

    The layer and the gradient see the kept numbers only, and the variable itself is masked after
    every update, so that momentum cannot refill it and every checkpoint is as sparse as promised.
    The mask follows its schedule when that has moved by a quarter of a point, and at its end.

    Args:
      sparsity, begin_step, end_step, initial_sparsity, power, frequency: as `Schedule`.
      pattern, input_axes: as `masks.mask`.
    """

    def __init__(
        self,
        sparsity: float,
        begin_step: int = 0,
        end_step: int | None = None,
        pattern: Any = masks.UNSTRUCTURED,
        input_axes: Sequence[int] = (),
        *,
        initial_sparsity: float = 0.0,
        power: float = 3,
        frequency: int | None = None,
    ):
        self.schedule = Schedule(sparsity, begin_step, end_step, initial_sparsity, power, frequency)
        self.pattern = masks.checked_pattern(pattern)
        self.input_axes = tuple(input_axes)

    def build(self, owner: Any, variable: keras.Variable, prefix: str) -> None:
        """The mask, the sparsity it was made for, and the sparsity promised at this update."""
        prefix = prefix.replace("/", "_")
        # Without aggregation each replica sets its own copy, from equal weights: a branch of the
        # graph may not wait for the other replicas.
        self.kept = masks.add_to(owner, variable, prefix)
        self.reached, self.promised = (
            owner.add_weight(
                shape=(),
                initializer="zeros",
                dtype="float32",
                trainable=False,
                name=f"{prefix}_{name}",
            )
            for name in ("reached", "promised")
        )
        self.state = (self.kept, self.reached, self.promised)

    def hold_zeros(self, value: Tensor) -> None:
        """Keeps what is zero in `value` now, and no schedule; eagerly."""
        self.kept.assign(tf.convert_to_tensor(value) != 0)
        self.reached.assign(self.schedule.sparsity)
        self.promised.assign(self.schedule.sparsity)

    def __call__(self, value: Tensor) -> Tensor:
        value = tf.convert_to_tensor(value)
        # Not a product: -0.0 would cost the zipped file its runs of zeros.
        return tf.where(self.kept.value, value, tf.zeros_like(value))

    def constrain(self, value: Tensor) -> Tensor:
        """Zero where the mask is."""
        return self(value)

    def after_update(self, variable: keras.Variable, iterations: Tensor) -> None:
        """Renews mask and variable where the schedule asks for it."""
        # Never back: a new optimiser counts from 0 again, and what is gone is gone.
        promised = tf.maximum(self.schedule(_number(iterations)), self.promised.value)
        self.promised.assign(promised)
        reached = tf.convert_to_tensor(self.reached.value)
        at_end = promised >= self.schedule.sparsity
        worth = _WORTH_A_MASK if self.schedule.frequency is None else 0.0
        due = (reached < promised) & (at_end | (promised - reached >= worth))
        tf.cond(due, lambda: self._renew(variable, promised), lambda: tf.constant(False))

    def _renew(self, variable: keras.Variable, sparsity: float | Tensor) -> Tensor:
        value = self(variable.value)
        self.kept.assign(masks.mask(value, sparsity, self.pattern, self.input_axes))
        self.reached.assign(sparsity)
        variable.assign(self(value))
        return tf.constant(True)

    def get_config(self) -> dict[str, Any]:
        """The schedule, the pattern and the axes."""
        pattern = self.pattern
        return {
            **dataclasses.asdict(self.schedule),
            "pattern": pattern if isinstance(pattern, str) else list(pattern),
            "input_axes": list(self.input_axes),
        }


def prune(
    model: Any,
    sparsity: Any = None,
    *,
    pattern: Any = masks.UNSTRUCTURED,
    begin_step: int = 0,
    end_step: int | None = None,
    skip: Any = (),
) -> CompressedModel:
    """A copy of `model` whose kernels become and stay sparse while it is trained.

    Every kernel is pruned to the same share of zeros, its smallest numbers first: those of Dense,
    convolutions, recurrent cells, EinsumDense and embeddings; depthwise kernels and biases stay
    dense (`inspect` lists what is taken). `fit` the copy alone or in a `Distiller`: there is no
    callback to remember, and the zeros hold after every update. Embedded in a training loop of
    your own, call `pruned.after_update(optimizer.iterations)` once an update.

    Args:
      model: a built Functional or Sequential model of Keras 3, nested models included; or one of
        tf_keras. It is not changed.
      sparsity: the final share of zeros in each kernel, in [0, 1). None means 0.75, and 0.5 for
        "2:4", which knows no other. Or one of TFMOT's schedules, `PolynomialDecay` or
        `ConstantSparsity`, instead of `begin_step` and `end_step`; update 0 is the first it has.
      pattern: "unstructured"; "2:4", two of every four consecutive input channels; or a block
        (rows, columns) of the matrix with inputs as rows (height * width * channels of a
        convolution) and outputs as columns, judged by its mean magnitude.
      begin_step: updates of the optimiser before the first zero. With 0 and no `end_step` the copy
        is sparse when it is returned.
      end_step: the sparsity grows by a cubic from 0 at `begin_step` to its final value here; None
        for all at once. One epoch or two of a trained model's fine-tuning serve well.
      skip: layers to leave dense: names, paths, regular expressions, classes or layers; "first"
        and "last" stand for the first and the last layer with a kernel.

    Returns:
      A `CompressedModel` with the same layer names.

    Raises:
      TypeError, ValueError: not a model, subclassed or not built; pruned, clustered or quantised
        already; a sparsity outside [0, 1), steps below 0 or in the wrong order; a pattern that
        does not divide a kernel; `skip` names no layer or leaves none.

    Source: Zhu and Gupta 2017, "To prune, or not to prune"; the schedules and masks of TFMOT.

    Example:
      sparse = prune(student, 0.8, end_step=1000, skip=("first", "last"))
      distiller = kd.Distiller(sparse, teacher)
    """
    pattern = masks.checked_pattern(pattern)
    schedule = _schedule(sparsity, begin_step, end_step, pattern)
    if pattern == masks.TWO_OF_FOUR and not schedule.at_once:
        raise ValueError(
            'pattern="2:4" comes at once: two of four are zero or they are not. Leave end_step '
            "out; begin_step says when."
        )
    model = as_keras3(model)
    chosen = targets(model, skip, _check_prunable, "prune")
    _check_pattern(chosen.values(), pattern)

    def substitute(path: str, layer: Any) -> Any:
        if path not in chosen:
            return layer
        wrapped = _masked(layer, schedule, pattern)
        wrapped.after_update(0)
        return wrapped

    return rebuild(without_float16(model), substitute)


def prunable_weights(operation: Any) -> dict[str, Kernel]:
    """The weights of a layer that `prune` takes, by their paths inside it."""
    return kernels(operation)


def _masked(layer: Any, schedule: Schedule, pattern: masks.Pattern) -> Compressed:
    given = dataclasses.asdict(schedule)
    treatments = {
        path: [Mask(**given, pattern=pattern, input_axes=kernel.input_axes)]
        for path, kernel in kernels(layer).items()
    }
    return Compressed(layer, treatments, trainable=layer.trainable)


def _schedule(
    asked: Any, begin_step: int, end_step: int | None, pattern: masks.Pattern
) -> Schedule:
    if is_tfmots(asked):
        if begin_step != 0 or end_step is not None:
            raise ValueError(
                f"{type(asked).__name__} has its own steps. Expected none beside it; got "
                f"begin_step={begin_step!r}, end_step={end_step!r}."
            )
        schedule = from_tfmot(asked)
    else:
        if asked is None:
            asked = 0.5 if pattern == masks.TWO_OF_FOUR else _DEFAULT_SPARSITY
        schedule = Schedule(asked, begin_step, end_step)
    if pattern == masks.TWO_OF_FOUR and schedule.sparsity != 0.5:
        raise ValueError(
            f'pattern="2:4" is half zeros and takes no other sparsity; got {asked!r}. Leave it '
            f'out, or prune to that sparsity with pattern="unstructured" or a block.'
        )
    return schedule


def _check_prunable(path: str, operation: Any) -> None:
    if not isinstance(operation, Compressed):
        return
    if isinstance(operation, Quantized):
        raise ValueError(
            f"The layer {path!r} is quantised: its zeros would be lost in new ranges. Prune first, "
            f"then quantize_aware(pruned); or take the wrappers off with kd.edge.strip(model)."
        )
    kinds = {type(one) for chain in operation.treatments.values() for one in chain}
    if Mask in kinds:
        raise ValueError(
            f"The layer {path!r} is pruned already. Train on with the model as it is, or "
            f"prune(kd.edge.strip(model), ...) to prune it further."
        )
    raise ValueError(
        f"The layer {path!r} is compressed already ({', '.join(k.__name__ for k in kinds)}). Prune "
        f"first, then cluster(pruned); or prune(kd.edge.strip(model), ...)."
    )


def _check_pattern(chosen: Iterable[Target], pattern: masks.Pattern) -> None:
    wrong: dict[str, str] = {}
    for target in chosen:
        for name, kernel in target.kernels.items():
            shape = tuple(kernel.variable.shape)
            if why := masks.misfit(shape, kernel.input_axes, pattern):
                wrong.setdefault(target.path, f"{target.path!r} ({name} {shape}): {why}")
    if wrong:
        listed = "\n  ".join(wrong.values())
        raise ValueError(
            f"pattern={pattern!r} does not divide {len(wrong)} layer(s):\n  {listed}\n"
            f"Leave them dense with skip={tuple(wrong)!r}, or take another pattern."
        )


def _number(iterations: Tensor) -> Any:
    return tf.convert_to_tensor(getattr(iterations, "value", iterations))
