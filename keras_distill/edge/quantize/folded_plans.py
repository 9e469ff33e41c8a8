"""Plans in which scales and shifts fold forward, where the integers lose nothing by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from keras_distill.edge.analysis import Analysis
from keras_distill.edge.quantize import kinds
from keras_distill.edge.quantize.forward import Folding, foldings, input_axis, is_even
from keras_distill.edge.quantize.plans import Plan
from keras_distill.graph.copying import weight_at
from keras_distill.graph.replay import Step
from keras_distill.graph.traits import traits_of
from keras_distill.graph.wrapping import inner

__all__ = ["pays", "planned"]

# A BatchNormalization's values, and a Normalization's, lie within so many deviations.
_SPAN = 4.0


def planned(
    model: Analysis, plans: Mapping[str, Plan], weight_bits: Mapping[str, int], learned_steps: bool
) -> dict[str, Plan]:
    """The plans with what folds forward, where int8 loses nothing by it.

    Args:
      model, plans: it and its plans, by path.
      weight_bits: by the paths of those that have others than 8.
      learned_steps: as `quantize_aware` has it.
    """

    def able(step: Step) -> bool:
        plan = plans[step.path]
        bare = plan.affine and plan.outputs == (True,) and not plan.inputs
        return bare and plan.how == "rewritten" and _reads_a_range(model, plans, step)

    def takes(one: Folding) -> bool:
        plan = plans[one.reader.path]
        if not plan.weights:
            return plan.affine and plan.how == "rewritten" and not plan.inputs
        if learned_steps:
            return is_even(one)
        return pays(one, weight_bits.get(plan.path, 8), one_scale=not all(plan.weights.values()))

    found = dict(plans)
    for one in foldings(model.graph, able, takes):
        path = one.reader.path
        found[path] = replace(found[path], front=len(one.steps))
        for step in one.steps:
            of = "weights" if found[path].weights else "scale"
            found[step.path] = replace(
                found[step.path],
                how="native",
                why=f"folded into the {of} of {path!r} behind it",
                affine=False,
                outputs=(False,),
            )
    return found


def pays(one: Folding, bits: int = 8, *, one_scale: bool = False) -> bool:
    """Whether integers lose nothing where a kernel takes scales and shifts up.

    The tensor between is rounded no more, but an output's one scale has to serve input channels of
    other sizes, whose weights are rounded more coarsely. Of the output's variance, but for 1 / 12,
    with scales s, weights w, tensors y = s x + t of mean m and deviation d:

        kernel as it is     sum_o (max_i |w_io| / most)^2 * sum_i (m_i^2 + d_i^2)
        kernel times s      sum_o (max_i |w_io s_i| / most)^2 * sum_i (m_i^2 + d_i^2) / s_i^2
        the tensor between  (span of all m_i -+ 4 d_i / 255)^2 * sum w^2

    It pays where the second is no more than the others together. Kernels with filters of their own
    for each input channel lose nothing.

    Args:
      one: of a layer with a kernel.
      bits: of the kernel.
      one_scale: for the whole kernel, in place of one for each output.
    """
    scale, _ = one.coefficients()
    if is_even(one):
        return True
    if np.any(scale == 0.0):
        return False
    layer = inner(one.reader.operation)
    ((name, made),) = traits_of(layer).kernels.items()
    kernel = np.abs(np.asarray(weight_at(layer, name), "float64"))
    by_input = np.moveaxis(kernel, input_axis(layer), 0)
    weights = by_input.reshape(one.width, -1, kernel.shape[made])
    mean, deviation = one.expected()
    power, most = mean**2 + deviation**2, 2.0 ** (bits - 1) - 1.0

    def rounding(of: np.ndarray, read: np.ndarray) -> float:
        largest = of.max(axis=(0, 1))
        largest = np.full_like(largest, largest.max()) if one_scale else largest
        return float(weights.shape[1] * np.sum(largest**2) * np.sum(read) / most**2)

    low, high = (mean - _SPAN * deviation).min(), (mean + _SPAN * deviation).max()
    step = (max(high, 0.0) - min(low, 0.0)) / 255.0
    saved = float(step**2 * np.sum(weights**2))
    folded = rounding(weights * np.abs(scale)[:, None, None], power / scale.astype("float64") ** 2)
    return folded <= rounding(weights, power) + saved


def _reads_a_range(model: Analysis, plans: Mapping[str, Plan], step: Step) -> bool:
    """Whether what a step reads is rounded to a range, as no masked score."""
    (value,) = step.inputs
    if id(value) in model.exact or id(value) in model.scores:
        return False
    if value.step is None:
        return "float" in value.dtype
    maker = model.graph.steps[value.step]
    made = plans[maker.path]
    if made.how in ("skipped", "float", "no kernel", "inside float"):
        return False
    if kinds.keeps_range(maker):
        return not made.requantized and _reads_a_range(model, plans, maker)
    return bool(made.outputs) and all(wanted is not False for wanted in made.outputs)
