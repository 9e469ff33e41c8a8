"""What an object was made with, read from its own signature."""

import functools
import inspect
from typing import Any

__all__ = ["kept_arguments", "names_of_arguments"]


def kept_arguments(made: Any) -> dict[str, Any]:
    """The arguments of `made`, as they are now, of those that it keeps under their names."""
    names = names_of_arguments(made)
    return {name: value for name, value in vars(made).items() if name in names}


def names_of_arguments(made: Any) -> frozenset[str]:
    """Names of the arguments of an object's class, and of those to which that hands on the rest.

    >>> from keras_distill.schedules import Linear
    >>> sorted(names_of_arguments(Linear(1.0, 2.0, steps=5)))
    ['begin', 'end', 'start', 'steps']
    """
    kind: Any = type(made)  # which mypy would not take for hashable
    return _names(kind)


@functools.cache
def _names(kind: Any) -> frozenset[str]:
    names: set[str] = set()
    for init in [vars(cls)["__init__"] for cls in kind.__mro__ if "__init__" in vars(cls)]:
        _, *parameters = inspect.signature(init).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return frozenset(names)
