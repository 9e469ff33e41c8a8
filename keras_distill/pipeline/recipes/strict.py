"""What every part of a recipe has in common: no unknown key, no silent conversion, no change."""

from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

__all__ = ["Name", "RecipeError", "Strict"]

# A name becomes a folder's: nothing that a file system could read as a path.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,60}$")]


class Strict(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )


class RecipeError(ValueError):
    """What is wrong with one key, of what each key alone does not show.

    Args:
      path: the keys that lead to it.
      words: what is wrong.
      allowed: what was given, and what could have been, for the nearest spelling.
    """

    def __init__(
        self,
        path: tuple[str | int, ...],
        words: str,
        allowed: tuple[str, Collection[str]] | None = None,
    ) -> None:
        super().__init__(words)
        self.path, self.allowed = path, allowed
