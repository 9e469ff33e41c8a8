"""One scale a Dense kernel, and the BatchNormalization behind it as part of its layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import keras

from keras_distill.edge.quantize.plans import Plan
from keras_distill.graph.replay import Graph, Step
from keras_distill.graph.traits import does

__all__ = ["of_one_scale"]


def of_one_scale(graph: Graph, plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """The plans with one scale for each Dense kernel.

    A BatchNormalization behind one becomes part of its layer: the scale is that of their product.

    Raises:
      ValueError: such a pair that can't be one layer.
    """
    found = dict(plans)
    calls = Counter(id(step.operation) for step in graph.steps)
    for step in graph.steps:
        plan = found[step.path]
        if not does(step.operation, "dense") or not plan.weights:
            continue
        found[step.path] = plan = replace(plan, weights=dict.fromkeys(plan.weights, ()))
        if (norm := _norm_behind(graph, step, found)) is None:
            continue
        if max(calls[id(one.operation)] for one in (step, norm)) > 1 or not _may_join(step, norm):
            raise ValueError(
                f"dense_scales='tensor' makes one layer of {step.path!r} and {norm.path!r}; for it "
                f"both have to be called once, in the same model, and be equally trainable. Leave "
                f"dense_scales out."
            )
        outputs = found[norm.path].outputs
        found[step.path] = replace(plan, behind=norm.path, outputs=outputs)
        why = f"part of the weights of {step.path!r}"
        found[norm.path] = Plan(norm.path, found[norm.path].type, "native", why, goes=step.path)
    return found


def _norm_behind(graph: Graph, step: Step, plans: Mapping[str, Plan]) -> Step | None:
    """The BatchNormalization that the file makes part of a step."""
    readers = graph.consumers(step.outputs[0])
    if plans[step.path].outputs != (False,) or len(readers) != 1:
        return None
    (reader,) = readers
    plan = plans[reader.path]
    is_norm = isinstance(reader.operation, keras.layers.BatchNormalization)
    return reader if is_norm and plan.outputs and not plan.affine else None


def _may_join(step: Step, norm: Step) -> bool:
    """Whether two layers may stand in one place of one model."""
    beside = step.path.rpartition("/")[0] == norm.path.rpartition("/")[0]
    masked = norm.kwargs.get("mask") is not None
    return beside and not masked and step.operation.trainable == norm.operation.trainable
