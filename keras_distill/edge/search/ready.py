"""Whether a sensitivity that was measured before belongs to what is searched now."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_distill.edge.interface import as_keras3
from keras_distill.edge.search.measured import Measured
from keras_distill.edge.search.sensitivity import Sensitivity, weights_sha256

__all__ = ["check_model", "check_settings"]

# Sums in another order change the last digits.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-6
_MEND = "Leave sensitivity out, or measure it anew: sensitivity(model, data, ...)."


def check_model(found: Any, model: keras.Model) -> None:
    """Refuses what is no sensitivity, or that of another model or other weights.

    Raises:
      TypeError, ValueError: so.
    """
    if not isinstance(found, Sensitivity):
        raise TypeError(
            f"Expected sensitivity as a kd.edge.Sensitivity, from kd.edge.sensitivity or an "
            f"earlier search; got {type(found).__name__}."
        )
    if found.weights_sha256 != weights_sha256(as_keras3(model)):
        raise ValueError(
            f"The sensitivity is that of another model, {found.model!r}, or was measured before "
            f"the weights of {model.name!r} changed. {_MEND}"
        )


def check_settings(found: Sensitivity, measured: Measured) -> None:
    """Refuses a sensitivity of other outputs, of another teacher or of other rows.

    Raises:
      ValueError: so.
    """
    # What has no kernel is not chosen for, and Keras counts the names of inputs.
    layers = [row.path for row in found.rows if row.weights]
    known = [path for path, kernels in measured.rounded.kernels.items() if kernels]
    if layers != known:
        raise ValueError(
            f"The sensitivity is that of another model, whose kernels are those of "
            f"{', '.join(layers)}; here they are those of {', '.join(known)}. {_MEND}"
        )
    kinds = {output.name: output.kind for output in measured.outputs}
    if found.outputs != kinds:
        raise ValueError(
            f"The sensitivity was measured with the outputs {found.outputs}; here they are "
            f"{kinds}. {_MEND}"
        )
    if found.examples != measured.examples:
        raise ValueError(
            f"The sensitivity was measured on {found.examples:,} examples; here are "
            f"{measured.examples:,}. {_MEND}"
        )
    apart = measured.divergence(measured.answers({}))
    if not math.isclose(found.float_divergence, apart, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE):
        raise ValueError(
            f"The sensitivity was measured beside another teacher or on other rows: there the "
            f"float model's divergence was {found.float_divergence:.3e}, here it is {apart:.3e}. "
            f"{_MEND}"
        )
