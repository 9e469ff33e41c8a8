"""What a recipe names as `module:function`: imported only where the user has said so."""

import importlib
from collections.abc import Collection
from typing import Any

from keras_distill.pipeline.inputs import one_line
from keras_distill.training.stages import UsageError

__all__ = ["imported"]


def imported(name: str, key: str, allowed: Collection[str]) -> Any:
    """The object behind `module:function`.

    Args:
      name: see above.
      key: of the recipe, for the errors.
      allowed: the modules that may run, as `--import` names them.

    Raises:
      UsageError: the module is not among these, fails, or has no such function.
    """
    module, _, function = name.partition(":")
    if module not in allowed:
        raise UsageError(
            f"{key}: {name} runs Python of yours, which a recipe alone may not: add "
            f"--import {module}."
        )
    try:
        found: Any = importlib.import_module(module)
    # A module runs what it likes, and so raises what it likes.
    except Exception as error:
        raise UsageError(
            f"{key}: {module} can't be imported: {type(error).__name__}: {one_line(error)}"
        ) from error
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{key}: {module} has no function {function}.")
    return found
