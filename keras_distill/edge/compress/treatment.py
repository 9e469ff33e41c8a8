"""What happens to a weight on its way from the variable to the layer that uses it."""

from __future__ import annotations

import abc
from typing import Any

from keras_distill.functional.tensors import Tensor


class Treatment(abc.ABC):
    """One compression of one weight: a mask, shared values, a quantisation grid.

    A `Compressed` layer applies its treatments in order at every call, so that the layer computes
    with what the deployed file will hold, while the optimiser moves the variable underneath.
    """

    # The variables that `build` made.
    state: tuple[Any, ...] = ()

    def build(self, owner: Any, variable: Any, prefix: str) -> None:
        """Makes the treatment's own state, as weights of `owner` whose names begin with `prefix`.

        Args:
          owner: the `Compressed` layer; `owner.add_weight` makes tracked variables.
          variable: the Keras variable that is treated, with its value.
        """
        return None

    @abc.abstractmethod
    def __call__(self, value: Tensor) -> Tensor:
        """The weight that the layer sees; differentiable with respect to `value`."""

    def constrain(self, value: Tensor) -> Tensor:
        """What the variable is set to after each update of the optimiser."""
        return value

    def after_update(self, variable: Any, iterations: Tensor) -> None:
        """Follows the optimiser's step counter; graph-side, once an update."""
        return None

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """What `__init__` takes, in JSON's types."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Treatment:
        """The treatment of a saved model; its state comes with the weights."""
        return cls(**config)
