"""What counts as one number: Python's, NumPy's, the backend's, and a variable's."""

import numbers
from typing import Any

import keras
import numpy as np

__all__ = ["constant", "is_variable", "read_once"]


def is_variable(value: Any) -> bool:
    """Whether it is a scalar variable, Keras' or the backend's, whose value may change."""
    variable = isinstance(value, keras.Variable) or (
        keras.ops.is_tensor(value) and hasattr(value, "assign")
    )
    return variable and tuple(value.shape) == ()


def constant(value: Any) -> float | None:
    """The number that a scalar is now; None for whatever is no real number."""
    if isinstance(value, numbers.Real):
        return float(value)
    if not (is_variable(value) or isinstance(value, np.ndarray) or keras.ops.is_tensor(value)):
        return None
    try:
        return float(value) if tuple(value.shape) == () else None
    except (TypeError, ValueError):  # a complex number, a text, a tensor without a value
        return None


def read_once(owner: str, name: str, value: Any) -> float:
    """`value` as Python's float.

    Args:
      owner: who asks, for the message.
      name: of the argument.
      value: a scalar that is no variable.

    Raises:
      ValueError: anything else.
    """
    if is_variable(value):
        raise ValueError(
            f"{owner}: {name} is read once, and would not follow the variable. Give a number."
        )
    number = constant(value)
    if number is None:
        raise ValueError(f"{owner}: {name} must be a number; got {value!r}.")
    return number
