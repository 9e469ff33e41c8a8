"""What may be asked of an export; each check raises a ValueError that says the mend."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_distill._pages import see
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.interface import Interface
from keras_distill.edge.quantize.weights import check_scales, grids_of
from keras_distill.graph.traits import does
from keras_distill.litert.converter import CALIBRATED, PRECISIONS

__all__ = [
    "check_exact_inputs",
    "check_input_type",
    "check_label_count",
    "check_options",
    "scales_of_dense",
]


def check_options(
    precision: str, representative_data: Any, input_type: str | None, batch_size: int | None
) -> None:
    """Refuses options that do not go together."""
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision to be one of {PRECISIONS}; got {precision!r}.")
    if precision not in CALIBRATED and representative_data is not None:
        raise ValueError(
            f"representative_data is used only at {CALIBRATED}; precision is {precision!r}."
        )
    if input_type not in (None, "int8", "uint8"):
        raise ValueError(f"Expected input_type None, 'int8' or 'uint8'; got {input_type!r}.")
    if input_type is not None and precision != "int8":
        raise ValueError(f"input_type={input_type!r} needs precision='int8'; got {precision!r}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"Expected batch_size of 1 or more, or None; got {batch_size!r}.")


def scales_of_dense(dense_scales: str, precision: str, model: Analysis) -> str:
    """The scales of the file's Dense kernels: as asked, or as the model has been trained with.

    Raises:
      ValueError: scales that the file can't have.
    """
    check_scales(dense_scales)
    if dense_scales == "tensor" and precision != "int8":
        raise ValueError(f"dense_scales='tensor' needs precision='int8'; got {precision!r}.")
    if not model.has_ranges:
        return dense_scales
    grids = [g for one in model.layers if _is_dense(one) for g in grids_of(one).values()]
    if dense_scales == "tensor" and any(grid.channel_axes for grid in grids):
        raise ValueError(
            f"{model.model.name!r} is quantised with a scale for each channel, which "
            f"dense_scales='tensor' would change. Quantise it so, quantize_aware(..., "
            f"dense_scales='tensor'), or export kd.edge.strip(model) with representative_data=."
        )
    one_each = bool(grids) and not any(grid.channel_axes for grid in grids)
    return "tensor" if one_each and precision == "int8" else "channel"


def _is_dense(layer: Any) -> bool:
    return isinstance(layer, Compressed) and does(layer.layer, "dense")


def check_exact_inputs(input_type: str | None, model: Analysis) -> None:
    """Refuses to round inputs that stand for something exact."""
    if input_type is not None and model.exact_inputs:
        raise ValueError(
            f"input_type={input_type!r} rounds inputs to 256 steps, and the inputs "
            f"{list(model.exact_inputs)} are ids, categories or marks, or columns of unlike units. "
            f'Leave input_type out, or give ids a whole dtype: keras.Input(shape, dtype="int32"), '
            f"and normalise columns before the model.{see('exact')}"
        )


def check_input_type(input_type: str | None, interface: Interface) -> None:
    """Refuses integers for inputs that are whole numbers already."""
    kinds = {name: spec.dtype.name for name, spec in interface.specs.items()}
    if input_type is not None and not any("float" in kind for kind in kinds.values()):
        raise ValueError(
            f"input_type={input_type!r} quantises inputs of real numbers; this model's are whole "
            f"numbers already: {kinds}. Leave input_type out."
        )


def check_label_count(labels: tuple[str, ...] | None, outputs: dict[str, tf.TensorSpec]) -> None:
    """Refuses labels that no output has classes for."""
    if labels is None:
        return
    classes = {name: spec.shape[-1] for name, spec in outputs.items() if spec.shape.rank}
    if len(labels) not in classes.values():
        raise ValueError(
            f"Expected a label for each class of an output, of sizes {classes}; "
            f"got {len(labels)} labels."
        )
