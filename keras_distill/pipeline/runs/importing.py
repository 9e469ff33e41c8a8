"""What a recipe names as `module:function`: found only in modules that the user has imported."""

import sys
from collections.abc import Collection
from typing import Any

from keras_distill.training.stages import UsageError

__all__ = ["imported"]


def imported(name: str, key: str, allowed: Collection[str]) -> Any:
    """The object behind `module:function`.

    Args:
      name: see above.
      key: of the recipe, for the errors.
      allowed: the modules that `--import` named, which have been imported.

    Raises:
      UsageError: the module is not among these, or has no such function.
    """
    module, _, function = name.partition(":")
    if module not in allowed:
        raise UsageError(
            f"{key}: {name} runs Python of yours, which a recipe alone may not: add "
            f"--import {module}."
        )
    found: Any = sys.modules[module]
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{key}: {module} has no function {function}.")
    return found
